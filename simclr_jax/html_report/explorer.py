"""A map to click through: points, pictures, neighbours, filters, search; one HTML file, or a folder for large sets.

Everything a page shows lies in it or beside it, and it loads nothing else. Small values are JSON in the page, the rest
arrays of bytes: in a single file as elements in base64, in a folder as scripts which assign base64, for a page opened
from a disk may load scripts but may not read files. Rows are sorted along a curve over the map, so that what is near on
the map lies in the same sheets and blocks, which are loaded when they are needed.
"""

import base64
import dataclasses
import hashlib
import importlib.resources
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import atomic_files, units
from simclr_jax.html_report import sheets as sheets_lib

BLOCK = 4096  # rows whose names, texts, neighbours and places are loaded together
_NONE = 65535
_SCRIPTS = ("data", "view", "state", "panels", "places", "app")

Put = Callable[[str, bytes], None]


class Field(NamedTuple):
    """What points are coloured and filtered by: a class or a number of every picture.

    values: int [N], numbers of `names`, -1 for none; or, without names, float [N], NaN for none.
    """

    name: str
    values: np.ndarray
    names: tuple[str, ...] | None = None
    note: str = ""


class Near(NamedTuple):
    """The nearest others of every picture in one space, best first: rows int [N, K], similarities float [N, K]."""

    title: str
    rows: np.ndarray
    similarities: np.ndarray


class Places(NamedTuple):
    """Features of the places of pictures: int8 [N, grid, grid, depth], 127 times rows of length one.

    crop: side of the central square that the places cover, as a share of the shorter side. note: for the page.
    """

    values: np.ndarray
    crop: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Explorer:
    """All that a map shows.

    Attributes:
        title, notes: heading, and sentences on what it is and how it was made.
        positions: float [N, 2].
        names: of the pictures.
        fields: what points can be coloured by; `label` is the number of the one that is the true class, -1 for none,
            and `start` of the one that is shown first.
        near: neighbours, each in a space of its own.
        places: None for none.
        texts: what is written about every picture, a line each; () for none.
    """

    title: str
    positions: np.ndarray
    names: Sequence[str]
    notes: Sequence[str] = ()
    fields: Sequence[Field] = ()
    near: Sequence[Near] = ()
    places: Places | None = None
    label: int = -1
    start: int = 0
    texts: Sequence[str] = ()


