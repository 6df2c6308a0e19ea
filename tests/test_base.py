"""The nouns: what is passed on to people fits in one line and keeps its reason."""

import pytest

from simclr_jax import base


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("plain", "plain"),
        (ValueError("a\n  b\t c\r\n"), "a b c"),
        ("\x1b[1mbold\x1b[0m and \x1b[38;5;196mred\x1b[0m", "bold and red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07 \x1b]0;title", "link"),
        ("bell\x07 null\x00 \x1b", "bell\\x07 null\\x00 \\x1b"),
        ("right\u202eleft \udc80 ü 中", "right\\u202eleft \\udc80 ü 中"),
        (KeyError("x"), "'x'"),
        ("", ""),
    ],
)
def test_what_a_library_said_becomes_one_printable_line(said, expected):
    assert base.one_line(said) == expected


@pytest.mark.parametrize("limit", [20, 60, 61, 400])
def test_a_long_message_keeps_its_beginning_and_its_end(limit):
    shortened = base.one_line("begin " + "x" * 5000 + " the reason", limit)
    assert limit - 1 <= len(shortened) <= limit
    assert shortened.startswith("begin") and shortened.endswith("reason") and " ... " in shortened
    assert base.one_line("x" * limit, limit) == "x" * limit


def test_a_long_list_of_choices_is_drawn_together_and_a_short_one_is_not():
    def said(choices):
        with pytest.raises(base.InputError) as caught:
            base.check_choice("foo", choices, name="name")
        return str(caught.value)

    assert said(["tf2", "tf1"]) == "name must be one of tf2, tf1; got 'foo'."
    long = [f"{stem}{number}" for stem in ("some_network_", "another_network") for number in range(10)]
    assert said(long) == f"name must be one of some_network_{'|'.join('0123456789')}, another_network" + (
        f"{'|'.join('0123456789')}; got 'foo'."
    )
