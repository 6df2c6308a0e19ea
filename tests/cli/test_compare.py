"""Runs side by side: what is gathered from their folders, how seeds are joined, and what cannot be ranked."""

import json

import pytest

from simclr_jax import __main__ as cli
from simclr_jax import base
from simclr_jax.cli import compare, compare_runs
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib

KNN, TWENTY, RIDGE = "knn.k200.t0.1.v1", "knn.k20.t0.1.v1", "ridge.standardized.v1"


def row(protocol, accuracy, features="simclr"):
    how = {"features": features, "labels": "100%", "probe": "knn", "standard_error": 0.01, "num_test": 449}
    return {**how, "protocol": protocol, "accuracy": accuracy}


def make_run(folder, *rows, seed=0, test="ab12cd", **more):
    folder.mkdir(parents=True)
    workdir_lib.write_config(folder, {**config_lib.load_file("smoke").to_dict(), "seed": seed})
    logged = [{"step": 4, "loss": 3.0, "seconds": 8.0, "images_per_second": 100.0}, {"step": 6, "peak_bytes": 2e9}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in logged))
    measured_on = {"name": "digits", "train": "12345678", "test": test, "num_train": 1348, "num_test": 449}
    workdir_lib.update_results(folder, probes=list(rows), evaluated_data=measured_on, **more)
    return str(folder)


def printed(capsys, *runs, **flags):
    assert compare.main(runs=list(runs), **flags) == 0
    return capsys.readouterr().out


def test_runs_stand_side_by_side_with_what_they_took_and_scored(tmp_path, capsys):
    a = make_run(tmp_path / "a", row(KNN, 0.8), row(KNN, 0.1, features="untrained"), label_free={"rankme": 12.34})
    b = make_run(tmp_path / "b", row(KNN, 0.6), diagnosis=["It has collapsed."])
    text = printed(capsys, a, b)
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert lines["images seen"].split()[-2:] == ["384", "384"]  # 6 updates of 64
    assert lines["training time"].endswith("8 s") and "2.00 GB" in lines["peak memory"]
    assert lines[KNN].split()[-6:] == ["*80.0", "±", "1.0", "60.0", "±", "1.0"] and "10.0" not in lines[KNN]
    assert "12.3" in lines["rankme"]
    assert text.splitlines()[-1] == "b: It has collapsed." and "diagnosis" not in text  # the table stays narrow


def test_scores_of_texts_are_rows_by_their_protocols(tmp_path, capsys):
    def texts(recall, top_1, templates):
        recall_name, top_name = "retrieval.image-to-text.r1.v1", f"zero-shot.top1.t{templates}.v1"
        retrieval = {"text_to_image_recall_5": recall, "num_images": 100, "num_texts": 500}
        retrieval |= {
            "protocols": {"text_to_image_recall_5": recall_name.replace("image-to-text.r1", "text-to-image.r5")}
        }
        zero_shot = {"top_1": top_1, "num_images": 100, "protocols": {"top_1": top_name}}
        return {"retrieval": retrieval, "zero_shot": zero_shot}

    a = make_run(tmp_path / "a", **texts(0.5, 0.5, "4-1a2b3c4d"))
    b = make_run(tmp_path / "b", **texts(0.9, 0.9, "2-99999999"))
    text = printed(capsys, a, b)
    lines = {line.split("  ")[0]: line.split()[1:] for line in text.splitlines()}
    assert lines["retrieval.text-to-image.r5.v1"] == ["none", "50.0", "±", "5.0", "*90.0", "±", "3.0"]
    # Sentences decide over zero-shot classes: others are another protocol.
    assert lines["zero-shot.top1.t4-1a2b3c4d.v1"] == ["none", "50.0", "±", "5.0", "-"]
    assert "different protocols: zero-shot.top1.t4-1a2b3c4d.v1, zero-shot.top1.t2-99999999.v1." in text
    alone = printed(capsys, a, make_run(tmp_path / "c", row(KNN, 0.5), row(TWENTY, 0.5)))
    assert "Not ranked" not in alone  # of two kinds, each in one run only, nothing is alike


