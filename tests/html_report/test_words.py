"""The headline, the probe table and how values are written."""

import numpy as np
import pytest

from simclr_jax.html_report import words


def row(features, labels, probe, accuracy, **more):
    return {"features": features, "labels": labels, "probe": probe, "accuracy": accuracy, **more}


def full_table():
    """Every kind of features with both probes at three shares; all accuracies differ."""
    scores = {"simclr": 0.80, "untrained": 0.50, "histogram": 0.30, "pixels": 0.40}
    shares = {"1%": (0.0, 13), "10%": (0.05, 134), "100%": (0.1, 1348)}
    return [
        row(
            name,
            share,
            probe,
            score + gain + (0.01 if probe == "linear" else 0.0),
            num_labels=count,
            standard_error=0.02,
        )
        for name, score in scores.items()
        for share, (gain, count) in shares.items()
        for probe in ("knn", "linear")
    ]


NEAR = {"simclr": 0.0, "untrained": 1 / 3}


def test_headline_tells_the_linear_probe_at_ten_per_cent_against_every_baseline():
    text = words.headline(full_table(), 0.1)
    assert text == (
        "With 10 % of the labels (134 images), a linear probe on the SimCLR representation names the right class for "
        "86.0 % of the test images; it is 56.0 % with the same network untrained, 36.0 % with a histogram, "
        "46.0 % with raw pixels and 10.0 % by guessing."
    )


def test_headline_tells_how_many_test_images_it_rests_on_and_is_cautious_with_few():
    rows = [row(name, "10%", "linear", 1 - error, num_test=3, standard_error=0.18) for name, error in NEAR.items()]
    text = words.headline(rows, None)
    assert "100.0 % of the 3 test images" in text and text.endswith("within the statistical error.")


def test_headline_does_not_depend_on_the_order_of_the_rows():
    rows = full_table()
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert "10 % of the labels (134 images), a linear probe" in words.headline(shuffled, None)
    assert "86.0 %" in words.headline(shuffled, None)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [row("simclr", "10%", "knn", 0.5), row("simclr", "100%", "linear", 0.6)],
            "With 10 % of the labels, a nearest",
        ),
        ([row("simclr", "1%", "linear", 0.5), row("simclr", "100%", "knn", 0.6)], "With all labels, a nearest"),
        ([row("simclr", "1%", "linear", 0.5), row("simclr", "5%", "linear", 0.6)], "With 5 % of the labels, a linear"),
    ],
)
def test_headline_falls_back_to_the_largest_share_that_was_run(rows, expected):
    assert words.headline(rows, None).startswith(expected)


def test_headline_says_so_when_a_baseline_wins():
    rows = [
        row("simclr", "10%", "linear", 0.4),
        row("pixels", "10%", "linear", 0.5),
        row("untrained", "10%", "linear", 0.3),
    ]
    assert words.headline(rows, None).endswith(
        "So here training has not paid off yet: raw pixels does as well or better."
    )


def test_headline_says_so_when_a_baseline_is_level():
    rows = [row("simclr", "10%", "linear", 0.4), row("untrained", "10%", "linear", 0.4)]
    assert "has not paid off yet: untrained network does as well or better" in words.headline(rows, None)


@pytest.mark.parametrize(("lead", "cautious"), [(0.05, True), (0.06, False)])
def test_headline_is_cautious_within_twice_the_joint_standard_error(lead, cautious):
    # Twice the joint error of 0.02 and 0.02 is 0.0566.
    rows = [
        row("simclr", "10%", "linear", 0.5 + lead, standard_error=0.02),
        row("pixels", "10%", "linear", 0.5, standard_error=0.02),
    ]
    assert ("is within the statistical error" in words.headline(rows, None)) == cautious


def test_headline_without_baselines_or_chance_is_one_plain_sentence():
    text = words.headline([row("byol", "10%", "linear", 0.5)], None)
    assert text.endswith("on the BYOL representation names the right class for 50.0 % of the test images.")


@pytest.mark.parametrize("rows", [[], [row("pixels", "10%", "linear", 0.5)]])
def test_there_is_no_headline_without_a_trained_representation(rows):
    assert words.headline(rows, 0.1) is None
    assert words.accuracy_tiles(rows) == []


def test_tiles_give_the_headline_score_and_its_lead_over_the_best_baseline():
    assert words.accuracy_tiles(full_table()) == [
        ("86.0 %", "SimCLR accuracy", "Linear probe, 10 % of the labels"),
        ("+30.0", "points over the best baseline", "untrained network: 56.0 %"),
    ]


def test_tiles_show_a_lost_lead_as_negative():
    rows = [row("simclr", "10%", "linear", 0.4), row("pixels", "10%", "linear", 0.5)]
    assert words.accuracy_tiles(rows)[1][0] == "-10.0"


def test_given_chance_goes_before_the_recorded_one():
    rows = [row("simclr", "10%", "linear", 0.4, chance=0.25)]
    assert words.chance_of(rows, None) == 0.25
    assert words.chance_of(rows, 0.1) == 0.1
    assert words.chance_of([], None) is None


