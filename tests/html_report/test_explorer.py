"""The page of a map: what it holds, that nothing in it is run or loaded that is not its own, and its sheets."""

import base64
import hashlib
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from simclr_jax import html_report
from simclr_jax.html_report import explorer as explorer_lib

HOSTILE = (
    "<script>alert(1)</script>.png",
    '"><img src=x onerror=alert(1)>',
    "</script>\u2028é'&amp;",
    "bad\udcff\nname",
)
RNG = np.random.default_rng(0)


def make_explorer(count=7, **changes):
    fields = [
        html_report.Field("label", np.arange(count) % 3 - 1, ("a</script>", "b"), "note <b>"),
        html_report.Field("score", np.where(np.arange(count) == 2, np.nan, np.linspace(-1, 3, count))),
    ]
    rows = np.stack([(np.arange(count) + shift) % count for shift in (1, 2)], axis=1)
    near = [html_report.Near("Nearest", rows, np.tile([1.0, -0.25], (count, 1)))]
    values = {
        "title": HOSTILE[0],
        "positions": RNG.normal(size=(count, 2)) * [1, 4],
        "names": [HOSTILE[row % 4] for row in range(count)],
        "notes": (HOSTILE[1],),
        "fields": fields,
        "near": near,
        "places": html_report.Places(RNG.integers(-127, 128, (count, 2, 2, 3)).astype(np.int8), 0.875, "note"),
        "label": 0,
    }
    return html_report.Explorer(**{**values, **changes})


def make_sheets(count, folder=None, side=8):
    shots = [RNG.integers(0, 255, (side, side - row % 2, 3)).astype(np.uint8) for row in range(count)]
    return html_report.make_sheets(count, lambda rows: [shots[row] for row in rows], side=side, folder=folder)


def held(page):
    """Name -> bytes of what is inlined, and the JSON."""
    found = dict(re.findall(r'<script type="text/plain" id="data-([a-z0-9-]+)">([^<]*)</script>', page))
    meta = re.search(r'<script type="application/json" id="meta">([^<]*)</script>', page).group(1)
    return {name: base64.b64decode(text) for name, text in found.items()}, json.loads(meta)


def test_a_page_holds_its_values_as_they_are(tmp_path):
    made = make_explorer()
    html_report.write_page(made, tmp_path / "e.html", sheets=make_sheets(7))
    data, meta = held((tmp_path / "e.html").read_text())
    levels = np.frombuffer(data["points"], "<u2").reshape(7, 2) / 65535
    span = np.ptp(made.positions, axis=0)
    # One scale for both axes, the wider one from edge to edge.
    np.testing.assert_allclose(np.ptp(levels, axis=0), span / span.max(), atol=2e-5)
    assert np.frombuffer(data["field-0"], "<u2").tolist() == [65535, 0, 1, 65535, 0, 1, 65535]
    score = np.frombuffer(data["field-1"], "<u2")
    assert score[2] == 65535
    shown = meta["fields"][1]["low"] + score / 65534 * (meta["fields"][1]["high"] - meta["fields"][1]["low"])
    known = np.arange(7) != 2
    np.testing.assert_allclose(shown[known], np.asarray(made.fields[1].values)[known], atol=1e-4)
    near = data["near-0"]
    np.testing.assert_array_equal(np.frombuffer(near[: 7 * 2 * 4], "<u4").reshape(7, 2), made.near[0].rows)
    similar = np.frombuffer(near[7 * 2 * 4 :], "<u2").reshape(7, 2) / 32767.5 - 1
    np.testing.assert_allclose(similar, made.near[0].similarities, atol=2e-5)
    np.testing.assert_array_equal(np.frombuffer(data["places-0"], np.int8), made.places.values.ravel())
    assert data["names-0"].decode().split("\0")[:2] == list(HOSTILE[:2])


def test_a_page_runs_its_own_script_only_and_loads_nothing(tmp_path):
    html_report.write_page(make_explorer(), tmp_path / "e.html", sheets=make_sheets(7))
    page = (tmp_path / "e.html").read_text()
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1))
    (code,) = re.findall(r"(?s)<script>(.*?)</script>", page)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and policy.startswith("default-src 'none'")
    assert "img-src data:;" in policy and "connect-src" not in policy
    assert re.findall(r'(?:src|href)="([^"]*)', page) == ["data:,"] and not re.search("https?:", page)
    # Of hostile words only data and text are left.
    assert page.count("<script") == page.count("</script>") == 2 + len(held(page)[0])
    assert "alert(1)</" not in page and "onerror=alert(1)>" not in page
    assert "innerHTML" not in code and "eval(" not in code


def test_a_site_is_a_folder_of_blocks_that_are_loaded_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(explorer_lib, "BLOCK", 3)
    (tmp_path / "data").mkdir()
    made = make_explorer()
    html_report.write_site(made, tmp_path, sheets=make_sheets(7, folder=tmp_path / "data"))
    files = {path.name for path in (tmp_path / "data").iterdir()}
    blocks = {f"{kind}-{block}.js" for kind in ("names", "near", "places") for block in range(3)}
    assert files == blocks | {"points.js", "sizes.js", "field-0.js", "field-1.js", "sheet-0.webp"}
    name, text = re.fullmatch(
        r'explorerData\("([^"]*)","([^"]*)"\)', (tmp_path / "data" / "places-1.js").read_text()
    ).groups()
    assert name == "places-1" and base64.b64decode(text) == made.places.values[3:6].tobytes()
    page = (tmp_path / "index.html").read_text()
    assert (
        re.search(r"script-src (&#39;|')sha256-\S+ (&#39;|')self(&#39;|');", page) and held(page)[1]["folder"] is True
    )


def test_rows_in_map_order_lie_near_each_other():
    positions = RNG.uniform(size=(4000, 2))
    order = html_report.map_order(positions)
    assert sorted(order.tolist()) == list(range(4000))
    steps = np.linalg.norm(np.diff(positions[order], axis=0), axis=1)
    assert steps.mean() < 0.1 * np.linalg.norm(np.diff(positions, axis=0), axis=1).mean()


@pytest.mark.parametrize("in_folder", [False, True])
def test_sheets_hold_every_picture_in_the_corner_of_its_cell(tmp_path, in_folder):
    shots = [np.full((6 + row % 3, 8 - row % 2, 3), 9 * row, np.uint8) for row in range(11)]
    asked = []

    def draw(rows):
        asked.append(rows)
        return [shots[row] for row in rows]

    sheets = html_report.make_sheets(11, draw, side=8, folder=tmp_path if in_folder else None)
    assert sheets.num == len(asked) == 1 and sheets.pictures == 16
    sheet = np.asarray(Image.open(io.BytesIO(sheets.read(0))).convert("RGB"), int)
    for row, shot in enumerate(shots):
        height, width = sheets.sizes[row]
        assert (height, width) == shot.shape[:2]
        top, left = 8 * (row // 4), 8 * (row % 4)
        middle = sheet[top + 2 : top + height - 2, left + 2 : left + width - 2]
        assert np.abs(middle - 9 * row).max() < 12, row  # WebP loses a little
