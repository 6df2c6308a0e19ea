"""Both towers of CLIP under open_clip's names, against features recorded from open_clip itself."""

import functools
import json

import jax
import numpy as np
import pytest

from simclr_jax import base, models
from simclr_jax.interop import detect, foreign, open_clip_layouts, variables
from simclr_jax.methods import clip
from tests import golden
from tests.golden import record_encoders, record_open_clip

NAMES = ("vit", "vit_quick", "resnet")


@functools.cache
def recorded():
    return golden.load("open_clip")


@functools.cache
def state_of(name: str) -> dict[str, np.ndarray]:
    """The state dict of a recorded network; a formula gives its weights."""
    shapes = {key: tuple(shape) for key, shape in json.loads(str(recorded()[f"{name}/shapes"])).items()}
    return {key: np.asarray(value) for key, value in record_encoders.weights_of(shapes).items()}


def write(folder, state, *, quick_gelu: bool):
    variables.save(folder / "open_clip_model.safetensors", state)
    config = {"model_cfg": {"quick_gelu": quick_gelu, "text_cfg": {"heads": 1}}}
    (folder / open_clip_layouts.CONFIG).write_text(json.dumps(config))
    return folder / "open_clip_model.safetensors"


@pytest.mark.few(1)
@pytest.mark.parametrize("name", NAMES)
def test_features_of_pictures_and_texts_are_open_clips(name, tmp_path, compare):
    read = foreign.read(write(tmp_path, state_of(name), quick_gelu=name.endswith("quick")))
    found = detect.find_architecture(read.by_name, padding=read.padding)
    assert found.encoder["name"] == ("clip_resnet50" if name == "resnet" else "vit_tiny")
    assert read.mean == open_clip_layouts.MEAN
    encoder = models.make_encoder(**{**found.encoder, **read.encoder})
    table = read.by_name["text_encoder/token_embedding"]
    tower = models.make_text_tower(
        vocab_size=len(table), length=record_open_clip.LENGTH, width=table.shape[1], num_layers=2, **read.text
    )
    params, batch_stats = variables.unflatten(read.by_name)

    @jax.jit
    def run(params, images, tokens):
        trees = {"params": params["encoder"], "batch_stats": batch_stats.get("encoder", {})}
        h = encoder.apply(trees, images, train=False)
        of_text = tower.apply({"params": params["text_encoder"]}, tokens)
        return clip.project(h, params["image_projection"]), clip.project(of_text, params["text_projection"])

    images = record_encoders.images(record_open_clip.SIDES[name])
    for way, ours in zip(("image", "text"), run(params, images, record_open_clip.tokens()), strict=True):
        theirs = recorded()[f"{name}/{way}"]
        compare(f"CLIP {name}, {way}", ours, theirs, limit=1e-4, of="of largest entry", source="open_clip")


@pytest.mark.parametrize("name", NAMES[1:])
def test_weights_are_written_back_as_they_were(name, tmp_path):
    by_name = foreign.read(write(tmp_path, state_of(name), quick_gelu=False)).by_name
    back, state = open_clip_layouts.to_open_clip(by_name), state_of(name)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in state.items()}
    assert all(np.array_equal(back[key], value) for key, value in state.items())
    told = open_clip_layouts.model_config(by_name, text_num_heads=1, is_quick=False)["model_cfg"]
    vision = record_open_clip.VISION[name.partition("_")[0]]
    assert told["embed_dim"] == 16 and {key: told["vision_cfg"][key] for key in vision} == vision
    with pytest.raises(base.InputError, match="no place for encoder/register"):
        open_clip_layouts.to_open_clip({**by_name, "encoder/register": np.zeros(3)})


def test_files_of_openai_have_their_activation_unless_another_is_asked_for(tmp_path):
    state = {**state_of("vit"), "input_resolution": np.asarray(32), "context_length": np.asarray(12)}
    path = tmp_path / "clip.safetensors"
    variables.save(path, {f"module.{key}": value for key, value in {**state, "vocab_size": np.asarray(50)}.items()})
    read = foreign.read(path)
    assert (read.encoder["design"], read.text) == ("openai", {"num_heads": 1, "activation": "quick_gelu"})
    asked = foreign.read(path, activation="gelu")
    assert (asked.encoder["design"], asked.text["activation"]) == ("clip", "gelu")


def test_an_incomplete_clip_and_an_activation_of_another_network_are_refused(tmp_path):
    state = {key: value for key, value in state_of("vit").items() if key != "ln_final.bias"}
    with pytest.raises(base.InputError, match=r"1 missing \(ln_final.bias\)"):
        foreign.read(write(tmp_path, state, quick_gelu=False))
    variables.save(tmp_path / "ours.safetensors", {"encoder/stem/conv1/kernel": np.zeros((3, 3, 3, 4), np.float32)})
    with pytest.raises(base.InputError, match="--activation is for the weights of a CLIP"):
        foreign.read(tmp_path / "ours.safetensors", activation="gelu")
