"""Words to typed values: every mistake is one line that says what is valid."""

import argparse
import random
import re

import pytest

from simclr_jax import base
from simclr_jax.cli import flags

WORD = "x" * 5000


def make_parser():
    parser = flags.Parser("try", description="Tries.", examples=("--workdir=a --config=smoke",))
    flags.add_workdir(parser)
    flags.add_checkpoint(parser)
    parser.add_argument("--rows", type=flags.whole_number(1, 8, such_as=2), default=4, metavar="N", help="how many")
    parser.add_argument("--share", type=flags.positive_number("a share", such_as=0.5), metavar="S", help="how much")
    parser.add_argument("--kind", default="a", metavar="KIND", help="%(choices)s", **flags.one_of("a", "blue", "c"))
    flags.add_config(parser)
    return parser


def message_of(*words):
    """The message for a command line that must be refused: one line, short enough to read."""
    with pytest.raises(base.InputError) as caught:
        flags.parse(make_parser(), words)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    assert 10 <= len(message) <= 400, message
    return message


def test_values_arrive_typed_and_absent_ones_as_their_defaults():
    found = flags.parse(make_parser(), ["--workdir", "a b", "--config.seed=3", "--rows=2", "--config=smoke"])
    assert found.pop("config")["seed"] == 3
    assert found == {"workdir": "a b", "checkpoint": "latest", "rows": 2, "share": None, "kind": "a"}
    found = flags.parse(make_parser(), ["-workdir=~", "-rows", "8", "--share=.5", "--kind=c", "-config", "smoke"])
    assert (found["rows"], found["share"], found["kind"]) == (8, 0.5, "c") and not found["workdir"].startswith("~")
    assert flags.parse(make_parser(), ["--workdir=a", "--rows=1", "--rows=2", "--config=smoke"])["rows"] == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--wrkdir=a"], ["--wrkdir", "Did you mean --workdir?", "--config.SECTION.KEY"]),
        (["--work=a"], ["--work;", "--workdir"]),  # no abbreviations: a flag added later would change their meaning
        (["--workdir=a", "photos"], ["photos", "--workdir"]),
        (["--workdir=a", "--", "--rows=2"], ["--rows"]),
        (["--workdir"], ["--workdir must have a value"]),
        (["--rows=2"], ["--workdir is required. See: simclr-jax try --help"]),
        (["--workdir=gs://b"], ["--workdir must be a path of this machine, not a URL; got gs://b"]),
        (["--workdir=a", "--rows=9"], ["--rows must be a whole number from 1 to 8; got '9'. Use for example 2."]),
        (["--workdir=a", "--rows=²"], ["--rows must be a whole number"]),
        (["--workdir=a", "--rows=2.0"], ["--rows must be a whole number"]),
        (["--workdir=a", "--rows="], ["got ''"]),
        (["--workdir=a", "--share=0"], ["--share must be a share, above 0; got '0'. Use for example 0.5."]),
        (["--workdir=a", "--share=inf"], ["--share must be a share"]),
        (["--workdir=a", "--share=all"], ["got 'all'"]),
        (["--workdir=a", "--kind=bleu"], ["--kind must be one of a, blue, c; got 'bleu'. Did you mean blue?"]),
        (["--workdir=a", "--config.train.batch_size"], ["batch_size"]),
        (["--workdir=a", "--config.seed=many"], ["seed", "many"]),
        (["--workdir=a", "--config.train.fused_conv_bn", "True"], ["True"]),
    ],
)
def test_a_mistake_is_answered_with_what_is_valid(words, told):
    message = message_of("--config=smoke", *words)
    for part in told:
        assert part in message, message


def test_a_whole_number_may_have_no_upper_bound():
    assert flags.whole_number(0, such_as=1)("123456789") == 123456789
    with pytest.raises(argparse.ArgumentTypeError, match="from 0; got '1234567890'"):
        flags.whole_number(0, such_as=1)("1234567890")


def malformed_words(seed: int) -> list[str]:
    """A command line with at least one mistake in it, of a kind drawn from the seed."""
    rng = random.Random(seed)
    junk = rng.choice([*"=é図/~'-", "", " ", "\n", "a\nb", "\x00", "\udcff", "..", "9" * 400, WORD, "%s", "{0}", "--"])
    mistake = rng.choice(
        [
            [f"--config={junk or 'nope'}?"],
            [f"--config.{junk}x=1"],
            [f"--config.train.{junk}y=1"],
            [f"--config.train.batch_size=n{junk}"],
            [f"--config.train.batch_size={junk}.5.5"],
            [f"--config.probe.label_fractions=({junk}"],
            [f"--config.augment.color_jitter_strength=a{junk}"],
            [f"--q{junk}"],
            [f"--q{junk}=2"],
            [f"word{junk}"],
            [f"--noconfig.seed{junk}"],
            [f"--config.seed.a.b.{junk}=1"],
            [f"--config.augment={{{junk}}}"],
            [f"--flagfile={junk}/nothing"],
            ["--config=cifar10:" + (junk or "e") + "=3"],
            ["--", f"--workdir={junk}"],
        ]
    )
    words = [*mistake, f"--workdir={rng.choice(['', 'é', 'x' * 300])}"]
    if not mistake[0].startswith("--config="):
        words.insert(rng.choice([0, len(words)]) if mistake[0] != "--" else 0, "--config=smoke")
    return words


@pytest.mark.few(1)
@pytest.mark.parametrize("start", range(0, 200, 50))
def test_no_malformed_command_line_gets_past_the_parser_or_crashes_it(start):
    for seed in range(start, start + 50):
        assert message_of(*malformed_words(seed))  # an InputError of one short line, or it fails in there


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--page=a.txt"], "--page must end in .html; got a.txt. Use for example a.html."),
        (["--page=out.html", "--table=out.html"], "--table must end in one of .csv, .tsv, .html2"),
        (["--page=link.html", "--more=out.html"], "--page and --more must be two places; both are out.html."),
        (["--page=in.html", "--given=in.html"], "--page must be a place of its own; in.html is --given too"),
        (["--page=in.html", "--given=folder:./sub/../in.html"], "in.html is --given too"),
        (["--place=in", "--given=in"], "in is --given too"),
        (["--place=map.gif"], "--place must end in .html, or be a folder, the name of which has no ending"),
    ],
)
def test_outputs_have_their_endings_and_places_of_their_own(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("sub", "in", "map.d"):
        (tmp_path / name).mkdir()
    (tmp_path / "in.html").write_text("mine")
    (tmp_path / "link.html").symlink_to("out.html")
    parser = flags.Parser("try", description="Tries.")
    parser.add_argument("--given", metavar="FILE")
    for name in ("--page", "--more"):
        parser.add_output(name, endings=(".html",))
    parser.add_output("--table", endings=(".csv", ".tsv", ".html2"))
    parser.add_output("--place", endings=(".html",), or_folder=True)
    with pytest.raises(base.InputError, match=re.escape(told)):
        flags.parse(parser, words)
    fine = ["--page=OUT.HTML", "--more=sub/out.html", "--place=map.d", "--table=/dev/stdout", "--given=in.html"]
    assert flags.parse(parser, fine)["page"] == "OUT.HTML"
