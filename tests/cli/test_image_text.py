"""From pictures with captions to search by words: train, go on, evaluate, embed, search, LiT."""

import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax import base, data
from simclr_jax.cli import convert, embed, evaluate, explore, export, search, train
from simclr_jax.distributed import sharding
from simclr_jax.interop import variables
from simclr_jax.run import config as config_lib
from simclr_jax.run import feature_file, features, image_text, pretrained, texts
from simclr_jax.run import workdir as workdir_lib
from tests import golden
from tests.data import test_pairs
from tests.golden import record_encoders
from tests.html_report import test_explorer

TINY = {
    "data.cache_dir": "",
    "data.canvas_size": 16,
    "text.vocab_size": 300,
    "text.length": 8,
    "encoder.name": "resnet10",
    "encoder.group_sizes": (1,),
    "encoder.width_multiplier": 1 / 4,
    "augment.image_size": 16,
    "method.text_width": 16,
    "method.text_num_layers": 1,
    "method.text_num_heads": 2,
    "method.proj_out_dim": 8,
    "train.batch_size": 4,
    "train.num_epochs": 40.0,
    "schedule.warmup_epochs": 0.0,
    "train.checkpoint_every_steps": 1000,
    "train.evaluate_every_epochs": 40.0,
    "probe.batch_size": 4,
}
COLOURS = ("red", "green", "blue", "white")