def test_a_page_and_a_picture_are_written_where_asked_for(tmp_path, capsys):
    a = make_run(tmp_path / "a", row(KNN, 0.8), diagnosis=["It has $collapsed."])
    b = make_run(tmp_path / "b", row(KNN, 0.6))
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    printed(capsys, a, b, output=str(page), picture=str(picture))
    assert "<strong>a</strong>: It has $collapsed." in page.read_text()
    assert "★ 80.0" in page.read_text() and picture.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(base.InputError, match=r"--picture must end in one of .png, .svg, .pdf"):
        compare.main(runs=[a], picture=str(tmp_path / "picture.gif"))


def test_ranking_by_a_protocol_needs_it_in_every_run_on_the_same_data(tmp_path, capsys):
    low = make_run(tmp_path / "low", row(KNN, 0.5), row(TWENTY, 0.9))
    high = make_run(tmp_path / "high", row(KNN, 0.7))
    other = make_run(tmp_path / "other", row(KNN, 0.9), test="ffff")
    assert printed(capsys, low, high, rank_by=KNN).splitlines()[0].split() == ["high", "low"]
    for runs, protocol in [((low, high), TWENTY), ((low, other), KNN)]:
        with pytest.raises(base.InputError, match=f"ranked by one protocol on the same data .* {protocol} is not"):
            compare.main(runs=list(runs), rank_by=protocol)
    with pytest.raises(base.InputError, match="A protocol must be one of"):
        compare.main(runs=[low, high], rank_by="knn")
    text = printed(capsys, low, other)
    assert f"Scores of {KNN} are on different data" in text and "*" not in text


def test_seeds_are_one_column_of_means_with_their_deviation(tmp_path, capsys):
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
        made = make_run(tmp_path / "many" / f"seed-{seed}", row(KNN, accuracy), seed=seed, diagnosis=["Odd."] * seed)
        with open(f"{made}/metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": 4 + seed % 2, "loss": accuracy}) + "\n")
    (tmp_path / "many" / "seed-x").mkdir()
    single = make_run(tmp_path / "single", row(KNN, 0.9))
    lines = printed(capsys, str(tmp_path / "many"), single).splitlines()
    assert any("60.0 ± 10.0" in line and "90.0 ± 1.0" in line for line in lines)
    assert any(line.startswith("seed ") and "0 / 1 / 2" in line for line in lines)
    assert lines[-3:] == ["many: seed-1: Odd.", "many: seed-2: Odd.", "many: seed-2: Odd."]
    joined = compare_runs._column(tmp_path / "many", "many")
    assert len(joined.seed_curves["loss"]) == 3


def test_the_curve_of_seeds_is_their_mean_at_the_steps_of_all():
    steps, values = compare_runs._mean_curve([([1.0, 2.0, 3.0], [1.0, 2.0, 9.0]), ([2.0, 1.0], [4.0, 3.0])])
    assert (steps, values) == ([1.0, 2.0], [2.0, 3.0])


def test_the_memory_of_a_cpu_is_that_of_the_host(tmp_path, capsys):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    logged = [{"step": 1, "peak_host_bytes": 3e9}, {"step": 2, "peak_host_bytes": 1e9}]
    (tmp_path / "a" / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in logged))
    lines = [line.split() for line in printed(capsys, a, b).splitlines()]
    assert ["peak", "memory", "(host)", "3.00", "GB", "-"] in lines
    assert ["peak", "memory", "-", "2.00", "GB"] in lines


def test_names_have_as_many_parts_as_tell_the_runs_apart(tmp_path):
    assert compare_runs._names(["x/a", "y/b"]) == ["a", "b"]
    assert compare_runs._names(["x/a", "y/a"]) == ["x/a", "y/a"]
    with pytest.raises(base.InputError, match="named once"):
        compare_runs._names(["x/a", "x/a"])


def test_words_may_stand_between_flags_and_mistakes_are_one_line(tmp_path, capsys):
    a, b = make_run(tmp_path / "a", row(RIDGE, 0.8)), make_run(tmp_path / "b", row(RIDGE, 0.6))
    assert cli.main(["compare", a, f"--rank_by={RIDGE}", b]) == 0
    assert RIDGE in capsys.readouterr().out
    for words, said in [
        ([], "RUN is required"),
        (["--rank_by=x"], "RUN is required"),
        ([str(tmp_path / "none")], "workdir must be the folder of a run"),
        ([a, "--colour=red"], "Unknown flag --colour"),
    ]:
        assert cli.main(["compare", *words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
