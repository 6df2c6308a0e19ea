"""From a trained run to features, neighbours, duplicates, subsets, clusters and classes of one's own pictures."""

import base64
import csv
import http.client
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from simclr_jax import __main__ as cli
from simclr_jax import data
from simclr_jax.run import feature_file, stopping

PER_CLASS = 8
TOO_SHORT = ("--config.train.num_epochs=0.5", "--config.schedule.warmup_epochs=5.0")


@pytest.fixture(scope="module")
def place(small_run, tmp_path_factory):
    """A folder with digits of three classes as files, one of them twice under two labels, and their features."""
    root = tmp_path_factory.mktemp("use")
    digits = data.load_split("digits", "test")
    for label in range(3):
        (root / "photos" / f"class{label}").mkdir(parents=True)
        for number, row in enumerate(np.flatnonzero(digits.labels == label)[:PER_CLASS]):
            Image.fromarray(digits.images[row]).save(root / "photos" / f"class{label}" / f"{number}.png")
    shutil.copy(root / "photos" / "class0" / "0.png", root / "photos" / "class2" / "copy.png")
    words = [f"--workdir={small_run}", f"--images={root / 'photos'}", f"--output={root / 'f.npz'}"]
    assert cli.main(["embed", *words]) == 0
    return root


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Runs a verb in the folder; gives (lines of stdout, stderr)."""
    monkeypatch.chdir(place)

    def run(*words, status=0):
        assert cli.main(list(words)) == status
        out = capsys.readouterr()
        return out.out.splitlines(), out.err

    return run


def test_search_prints_the_nearest_pictures_by_id_or_by_file(run, place):
    lines, _ = run("search", "--features=f.npz", "--query=class0/0.png", "--k=3")
    name, first, similarity, path = lines[0].split("\t")
    assert (name, first, similarity) == ("class0/0.png", "1", "1.0000")
    assert path == str(place / "photos" / "class2" / "copy.png") and len(lines) == 3
    page = (place / "search.html").read_text()
    assert page.count("data:image/png") == 4 and "<script" not in page
    lines, said = run(
        "search", "--features=f.npz", f"--query={place / 'photos' / 'class1'}", "--k=2", "--output=b.html"
    )
    assert len(lines) == 2 * PER_CLASS and "(exact)" in said
    assert lines[0].split("\t")[::3] == ["0.png", str(place / "photos" / "class1" / "0.png")]


def test_search_by_an_index_says_what_it_misses(run, place):
    pytest.importorskip("usearch")
    words = ("search", "--features=own.npz", "--query=class0/0.png", "--k=2", "--index=approximate")
    shutil.copy(place / "f.npz", place / "own.npz")
    for is_made in (True, False):
        lines, said = run(*words)
        assert "recall at 10" in said and lines[0].endswith("copy.png") and ("Making the index" in said) == is_made
    index = place / "own.npz.usearch"
    flipped = bytearray(index.read_bytes())
    flipped[-100] ^= 1
    index.write_bytes(flipped)
    assert "Making the index" in run(*words)[1] and "Making the index" not in run(*words)[1]
    # Other features of the same time and name.
    found = feature_file.load(place / "own.npz")
    rows = feature_file.Rows(
        -np.asarray(found.features), *(np.asarray(getattr(found, name)) for name in feature_file.Rows._fields[1:])
    )
    feature_file.save(place / "own.npz", [rows], meta=found.meta, num_rows=len(found.names))
    os.utime(place / "own.npz", ns=(0, 0))
    assert "Making the index" in run(*words)[1]


def test_duplicates_are_found_with_their_labels_within_a_set_and_between_two(run, place):
    lines, _ = run("duplicates", "--features=f.npz")
    assert lines[0].startswith("1 group of 2 pictures") and lines[1] == "Pictures with the bytes of another one: 2"
    assert lines[2].endswith("(correlation 0.9 or more): 1")
    assert lines[3] == "different labels: class0/0.png = class2/copy.png"
    table = rows_of(place / "duplicates.csv")
    assert [(row["id"], row["label"], row["kind"], row["pixels"]) for row in table] == [
        ("class0/0.png", "class0", "exact", "1.0000"),
        ("class2/copy.png", "class2", "exact", "1.0000"),
    ]
    page = (place / "duplicates.html").read_text()
    assert "Different labels: 1 group<" in page and "equal bytes, pixels 1.00" in page and "<svg" in page
    lines, _ = run("duplicates", "--features=f.npz", "--others=f.npz", "--threshold=0.9999")
    assert "between the 25 and the 25" in lines[0]
    every = "25 of 25 (100.00 %)"
    assert lines[1] == f"Pictures of --features with one in --others: {every}, with pixels that agree {every}"
    assert lines[2].startswith("Pictures of --others with one in --features: 25 of 25 (100.00 %)")
    found = feature_file.load(place / "f.npz")
    rows = feature_file.Rows(*(np.asarray(getattr(found, name)) for name in feature_file.Rows._fields))
    for name, value in (("layer", "z"), ("protocol", "fit256.tf2.8.views2")):
        feature_file.save(place / "other.npz", [rows], meta={**found.meta, name: value}, num_rows=25)
        _, said = run("duplicates", "--features=f.npz", "--others=other.npz", status=2)
        assert f"their {name} is {value} and not" in said and said.count("\n") == 1
    assert {row["set"] for row in rows_of(place / "duplicates.csv")} == {"features", "others"}


def test_pictures_that_are_alike_to_the_encoder_only_are_told_by_their_pixels(run, place):
    with np.load(place / "f.npz") as file:
        two = {name: value if name == "meta" else value[[1, 9]] for name, value in file.items()}
    two["features"] = np.ones_like(two["features"])
    meta = json.loads(str(two.pop("meta")))
    feature_file.save(place / "two.npz", [feature_file.Rows(**two)], meta=meta, num_rows=2)
    lines, _ = run("duplicates", "--features=two.npz", "--threshold=0.99")
    assert lines[0].startswith("1 group of 2 pictures") and lines[2].endswith(": 0")
    pictures = [Image.open(path).convert("RGB").resize((16, 16), Image.Resampling.BOX) for path in two["paths"]]
    expected = np.corrcoef(*(np.asarray(picture, np.float64).ravel() for picture in pictures))[0, 1]
    table = rows_of(place / "duplicates.csv")
    assert [row["kind"] for row in table] == ["near", "near"] and abs(expected) < 0.9
    np.testing.assert_allclose([float(row["pixels"]) for row in table], expected, atol=1e-4)


def test_select_names_as_many_as_asked_for(run, place):
    for method in ("k_center", "typical"):
        lines, _ = run("select", "--features=f.npz", "--size=4", "--outliers=2", f"--method={method}")
        table = rows_of(place / "selected.csv")
        assert [row["kind"] for row in table] == ["chosen"] * 4 + ["unusual"] * 2
        assert len({row["id"] for row in table[:4]}) == 4 and lines[0].startswith("4 of 25 pictures")
    assert "data:image" in (place / "selected.html").read_text()
    _, said = run("select", "--features=f.npz", "--size=26", status=2)
    assert "at most the number of pictures, 25" in said


def test_cluster_scores_clusters_beside_the_labels(run, place):
    lines, _ = run("cluster", "--features=f.npz", "--clusters=3")
    assert lines[1].startswith("Silhouette") and "normalized mutual information" in lines[2]
    assert {row["cluster"] for row in rows_of(place / "clusters.csv")} == {"0", "1", "2"}
    assert (place / "clusters.html").read_text().count("<h2>Cluster ") == 3


def test_a_probe_is_kept_and_predicts(run, place):
    lines, said = run("probe", "--features=f.npz")
    assert [line.split()[0] for line in lines[1:4]] == ["knn", "linear", "ridge"] and "simclr-jax predict" in said
    page = (place / "probe.html").read_text()
    assert page.count("<svg") == 2 and "precision" in page
    run("predict", "--classifier=classifier.npz", "--features=f.npz")
    of_features = rows_of(place / "predictions.csv")
    run("predict", "--classifier=classifier.npz", f"--images={place / 'photos'}", "--output=again.csv")
    assert [row["class"] for row in rows_of(place / "again.csv")] == [row["class"] for row in of_features]
    shutil.copytree(place / "photos" / "class1", place / "more")
    (place / "more" / "broken.png").write_bytes((place / "more" / "1.png").read_bytes()[:90])
    for words in (("predict", "--classifier=classifier.npz", "--images=more"), ("search", "--query=more")):
        more = ("--features=f.npz", "--output=more.html") if words[0] == "search" else ("--output=more.csv",)
        _, said = run(*words, *more)
        assert "1 damaged picture left out: broken.png: damaged" in said
    right = sum(row["id"].startswith(row["class"]) for row in of_features)
    assert right >= 20  # of 25, most of which it was fitted on
    for row in of_features:
        shares = [float(row[f"class{label}"]) for label in range(3)]
        assert sum(shares) == pytest.approx(1, abs=1e-5) and max(shares) == float(row["probability"])


def test_names_that_are_no_text_stop_no_verb_and_forge_no_line(run, place, small_run, tmp_path):
    bad, forged = os.fsdecode(b"bad\xff.png"), "a\tb\n\x1b[31mc.png"
    with np.load(place / "f.npz") as file:
        held = {name: value.copy() for name, value in file.items()}
    twins = [held["names"].tolist().index(name) for name in ("class0/0.png", "class2/copy.png")]
    held["names"] = held["names"].astype("<U99")
    held["names"][twins], held["paths"][twins] = (bad, forged), (f"/{bad}", f"/{forged}")
    held["meta"] = np.asarray(str(held["meta"]).replace("class0", "class\x1b[31m0"))
    held["meta"] = np.asarray(str(held["meta"]).replace("\x1b", "\\u001b"))
    np.savez(tmp_path / "h.npz", **held)
    given = f"--features={tmp_path / 'h.npz'}"
    lines, _ = run("search", given, "--query=class1/0.png", "--k=24")
    assert len(lines) == 24 and all(line.count("\t") == 3 for line in lines)
    for words in (
        ("duplicates", given, "--output=h.csv"),
        ("select", given, "--size=25", "--outliers=25", "--output=h.csv"),
        ("cluster", given, "--output=h.csv"),
        ("probe", given, "--classifier=h.npz"),
        ("predict", "--classifier=h.npz", given, "--output=h.csv"),
        ("explore", given, "--projection=pca", "--clusters=0", "--places=no", "--output=h.html"),
    ):
        lines, said = run(*words)
        assert "\x1b" not in "".join(lines) + said and not any(line.startswith("c.png") for line in lines), words
        if "--output=h.csv" in words:
            assert {r"bad\xff.png", forged} <= {row["id"] for row in rows_of(place / "h.csv")}, words
    (tmp_path / "in").mkdir()
    for number, name in enumerate((bad, "good.png")):
        shutil.copy(place / "photos" / "class1" / f"{number}.png", tmp_path / "in" / name)
    for ending in ("npz", "parquet"):
        run("embed", f"--workdir={small_run}", f"--images={tmp_path}/in", f"--output={tmp_path}/e.{ending}")
        found = feature_file.load(tmp_path / f"e.{ending}")
        assert r"bad\xff.png" in found.names and pathlib.Path(found.paths[0]).exists() == (ending == "npz")
        assert run("select", f"--features={tmp_path}/e.{ending}", "--output=h.csv")[0]


def test_labels_of_a_table_must_agree_and_what_fits_no_picture_is_said(run, place):
    (place / "semicolons.csv").write_text("path;label\nclass0/0.png;round\nclass1/0.png;straight\ngone.png;round\n")
    _, said = run("probe", "--features=f.npz", "--labels=semicolons.csv", status=2)
    assert "Labels: 2 of 25 pictures, 2 classes; 1 row of semicolons.csv without a picture\n" in said
    for text, told in (
        ("path\tlabel\na.png\tone\na.png\ttwo\n", "has one and two for a.png"),
        (f"id,label\nclass0/0.png,one\n{place}/photos/class0/0.png,two\n", "has one and two for class0/0.png"),
        ("id,label\nclass0/0.png,one\nclass0/1.png,one\n", "at least two classes; wrong.csv has one, one."),
    ):
        (place / "wrong.csv").write_text(text)
        _, said = run("probe", "--features=f.npz", "--labels=wrong.csv", status=2)
        assert told in said and said.count("\n") == 1, said


@pytest.mark.slow
def test_labels_may_come_from_a_table(run, place):
    names = [f"class{label}/{number}.png" for label in (0, 1) for number in range(PER_CLASS)]
    rows = "".join(f"{name},{'round' if name.startswith('class0') else 'straight'}\n" for name in names)
    (place / "labels.csv").write_text("path,label\n" + rows)
    _, said = run("probe", "--features=f.npz", "--labels=labels.csv", "--classifier=two.npz")
    assert "16 of 25 pictures, 2 classes" in said
    run("predict", "--classifier=two.npz", "--features=f.npz", "--output=two.csv")
    assert {row["class"] for row in rows_of(place / "two.csv")} == {"round", "straight"}
    for text, told in (("name,class\na,b\n", "columns path (or id) and label"), ("path,label\nx,y\n", "none of the 1")):
        (place / "wrong.csv").write_text(text)
        _, said = run("probe", "--features=f.npz", "--labels=wrong.csv", status=2)
        assert told in said and said.count("\n") == 1


def held(page):
    """What a map of one file holds: the values of its fields, and its JSON."""
    meta = json.loads(re.search(r'id="meta">([^<]*)<', page).group(1))
    texts = [re.search(rf'id="data-field-{number}">([^<]*)<', page).group(1) for number in range(len(meta["fields"]))]
    return [np.frombuffer(base64.b64decode(text), "<u2") for text in texts], meta


def test_a_map_has_labels_clusters_scores_and_the_columns_of_a_table(run, place):
    (place / "more.csv").write_text(
        "path,kind,width,label\n" + "".join(f"class1/{n}.png,{'ab'[n % 2]},{n},mine\n" for n in range(PER_CLASS))
    )
    words = ("--projection=pca", "--clusters=3", "--neighbors=4", "--table=more.csv")
    lines, said = run("explore", "--features=f.npz", *words)
    assert lines == ["Wrote explore.html: open it in a browser"] and "Table: 8 of 25 pictures" in said
    assert "Places of pictures, by the encoder" in said and "goes without places" not in said
    values, meta = held((place / "explore.html").read_text())
    fields = {field["name"]: (field, values[number]) for number, field in enumerate(meta["fields"])}
    assert list(fields) == ["label", "cluster", "unusual", "other label", "kind", "width"]
    assert fields["label"][0]["names"] == ["mine"] and (fields["label"][1] != 65535).sum() == PER_CLASS
    assert (fields["width"][0]["low"], fields["width"][0]["high"]) == (0, PER_CLASS - 1)
    assert set(fields["cluster"][1]) == {0, 1, 2}
    assert [near["k"] for near in meta["near"]] == [4, 4] and meta["title"] == "photos" and meta["label"] == 0
    assert meta["sheets"]["side"] == 32


def test_a_map_shows_pictures_that_have_grown_since_and_few_that_are_mostly_equal(run, place):
    """Cells are of the sizes that the file knows; of three different pictures there are no four clusters."""
    folder = place / "grown"
    folder.mkdir()
    for number, side in ((0, 8), (1, 8), (2, 8), (3, 8), (4, 9)):
        shade = np.full((side, side, 3), (10, 10, 10, 240, 90)[number], np.uint8)
        Image.fromarray(shade).save(folder / f"{number}.png")
    found = feature_file.load(place / "f.npz")
    features = np.repeat(np.eye(5, found.features.shape[1], dtype=np.float32)[[0, 3, 4]], (3, 1, 1), axis=0)
    names = np.asarray([f"{number}.png" for number in range(5)])
    paths, sizes = np.asarray([str(folder / name) for name in names]), np.full((5, 2), 8, np.int32)
    rows = feature_file.Rows(features, names, np.full(5, -1, np.int32), paths, sizes, np.arange(5, dtype=np.uint64))
    feature_file.save(place / "grown.npz", [rows], meta={**found.meta, "images": str(folder)}, num_rows=5)
    Image.fromarray(np.full((300, 40, 3), 50, np.uint8)).save(folder / "3.png")
    words = ("--projection=pca", "--clusters=4", "--neighbors=2", "--places=no")
    run("explore", "--features=grown.npz", "--output=grown.html", *words)
    values, meta = held((place / "grown.html").read_text())
    assert meta["sheets"]["side"] == 8 and max(values[0]) == 2
    lines, _ = run("cluster", "--features=grown.npz", "--clusters=4", "--output=grown.csv", "--page=groups.html")
    assert lines[0].startswith("3 clusters of 5 pictures")


def test_a_map_in_a_folder_replaces_only_what_explore_has_written(run, place):
    words = ("--projection=pca", "--clusters=0", "--neighbors=0", "--places=no")
    for _ in range(2):
        lines, _ = run("explore", "--features=f.npz", "--output=site", *words)
        assert lines == ["Wrote site/index.html: open it in a browser, or: simclr-jax explore --output=site --serve"]
    assert (place / "site" / "data" / "points.js").is_file()
    (place / "site" / "mine.txt").write_text("kept")
    _, said = run("explore", "--features=f.npz", "--output=site", *words, status=2)
    assert "holds something else" in said and (place / "site" / "mine.txt").read_text() == "kept"


def test_a_map_is_served_to_this_machine_by_its_own_name_only(run, place, monkeypatch):
    (place / "one.html").write_text("<p>the map</p>")
    answers = {}

    def ask(server, poll_interval=0.5):
        def get(path, host):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
            connection.request("GET", path, headers={"Host": host})
            server.handle_request()
            found = connection.getresponse()
            answers[path, host] = (found.status, found.read())
            connection.close()

        for path, host in (
            ("/", "localhost"),
            ("/one.html", "127.0.0.1:80"),
            ("/f.npz", "localhost"),
            ("/", "evil.org"),
        ):
            get(path, host)
        raise KeyboardInterrupt

    monkeypatch.setattr(http.server.ThreadingHTTPServer, "serve_forever", ask)
    monkeypatch.setattr("webbrowser.open", lambda address: None)
    _, said = run("explore", "--output=one.html", "--serve")
    assert "http://127.0.0.1:" in said
    assert [status for status, _ in answers.values()] == [200, 200, 404, 403]
    assert answers["/", "localhost"][1] == b"<p>the map</p>"


def test_the_demo_goes_all_the_way_to_a_page_of_links(small_run, tmp_path, monkeypatch, capsys):
    """In this process, and for a run that is there; `make demo` trains."""
    shutil.copytree(small_run, tmp_path / "run")
    asked = []

    def in_this_process(words):
        asked.append(words[3])
        more = ["--projection=pca"] if words[3] == "explore" else ["--clusters=3"] if words[3] == "cluster" else []
        return 0 if words[3] in ("evaluate", "report") else cli.main([*words[3:], *more])

    monkeypatch.setattr(stopping, "call", in_this_process)
    assert cli.main(["demo", f"--workdir={tmp_path / 'run'}"]) == 0
    assert asked == ["evaluate", "report", "embed", "search", "cluster", "explore"]
    page = (tmp_path / "run" / "index.html").read_text()
    links = re.findall(r'href="([^"]*)"', page)
    assert links == ["report.html", "search.html", "clusters.html", "explore.html"]
    assert all((tmp_path / "run" / link).is_file() for link in links[1:]) and "simclr-jax embed" in page
    assert "it is shown as it is" in capsys.readouterr().err
    monkeypatch.setattr(stopping, "call", lambda words: 7)
    assert cli.main(["demo", f"--workdir={tmp_path / 'run'}"]) == 7


@pytest.mark.few(1)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_embed_keeps_what_it_has_when_a_signal_comes_and_ends_with_its_status(place, small_run, tmp_path, number):
    """The encoder is slowed down: every batch takes a fifth of a second."""
    code = (
        "import sys, time\nfrom simclr_jax.__main__ import main\nfrom simclr_jax.run import embedding\n"
        "encode = embedding._encode\n"
        "def slow(*given):\n    time.sleep(0.2)\n    print('batch', flush=True)\n    return encode(*given)\n"
        "embedding._encode = slow\nsys.exit(main(sys.argv[1:]))\n"
    )
    target = tmp_path / "f.npz"
    embed = ("embed", f"--workdir={small_run}", f"--images={place / 'photos'}", "--batch_size=1")
    words = [sys.executable, "-c", code, *embed, f"--output={target}"]
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            for _ in range(6):
                assert child.stdout.readline() == "batch\n"
            child.send_signal(number)
            begin = time.monotonic()
            said = child.stderr.read()
            assert child.wait(20) == 128 + number and time.monotonic() - begin < 3
    finally:
        signal.signal(signal.SIGHUP, before)
    kept = re.search(r"(\d+) of 25 pictures are kept in .*f.npz.parts; the same command goes on", said)
    assert kept and int(kept[1]) >= 3 and f"stopped by {number.name}" in said and "Traceback" not in said
    for output in (target, tmp_path / "whole.npz"):
        assert cli.main([*embed, f"--output={output}"]) == 0
    assert target.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_outputs_replace_no_input_no_picture_and_not_each_other(run, place, small_run, tmp_path):
    photo, features, folder = place / "photos" / "class0" / "0.png", place / "f.npz", str(place / "photos")
    shutil.copy(photo, tmp_path / "photo.html")
    shutil.copy(photo, tmp_path / "photo.csv")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "f.csv").symlink_to(features)
    before = {path: path.read_bytes() for path in (*place.rglob("*.png"), features, *tmp_path.iterdir())}
    given, photo = "--features=f.npz", str(photo)
    for words, told in (
        (("explore", given, f"--output={photo}"), "--output must end in .html or .htm, or be a folder"),
        (("explore", given, f"--output={tmp_path}/file"), "must be a folder"),
        (("explore", given, "--output=x.txt"), "--output must end in .html or .htm, or be a folder"),
        (("select", given, "--output=f.npz"), "--output must end in .csv; got f.npz. Use for example f.csv."),
        (("select", given, f"--output={tmp_path}/f.csv"), "is --features too"),
        (("select", given, f"--output={tmp_path}/photo.csv"), "--output must replace no picture"),
        (("predict", "--classifier=f.npz", given, "--output=f.npz"), "--output must end in .csv"),
        (("probe", given, "--classifier=f.npz"), "--classifier must be a place of its own; f.npz is --features too"),
        (("probe", given, "--classifier=x.txt"), "--classifier must end in .npz"),
        (("probe", given, "--output=p.npz", "--classifier=p.npz"), "--output must end in .html"),
        (("search", given, f"--query={photo}", f"--output={photo}"), "--output must end in .html"),
        (("search", given, f"--query={tmp_path}/photo.html", f"--output={tmp_path}/photo.html"), "is --query too"),
        (("search", given, "--query=class0/0.png", f"--output={tmp_path}/photo.html"), "must replace no picture"),
        (("duplicates", given, "--output=y.csv", "--page=y.csv"), "--page must end in .html"),
        (("duplicates", given, f"--page={tmp_path}/photo.html"), "--page must replace no picture"),
        (("cluster", given, f"--page={tmp_path}/photo.html"), "--page must replace no picture"),
        (
            ("embed", f"--workdir={small_run}", f"--images={folder}", f"--output={photo}"),
            "must end in .npz or .parquet",
        ),
        (("embed", f"--weights={features}", f"--images={folder}", f"--output={features}"), "is --weights too"),
        (("report", f"--workdir={small_run}", f"--output={tmp_path}/photo.html"), "--output must replace no picture"),
        (("report", f"--workdir={small_run}", f"--output={photo}"), "--output must end in .html"),
        (("compare", f"--output={tmp_path}/photo.html", str(small_run)), "--output must replace no picture"),
        (("export", f"--workdir={small_run}", f"--output={small_run}"), "is --workdir too"),
        (("export", f"--workdir={small_run}", f"--output={tmp_path}/file"), "must be"),
        (("convert", f"--input={photo}", f"--workdir={photo}"), "is --input too"),
        (("data", f"--config=folder:{folder}", f"--output={photo}"), "--output must replace no picture of --config"),
        (("data", f"--config=folder:{folder}", f"--json={photo}"), "--json must end in .json"),
        (("preview", f"--config=folder:{folder}", f"--output={photo}"), "must replace no picture of --config"),
        (("plan", "--config=smoke", f"--output={photo}"), "--output must end in .json"),
        (
            ("plan", "--config_json", f"{tmp_path}/config.json", f"--output={tmp_path}/config.json"),
            "is --config_json too",
        ),
    ):
        _, said = run(*words, status=2)
        assert told in said and said.count("\n") == 1, (words, said)
    assert before == {path: path.read_bytes() for path in (*place.rglob("*.png"), features, *tmp_path.iterdir())}
    assert not (place / "y.csv").exists() and not (place / "p.npz").exists()


def test_few_pictures_are_clustered_by_half_as_many(run, place):
    with np.load(place / "f.npz") as file:
        held = dict(file)
    meta = json.loads(str(held.pop("meta")))
    for count in (1, 3):
        rows = feature_file.Rows(**{name: value[:count] for name, value in held.items()})
        feature_file.save(place / f"first{count}.npz", [rows], meta=meta, num_rows=count)
    lines, said = run("cluster", "--features=first3.npz", "--output=three.csv")
    assert lines[0] == "2 clusters of 3 pictures." and "2 clusters, as 20 are too many for 3 pictures" in said
    run("explore", "--features=first1.npz", "--projection=pca", "--places=no", "--output=one.html")
    assert "<h2>1 picture</h2>" in (place / "one.html").read_text()


def test_mistakes_are_one_line(run, place, small_run):
    (place / "wrong.csv").write_text("path,label\n")
    with np.load(place / "f.npz") as file:
        held = dict(file)
    np.savez(place / "objects.npz", **{**held, "names": held["names"].astype(object)})
    unlabelled = {**held, "meta": np.asarray(json.dumps({**json.loads(str(held["meta"])), "class_names": []}))}
    np.savez(place / "three.npz", **{**unlabelled, "labels": np.full_like(held["labels"], -1)})
    for words, told in (
        (("embed", "--images=photos", "--output=x.npz"), "got neither"),
        (("embed", f"--workdir={small_run}", "--images=gone", "--output=x.npz"), "existing folder"),
        (("embed", f"--workdir={small_run}", "--images=photos", "--output=x.txt"), "--output must end in"),
        (("embed", f"--workdir={small_run}", "--images=photos", "--output=x.npz", "--network=a"), "network is for"),
        (("embed", f"--workdir={small_run}", "--images=photos", "--output=x.npz", "--data_dir=a"), "data_dir is for"),
        (("search", "--features=gone.npz", "--query=a"), "there is no gone.npz"),
        (("search", "--features=f.npz", "--query=gone.png"), "one of the ids"),
        (("duplicates", "--features=f.npz", "--threshold=1.5"), "at most 1"),
        (("explore",), "--features is required"),
        (("explore", "--output=gone", "--serve"), "there is none at gone"),
        (("explore", "--features=f.npz", "--table=gone.csv"), "cannot be read"),
        (("explore", "--features=f.npz", "--projection=mds"), "must be one of"),
        (("predict", "--classifier=classifier.npz"), "got neither"),
        (("predict", "--classifier=f.npz", "--features=f.npz"), "--classifier must be a file"),
        (("predict", "--classifier=wrong.csv", "--features=f.npz"), "is not: its content is no .npz"),
        (("select", "--features=wrong.csv"), "is not: its content is no .npz, or only a part of one. Make it again."),
        (("select", "--features=objects.npz"), "--features must be a file that simclr-jax embed wrote"),
        (("embed", "--weights=wrong.csv", "--images=photos", "--output=x.npz"), "--weights must be .safetensors"),
        (("embed", "--weights=gone", "--images=photos", "--output=x.npz"), "--weights must be the folder of a run"),
        (("embed", f"--workdir={small_run}", "--images=", "--output=x.npz"), "--images must be a path; got nothing"),
        (("embed", "--crop_fraction=2"), "--crop_fraction must be a share of the shorter side, above 0 and at most 1"),
        (("search", "--features=f.npz", "--query="), "--query must be a picture"),
        (("cluster", "--features=f.npz", "--clusters=100"), "--clusters must be at most the number of pictures, 25"),
        (("probe", "--features=three.npz"), "here the images have no labels."),
        (("train", "--config=smoke", "--workdir=x", *TOO_SHORT), "Use for example --config.schedule.warmup_epochs="),
    ):
        _, said = run(*words, status=2)
        assert told in said and said.count("\n") == 1 and "pickle" not in said, said
    assert not (place / "x.npz").exists()