def test_probe_table_orders_shares_probes_and_features():
    table = words.probe_table(full_table()[::-1])
    assert [(column.labels, column.probe) for column in table.columns] == [
        (share, probe) for share in ("1%", "10%", "100%") for probe in ("knn", "linear")
    ]
    assert [line.title for line in table.rows] == ["SimCLR", "Untrained network", "Histogram", "Raw pixels"]
    assert [line.trained for line in table.rows] == [True, False, False, False]
    assert table.groups == [("1 %", 13, 2), ("10 %", 134, 2), ("100 %", 1348, 2)]


def test_probe_table_puts_every_accuracy_in_its_cell():
    rows = full_table()
    table = words.probe_table(rows)
    for found in rows:
        line = next(line for line in table.rows if line.title == words.feature_title(found["features"]))
        index = [(column.labels, column.probe) for column in table.columns].index((found["labels"], found["probe"]))
        assert (line.cells[index].accuracy, line.cells[index].error) == (found["accuracy"], 0.02)


def test_probe_table_marks_the_best_of_every_column_and_every_tie():
    table = words.probe_table(full_table())
    assert [[cell.best for cell in line.cells] for line in table.rows] == [[True] * 6] + [[False] * 6] * 3
    tied = words.probe_table([row("simclr", "10%", "knn", 0.5), row("pixels", "10%", "knn", 0.5)])
    assert [line.cells[0].best for line in tied.rows] == [True, True]


def test_probe_table_leaves_a_cell_empty_for_a_probe_that_was_not_run():
    table = words.probe_table([row("simclr", "1%", "knn", 0.5), row("pixels", "10%", "linear", 0.4)])
    assert [[cell.accuracy for cell in line.cells] for line in table.rows] == [[0.5, None], [None, 0.4]]
    assert [[cell.best for cell in line.cells] for line in table.rows] == [[True, False], [False, True]]


def test_protocols_are_listed_once_with_their_places():
    rows = [row("simclr", share, "knn", 0.5, protocol="knn.v1") for share in ("1%", "10%")]
    rows += [row("pixels", "10%", "linear", 0.5, protocol="linear.v1"), row("pixels", "1%", "linear", 0.5)]
    assert words.protocols(rows) == [("knn.v1", "SimCLR at 1 %, SimCLR at 10 %"), ("linear.v1", "Raw pixels at 10 %")]
    many = [row("simclr", f"{n}%", "knn", 0.5, protocol="knn.v1") for n in range(8)]
    assert words.protocols([*many, rows[2]])[0] == ("knn.v1", "all others")


def test_most_confused_lists_mistakes_by_count_with_their_share_of_the_class():
    counts = np.array([[90, 8, 2], [0, 50, 0], [0, 5, 5]])
    assert words.most_confused(counts, ["a", "b", "c"]) == [
        ("a", "b", 8, 0.08),
        ("c", "b", 5, 0.5),
        ("a", "c", 2, 0.02),
    ]
    assert words.most_confused(counts, ["a", "b", "c"], limit=1) == [("a", "b", 8, 0.08)]
    assert words.most_confused(np.diag([3, 4]), ["a", "b"]) == []


@pytest.mark.parametrize(
    ("label", "expected"), [(None, ""), (-1, ""), (0, "cat"), (np.int32(1), "dog"), (2, "class 2")]
)
def test_class_name_is_the_name_else_the_number(label, expected):
    assert words.class_name(label, ("cat", "dog")) == expected


def test_class_name_of_a_folder_with_bytes_that_are_no_text_can_be_written():
    folder = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert words.class_name(0, [folder]) == "caf?"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "none"),
        (True, "yes"),
        (np.bool_(False), "no"),
        (9999, "9999"),
        (np.int64(1281167), "1,281,167"),
        (0.123456789, "0.12346"),
        (12345.6, "12,346"),
        (1e-6, "1e-06"),
        (np.float32(0.5), "0.5"),
        ({"train": 60000, "test": 10}, "train 60,000, test 10"),
        (("a", 1, None), "a, 1, none"),
        ([], "none"),
        ("text", "text"),
    ],
)
def test_values_are_written_for_readers(value, expected):
    assert words.written(value) == expected


def test_long_lists_are_cut_and_say_how_long_they_are():
    text = words.written(list(range(100)))
    assert text.endswith("22, 23, ... (100 in all)")
    assert words.written(list(range(24))).endswith("22, 23")


def test_plain_rows_keep_order_write_durations_and_drop_what_is_unknown():
    values = {"train_seconds": 272, "images_per_second": 12345.6, "device": None, "mixed_precision": False}
    assert words.plain_rows(values) == [
        ("train time", "4 min 32 s"),
        ("images per second", "12,346"),
        ("mixed precision", "no"),
    ]
    assert words.plain_rows(None) == []


def test_config_sections_start_with_the_top_level_and_flatten_with_dots():
    config = {"optim": {"lr": 0.0123456789, "decay": {"rate": None}}, "seed": 0}
    assert words.config_sections(config) == [
        ("general", [("seed", "0")]),
        ("optim", [("lr", "0.0123456789"), ("decay.rate", "None")]),
    ]
    assert words.config_sections(None) == words.config_sections({}) == []