def map_order(positions: np.ndarray) -> np.ndarray:
    """int64 [N]: rows along a Z-shaped curve over the map, to be sorted by before a page is written."""
    cells = _levels(positions).astype(np.uint64)
    code = np.zeros(len(cells), np.uint64)
    for bit in range(16):
        for axis in range(2):
            code |= ((cells[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(2 * bit + axis)
    return np.argsort(code, kind="stable")


def write_page(explorer: Explorer, path: pathlib.Path, *, sheets: sheets_lib.Sheets | None) -> None:
    """Writes a page of one file; the rows are sorted, see `map_order`.

    Args:
        explorer: what is shown.
        path: of the page.
        sheets: pictures in the same order, held in memory; None for none.

    Raises:
        base.InputError: the page cannot be written.
    """
    held: dict[str, bytes] = {}
    _put_all(explorer, sheets, held.__setitem__)
    inlined = [(name, base64.b64encode(content).decode("ascii")) for name, content in held.items()]
    for number in range(sheets.num if sheets else 0):
        assert sheets is not None
        inlined.append((f"sheet-{number}", base64.b64encode(sheets.read(number)).decode("ascii")))
    atomic_files.write_text(path, _page(explorer, sheets, inlined=inlined))


def write_site(explorer: Explorer, folder: pathlib.Path, *, sheets: sheets_lib.Sheets | None) -> None:
    """Writes index.html and its data into a folder, in which the sheets of pictures are already; see `write_page`."""

    def put(name: str, content: bytes) -> None:
        text = base64.b64encode(content).decode("ascii")
        (folder / "data" / f"{name}.js").write_text(f'explorerData("{name}","{text}")', encoding="ascii")

    (folder / "data").mkdir(exist_ok=True)
    _put_all(explorer, sheets, put)
    atomic_files.write_text(folder / "index.html", _page(explorer, sheets, inlined=[]))


def _page(explorer: Explorer, sheets: sheets_lib.Sheets | None, *, inlined: list[tuple[str, str]]) -> str:
    import jinja2
    import markupsafe

    loader = jinja2.PackageLoader("simclr_jax", "html_report")
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    template = jinja2.Environment(loader=loader, autoescape=True, **options).get_template("explorer.html.j2")
    code = _code()
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii")
    # The page's own script by its digest; in a folder also those beside it. Nothing of another place is loaded.
    beside = "" if inlined else " 'self'"
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'{beside}; style-src 'unsafe-inline'; "
        f"img-src data:{beside}; base-uri 'none'; form-action 'none'"
    )
    return template.render(
        title=explorer.title,
        notes=explorer.notes,
        count=f"{len(explorer.names):,} {units.noun(len(explorer.names), 'picture')}",
        searched="path, class or text" if explorer.texts else "path or class",
        policy=policy,
        css=markupsafe.Markup(_file("explorer.css")),
        meta=markupsafe.Markup(_json(_meta(explorer, sheets, is_folder=not inlined))),
        inlined=inlined,
        code=markupsafe.Markup(code),
    )


def _code() -> str:
    parts = [_file(f"explorer_{name}.js") for name in _SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();"


def _file(name: str) -> str:
    return (importlib.resources.files("simclr_jax.html_report") / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON for the middle of a page: no letter of it can end the element or begin another one."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _meta(explorer: Explorer, sheets: sheets_lib.Sheets | None, *, is_folder: bool) -> dict[str, Any]:
    places = explorer.places
    return {
        "title": explorer.title,
        "count": len(explorer.names),
        "block": BLOCK,
        "folder": is_folder,
        "label": explorer.label,
        "start": explorer.start,
        "fields": [_field_meta(field) for field in explorer.fields],
        "texts": bool(explorer.texts),
        "near": [{"title": near.title, "k": near.rows.shape[1]} for near in explorer.near],
        "sheets": sheets
        and {"side": sheets.side, "columns": sheets.columns, "pictures": sheets.pictures, "kind": "webp"},
        "places": places
        and {
            "grid": places.values.shape[1],
            "depth": places.values.shape[3],
            "crop": places.crop,
            "note": places.note,
        },
    }


def _field_meta(field: Field) -> dict[str, Any]:
    low, high = (0.0, 1.0) if field.names is not None else _range(field.values)
    names = None if field.names is None else [_text(name) for name in field.names]
    return {"name": _text(field.name), "note": field.note, "names": names, "low": low, "high": high}


def _range(values: np.ndarray) -> tuple[float, float]:
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    return float(finite.min()), max(float(finite.max()), float(finite.min()) + 1e-9)


def _put_all(explorer: Explorer, sheets: sheets_lib.Sheets | None, put: Put) -> None:
    put("points", _levels(explorer.positions).astype("<u2").tobytes())
    if sheets is not None:
        put("sizes", sheets.sizes.tobytes())
    for number, field in enumerate(explorer.fields):
        put(f"field-{number}", _field_levels(field).astype("<u2").tobytes())
    for block, start in enumerate(range(0, len(explorer.names), BLOCK)):
        rows = slice(start, start + BLOCK)
        put(f"names-{block}", _joined(explorer.names[rows]))
        if explorer.texts:
            put(f"texts-{block}", _joined(explorer.texts[rows]))
        if explorer.near:
            parts = []
            for near in explorer.near:
                levels = np.rint((np.clip(near.similarities[rows], -1, 1) + 1) * 32767.5)
                parts += [near.rows[rows].astype("<u4").tobytes(), levels.astype("<u2").tobytes()]
            put(f"near-{block}", b"".join(parts))
        if explorer.places is not None:
            put(f"places-{block}", np.ascontiguousarray(explorer.places.values[rows], np.int8).tobytes())


def _joined(texts: Sequence[str]) -> bytes:
    return "\0".join(_text(text).replace("\0", " ") for text in texts).encode("utf-8", "replace")


def _levels(positions: np.ndarray) -> np.ndarray:
    """Positions in a square, from 0 to 65,535, of one scale on both axes."""
    positions = np.asarray(positions, np.float64)
    if not len(positions):
        return np.zeros((0, 2), np.int64)
    low, high = positions.min(axis=0), positions.max(axis=0)
    side = max(float((high - low).max()), 1e-12)
    return np.rint(((positions - (low + high) / 2) / side + 0.5) * _NONE).astype(np.int64)


def _field_levels(field: Field) -> np.ndarray:
    if field.names is not None:
        # A field of more classes than fit shows the first ones.
        return np.where((field.values >= 0) & (field.values < _NONE), field.values, _NONE)
    low, high = _range(field.values)
    values = np.asarray(field.values, np.float64)
    levels = np.rint((values - low) / (high - low) * (_NONE - 1))
    return np.where(np.isfinite(values), levels, _NONE)


def _text(text: str) -> str:
    """Text that UTF-8 can hold: the name of a file may have bytes that are none."""
    return str(text).encode("utf-8", "replace").decode("utf-8")
