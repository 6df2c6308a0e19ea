"""`simclr-jax data`: what a run would see of its data, and what feeding them costs this host; see `data_look`."""

from typing import Any

from simclr_jax.cli import flags


def make_parser() -> flags.Parser:
    """The flags of `data`."""
    parser = flags.Parser(
        "data",
        description="""\
Looks at the data that a config would train on: counts, classes, sizes, colours,
what is damaged or odd, a contact sheet; and how fast this host reads, decodes
and crops them: how many of its cores would feed the devices planned.""",
        examples=("--config=folder:PHOTOS --devices=1",),
    )
    sheet = "the contact sheet: .png, .jpg or .webp; default %(default)s"
    parser.add_output("--output", default="data.png", endings=(".png", ".jpg", ".webp"), help=sheet)
    parser.add_output("--json", endings=(".json",), help="the same as JSON")
    flags.add_devices(parser, "how many are to be fed")
    flags.add_config(parser)
    return parser


def main(**values: Any) -> int:
    """Looks at the data; see `data_look.look_at`."""
    from simclr_jax.cli import data_look

    return data_look.look_at(**values)