def settings(folder, **changed):
    flags = [f"--config.{key}={value}" for key, value in {**TINY, "data.name": f"pairs:{folder}", **changed}.items()]
    return config_lib.load_file("clip_captions", *flags).to_dict()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of the pictures, folder of a run that has learnt four colours)."""
    folder = tmp_path_factory.mktemp("colours")
    rows = [(f"images/{name}.png", f"{words} {name}", "train") for name in COLOURS for words in ("it is", "all")]
    test_pairs.make_table(folder, rows)
    workdir = folder / "run"
    assert train.main(config=settings(folder, **{"split.test": "train"}), workdir=str(workdir)) == 0
    return folder, workdir


def test_a_run_learns_which_words_belong_to_which_picture(run, capsys):
    _, workdir = run
    assert evaluate.main(workdir=str(workdir)) == 0
    results = json.loads((workdir / "results.json").read_text())
    assert results["guards"]["batch_norm_at_rest"] and results["guards"]["near_duplicates"] is None  # of one split
    found = results["retrieval"]
    assert found["text_to_image_recall_1"] >= 0.75 > found["chance"]["text_to_image_recall_1"] == 0.25
    # The last row of the training is of the same state on the same few pictures.
    logged = [row for row in workdir_lib.read_metrics(workdir) if "evaluation_seconds" in row][-1]
    for name in (f"{way}_recall_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5)):
        assert logged[name] == found[name]
    assert results["label_free"]["rankme"] > 1 and "knn_accuracy" not in logged
    assert (found["num_images"], found["num_texts"]) == (4, 8)
    assert found["protocols"]["text_to_image_recall_10"] == "retrieval.text-to-image.r10.v1"
    assert "retrieval of 4 images and 8 texts" in capsys.readouterr().out


def test_words_find_their_picture(run, capsys):
    folder, workdir = run
    made = {"workdir": str(workdir), "images": str(folder / "images"), "output": str(folder / "z.npz")}
    assert embed.main(**made, layer="z", batch_size=4) == 0
    capsys.readouterr()
    assert search.main(features=made["output"], text="it is red", k=2, output=str(folder / "page.html")) == 0
    first = capsys.readouterr().out.splitlines()[0].split("\t")
    assert first[:2] == ["it is red", "1"] and first[3].endswith("red.png")
    # As the projections of the network say.
    bank = feature_file.load(made["output"])
    assert bank.features.shape == (4, 8)
    page = folder / "map.html"
    asked = {"projection": "pca", "places": "no", "neighbors": 1, "clusters": 0, "output": str(page)}
    assert explore.main(features=made["output"], text=["it is red", "all green"], **asked) == 0
    held, meta = test_explorer.held(page.read_text())
    assert [field["name"] for field in meta["fields"]] == ["unusual", "likest words", '"it is red"', '"all green"']
    assert meta["fields"][meta["start"]]["name"] == "likest words" and meta["texts"] is False
    # Row by row the cosine with the words, in the page's levels between the lowest and the highest.
    names, field = held["names-0"].decode().split("\0"), meta["fields"][2]
    levels = np.frombuffer(held["field-2"], "<u2") / 65534 * (field["high"] - field["low"]) + field["low"]
    word = image_text.load_embed_texts(workdir, step=bank.meta["encoder"]["step"])(["it is red"])[0]
    for name, level in zip(names, levels, strict=True):
        z = bank.features[bank.names.index(name)].astype(np.float64)
        assert abs(level - z @ word / np.linalg.norm(z) / np.linalg.norm(word)) < 1e-4
    assert names[int(np.argmax(levels))] == "red.png"
    with pytest.raises(base.InputError, match="Give one of --query and --text; got both"):
        search.main(features=made["output"], text="red", query="blue.png")
    assert embed.main(**{**made, "output": str(folder / "h.npz")}, batch_size=4) == 0
    with pytest.raises(base.InputError, match="--text compares words with projections of pictures"):
        search.main(features=str(folder / "h.npz"), text="red")
    with pytest.raises(base.InputError, match="--text compares words with projections of pictures"):
        explore.main(features=str(folder / "h.npz"), text=["red"], **asked)


def test_captions_stand_in_the_map_of_a_set_of_pairs(run):
    folder, workdir = run
    made = {"workdir": str(workdir), "images": f"pairs:{folder}", "split": "train", "output": str(folder / "p.npz")}
    assert embed.main(**made, batch_size=4) == 0
    page = folder / "captions.html"
    asked = {"projection": "pca", "places": "no", "neighbors": 0, "clusters": 0, "output": str(page)}
    assert explore.main(features=made["output"], **asked) == 0
    held, meta = test_explorer.held(page.read_text())
    names, found = (held[f"{what}-0"].decode().split("\0") for what in ("names", "texts"))
    colours = [name.removeprefix("images/").removesuffix(".png") for name in names]
    assert meta["texts"] and sorted(colours) == sorted(COLOURS)
    assert found == [f"it is {colour}\nall {colour}" for colour in colours]


def test_a_run_keeps_its_tokenizer(run):
    _, workdir = run
    config = config_lib.load_file("default").to_dict()
    config["text"] |= {"vocab_size": 300, "length": 8}
    assert texts.open_tokenizer(workdir, config).encode(["red"])[0, 0] == 298
    with pytest.raises(base.InputError, match=r"keeps its tokenizer in tokenizer.json"):
        texts.open_tokenizer(workdir / "none", config)


def test_recall_while_training_is_of_evenly_spaced_pictures_with_all_of_their_texts(run, monkeypatch):
    folder, workdir = run
    config = workdir_lib.read_config(workdir)
    test_set = data.load_split(f"pairs:{folder}", "train", cache_dir="", canvas_size=16, progress=False)
    _, params, method_state = features.load_variables(workdir, which="latest")
    width, seen = len(params["image_projection"]["kernel"]), []

    def encode(variables, image_set):
        seen.append(image_set.ids)
        return np.zeros((len(image_set.ids), width), np.float32)  # of which nothing can be told

    monkeypatch.setattr(image_text, "_MAX_PICTURES", 2)
    given = {"test_set": test_set, "tokenizer": texts.read_kept(workdir), "encode": encode}
    measure = image_text.make_measure_recall(config, sharding.make_mesh(), **given)
    found = measure(base.TrainState(1, params, method_state, ()))
    assert seen == [(test_set.ids[0], test_set.ids[-1])]
    assert found == {
        "image_to_text_recall_1": 0.5,
        "image_to_text_recall_5": 1.0,
        "text_to_image_recall_1": 0.5,
        "text_to_image_recall_5": 1.0,
    }


def test_data_without_texts_are_refused(tmp_path):
    test_pairs.make_pictures(tmp_path)
    config = settings(tmp_path, **{"data.name": f"folder:{tmp_path}", "train.batch_size": 3})
    with pytest.raises(base.InputError, match=r"method.name clip needs pictures with texts; got data.name folder:"):
        train.main(config=config, workdir=str(tmp_path / "run"))


@pytest.mark.slow
def test_weights_of_open_clip_become_a_run_that_reads_texts_and_go_back(run, tmp_path, capsys):
    folder, workdir = run
    shapes = json.loads(str(golden.load("open_clip")["vit_quick/shapes"]))
    shapes["token_embedding.weight"] = (300, 64)  # the fewest that a tokenizer has
    state = {key: np.asarray(value) for key, value in record_encoders.weights_of(shapes).items()}
    variables.save(tmp_path / "theirs.safetensors", state)
    made = {"config": settings(folder, **{"split.test": "train"}), "workdir": str(tmp_path / "clip")}
    made |= {"input": str(tmp_path / "theirs.safetensors"), "tokenizer": str(workdir / texts.FILE)}
    assert convert.main(**made, activation="quick_gelu") == 0
    assert "CLIP under the names of open_clip" in capsys.readouterr().out
    config = workdir_lib.read_config(tmp_path / "clip")
    assert (config["encoder"]["design"], config["method"]["text_activation"]) == ("openai", "quick_gelu")
    assert (config["augment"]["image_size"], config["text"]["length"]) == (32, 12)
    embedded = image_text.load_embed_texts(tmp_path / "clip", step=0)(["a dog", "red"])
    assert embedded.shape == (2, 16) and np.isfinite(embedded).all()
    output = tmp_path / "back"
    assert export.main(workdir=made["workdir"], output=str(output), format="open_clip") == 0
    back = variables.load(output / "open_clip_model.safetensors")
    assert back.keys() == state.keys() and all(np.array_equal(back[key], state[key]) for key in state)
    assert json.loads((output / "open_clip_config.json").read_text())["model_cfg"]["quick_gelu"]
    with pytest.raises(base.InputError, match="open_clip's encoders are clip_resnet50"):
        export.main(workdir=str(workdir), output=str(tmp_path / "none"), format="open_clip")


@pytest.mark.slow
def test_classes_are_known_by_their_names_on_other_data(run, tmp_path, capsys):
    _, workdir = run
    for split in ("train", "test"):
        for name in ("red", "green"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = np.clip(np.asarray(test_pairs.COLOURS[name]) + number, 0, 255).astype(np.uint8)
                picture = Image.fromarray(np.broadcast_to(pixels, (12, 12, 3)))
                picture.save(tmp_path / split / name / f"{number}.png")
    templates = tmp_path / "templates.txt"
    templates.write_text("it is {}\nall {}\n")
    given = {"transfer": f"folder:{tmp_path}", "templates": str(templates)}
    assert evaluate.main(workdir=str(workdir), **given) == 0
    (found,) = json.loads((workdir / "results.json").read_text())["transfer"].values()
    assert found["zero_shot"]["templates"] == ["it is {}", "all {}"]
    assert re.fullmatch(r"zero-shot\.top1\.t2-[0-9a-f]{8}\.v1", found["zero_shot"]["protocols"]["top_1"])
    assert found["zero_shot"]["top_1"] == 1.0 and found["zero_shot"]["chance"] == 0.5
    assert "zero-shot  top_1 100.0" in capsys.readouterr().out


@pytest.mark.slow
def test_locked_image_tuning_takes_the_encoder_of_pictures_alone_and_leaves_it(run, small_run):
    folder, _ = run
    given = {"init.workdir": str(small_run), "train.freeze_encoder": True, "encoder.norm": "frozen"}
    config = pretrained.inherit(settings(folder, **given, **{"train.num_epochs": 1.0}))
    workdir = folder / "locked"
    assert train.main(config=config, workdir=str(workdir)) == 0
    trees = [features.load_variables(where, which="latest") for where in (small_run, workdir)]
    pairs = [features.encoder_variables(params, state) for _, params, state in trees]
    for a, b in zip(*map(jax.tree.leaves, pairs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "text_encoder" in trees[1][1]
