"""The part of `simclr-jax convert` that is about the text tower of a CLIP: settings, shapes and tokenizer."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from simclr_jax import base, data, methods
from simclr_jax.interop import detect, foreign, variables
from simclr_jax.run import config as config_lib
from simclr_jax.run import loading


def sections(read: foreign.Foreign, config: Mapping[str, Any], *, tokenizer: str | None) -> dict[str, Any]:
    """The config's sections augment, method and text of the weights of a CLIP, with images of its own size."""
    table, positions = (read.by_name[f"text_encoder/{name}_embedding"] for name in ("token", "position"))
    depth = len({name.split("/")[1] for name in read.by_name if name.startswith("text_encoder/block")})
    tower = {"width": table.shape[1], "num_layers": depth, **read.text, "attention": "causal"}
    method = {
        "name": "clip",
        **{f"text_{name}": value for name, value in tower.items()},
        "proj_out_dim": read.by_name["text_projection/kernel"].shape[1],
        "objective": "siglip" if "logits/bias" in read.by_name else "clip",
        "loss_form": "auto",
    }
    text = {**config["text"], "tokenizer": tokenizer, "vocab_size": len(table), "length": len(positions)}
    augment = {**config["augment"], "image_size": loading.usual_size(config["encoder"])}
    return {"augment": augment, "method": method, "text": text}


def expected_shapes(encoder: nn.Module, config: Mapping[str, Any], found: detect.Architecture) -> dict[str, Any]:
    """Name -> shape of all variables of a CLIP with that encoder; of CLIP's ResNets the projection has a bias."""
    text = config["text"]
    settings = {key: value for key, value in config["method"].items() if key != "name"}
    method = methods.make_clip(encoder, vocab_size=text["vocab_size"], text_length=text["length"], **settings)
    views = jax.ShapeDtypeStruct((1, 1, 224, 224, 3), np.float32)
    params, state = jax.eval_shape(method.init, jax.random.key(0), views)
    trees = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), (params, state["batch_stats"]))
    shapes = {name: value.shape for name, value in variables.flatten(*trees).items()}
    if str(found.encoder["name"]).startswith("clip_"):
        shapes["image_projection/bias"] = (settings["proj_out_dim"],)
    return shapes


def make_tokenizer(config: Mapping[str, Any]) -> str:
    """What the run keeps as its tokenizer; "" where no file of one was given.

    Raises:
        base.InputError: the file cannot be read or has another number of tokens.
    """
    if config["text"]["tokenizer"] is None:
        return ""
    made = config_lib.call(data.make_tokenizer, config, "text")
    assert isinstance(made, data.Tokenizer)
    return made.content


def check_flag(read: foreign.Foreign, tokenizer: str | None) -> None:
    """Raises InputError for a tokenizer of weights that read no texts."""
    if tokenizer is not None and not read.text:
        raise base.InputError(f"--tokenizer is for the weights of a CLIP; the file holds {read.layout}. Leave it out.")


def line(tokenizer: str | None) -> str:
    """What `convert` says of the tokenizer."""
    if tokenizer is None:
        return "none: texts need --tokenizer=FILE, CLIP's bpe_simple_vocab_16e6.txt.gz or the tokenizer.json of the hub"
    return f"{tokenizer}, kept with the run"
