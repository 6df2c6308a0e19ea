"""Random weights of open_clip, converted: zero-shot classes and search by words on the command line, beside its own."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from simclr_jax.cli import convert, embed, evaluate, search
from simclr_jax.interop import open_clip_layouts, variables
from simclr_jax.run import config as config_lib
from simclr_jax.run import image_text

open_clip = pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.slow

NAMES = ("sand_dune", "sea", "wood")
TEMPLATES = ("a photo of a {}.", "{} from above")
VISION = {"image_size": 32, "layers": 12, "width": 192, "patch_size": 8}
VOCABULARY = pathlib.Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")


def their_vectors(model, colours, sentences):
    """Normalised projections of pictures of one colour each, and of sentences, by open_clip."""
    pixels = np.broadcast_to(colours[:, None, None] / np.float32(255), (len(colours), 32, 32, 3))
    images = (pixels - np.float32(open_clip_layouts.MEAN)) / np.float32(open_clip_layouts.STD)
    with torch.no_grad():
        of_images = model.encode_image(torch.from_numpy(images).permute(0, 3, 1, 2), normalize=True)
        of_texts = model.encode_text(open_clip.SimpleTokenizer()(list(sentences)), normalize=True)
    return of_images.numpy(), of_texts.numpy()


def test_a_converted_clip_classifies_and_finds_as_open_clip_does(tmp_path, capsys):
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    model = open_clip.model.CLIP(16, VISION, text).eval()
    state = {name: value.numpy() for name, value in model.state_dict().items() if name != "attn_mask"}
    variables.save(tmp_path / "theirs.safetensors", state)
    colours = np.random.default_rng(0).integers(0, 256, (40, 3)).astype(np.uint8)
    sentences = image_text.class_sentences(NAMES, TEMPLATES)
    of_images, of_texts = their_vectors(model, colours, sentences)
    classes = of_texts.reshape(3, 2, 16).mean(axis=1)
    scores = of_images @ (classes / np.linalg.norm(classes, axis=1, keepdims=True)).T
    best, margin = scores.argmax(axis=1), np.diff(np.sort(scores, axis=1)[:, 1:])[:, 0]
    clear = np.flatnonzero(margin > 1e-4)[:12]
    assert len(clear) == 12
    for number, row in enumerate(clear):  # half of them in the class that open_clip finds, half in the two others
        name = NAMES[(best[row] + (number % 4 + 1) // 2 * (number % 2)) % 3]
        flat = Image.fromarray(np.ascontiguousarray(np.broadcast_to(colours[row], (40, 40, 3))))
        for folder in (f"test/{name}", "train"):  # without classes to train on, there is nothing but zero-shot
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            flat.save(tmp_path / "set" / folder / f"{row}.png")
    (tmp_path / "templates.txt").write_text("\n".join(TEMPLATES))
    config = config_lib.load_file("clip_captions", "--config.data.cache_dir=").to_dict()
    run = str(tmp_path / "run")
    made = {"input": str(tmp_path / "theirs.safetensors"), "tokenizer": str(VOCABULARY)}
    assert convert.main(config=config, workdir=run, **made) == 0
    given = {"transfer": f"folder:{tmp_path / 'set'}", "templates": str(tmp_path / "templates.txt")}
    assert evaluate.main(workdir=run, **given) == 0
    (found,) = json.loads((tmp_path / "run" / "results.json").read_text())["transfer"].values()
    assert found["zero_shot"]["top_1"] == 0.5 and found["zero_shot"]["num_images"] == 12
    features, images = str(tmp_path / "z.npz"), str(tmp_path / "set" / "test")
    assert embed.main(workdir=run, images=images, layer="z", output=features, batch_size=12) == 0
    capsys.readouterr()
    asked = {"features": features, "k": 12, "output": str(tmp_path / "search.html")}
    assert search.main(text=sentences[0], **asked) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    ours = {int(pathlib.Path(line[3]).stem): float(line[2]) for line in lines}
    assert sorted(ours) == sorted(clear.tolist())
    np.testing.assert_allclose([ours[row] for row in clear], of_images[clear] @ of_texts[0], atol=1e-4)
