"""The map in a real browser, from a disk and from the server: click, search, select, neighbours, places, a CSV."""

import csv
import io
import json
import os
import pathlib
import shutil
import threading

import numpy as np
import pytest

from simclr_jax import html_report
from simclr_jax.cli import explore_serve
from simclr_jax.html_report import explorer as explorer_lib

playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
expect = playwright.expect
expect.set_options(timeout=60_000)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# With this variable Playwright's own is used where there is no other, and its absence is a failure.
IS_REQUIRED = bool(os.environ.get("SIMCLR_BROWSER"))
pytestmark = pytest.mark.skipif(CHROMIUM is None and not IS_REQUIRED, reason="no Chromium on this machine")

COUNT = 60
HOSTILE = '"><img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>, \u2028.png'


@pytest.fixture(scope="module")
def made():
    """A grid of 60 points in three classes of twenty, on lines one above the other; neighbours are the next two."""
    positions = np.stack([np.arange(COUNT) % 20, np.arange(COUNT) // 20 * 6], axis=1).astype(float)
    labels = np.arange(COUNT) // 20
    names = [f"class{label}/{row:02d}.png" for row, label in enumerate(labels)]
    names[33] = HOSTILE
    order = html_report.map_order(positions)
    place = np.argsort(order)
    rows = np.stack([(np.arange(COUNT) + shift) % COUNT for shift in (1, 2)], axis=1)
    near = [
        html_report.Near(title, place[rows[order]], np.tile([0.9, 0.5], (COUNT, 1)))
        for title in ("Nearest by the representation", "Nearest by pixels")
    ]
    places = np.zeros((COUNT, 2, 2, 4), np.int8)
    places[:, [0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 2, 3]] = 127  # every place has a direction of its own
    shots = [np.full((8, 8, 3), 40 + 4 * row, np.uint8) for row in order]
    explorer = html_report.Explorer(
        title="Sixty <b>pictures</b>",
        positions=positions[order],
        names=[names[row] for row in order],
        fields=[
            html_report.Field("label", labels[order], ("class0", "class1", "class2")),
            html_report.Field("score", order / COUNT),
        ],
        near=near,
        places=html_report.Places(places, 1.0),
        label=0,
        texts=[f"{HOSTILE if row == 33 else 'a Dog'} no. {row}\nseen twice" for row in order],
    )
    return explorer, lambda folder: html_report.make_sheets(
        COUNT, lambda wanted: [shots[row] for row in wanted], side=8, folder=folder
    )


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(
    scope="module", params=["file", *(pytest.param(way, marks=pytest.mark.slow) for way in ("folder", "server"))]
)
def opened(request, made, browser, tmp_path_factory):
    """(the page, the addresses that it asked for, its errors) of one file, of a folder from disk, and served."""
    explorer, draw = made
    root = tmp_path_factory.mktemp(request.param)
    address, server = (root / "e.html").as_uri(), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorer_lib, "BLOCK", 16)
        if request.param == "file":
            html_report.write_page(explorer, root / "e.html", sheets=draw(None))
        else:
            (root / "data").mkdir()
            html_report.write_site(explorer, root, sheets=draw(root / "data"))
            address = (root / "index.html").as_uri()
    if request.param == "server":
        server = explore_serve.make_server(root, 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
    page = browser.new_page(viewport={"width": 1300, "height": 800})
    page.set_default_timeout(120_000)  # on a busy machine
    page.set_default_navigation_timeout(120_000)
    asked, errors = [], []
    page.on("request", lambda one: asked.append(one.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
    page.goto(address)
    page.wait_for_selector("body[data-ready=yes]", state="attached")
    yield page, asked, errors
    page.close()
    if server is not None:
        server.shutdown()
        server.server_close()


@pytest.fixture
def page(opened):
    page, asked, errors = opened
    page.keyboard.press("Escape")
    page.evaluate("explorer.state.filters[0].clear(); explorer.state.filters[1] = [0, 65535]; explorer.applyFilters()")
    page.select_option("#field", label="label")
    page.click("#zoom-fit")
    page.click("#tool-move")
    page.mouse.move(0, 0)
    yield page
    assert errors == [] and page.evaluate("window.hacked") is None
    # Nothing but the page's own files: no network.
    own = page.url.rpartition("/")[0]
    assert [url for url in asked if not url.startswith((own, "data:", "blob:"))] == []


def where(page, name):
    """The middle of a picture's point, in pixels of the window."""
    return page.evaluate(
        """async (name) => {
          const row = (await explorer.search(name))[0];
          const box = document.getElementById("points").getBoundingClientRect();
          const [x, y] = explorer.toScreen(...explorer.pointOf(row));
          return [x + box.left, y + box.top];
        }""",
        name,
    )


def shown(page, within):
    """The names of the pictures in a panel."""
    page.wait_for_function(
        "(id) => [...document.querySelectorAll(`${id} .shot`)].every((one) => one.title)", arg=within
    )
    return [one.get_attribute("title") for one in page.query_selector_all(f"{within} .shot")]


def saved(page):
    with page.expect_download() as download:
        page.click("#export")
    assert download.value.suggested_filename == "selection.csv"
    text = pathlib.Path(download.value.path()).read_bytes().decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_click_shows_the_picture_and_its_neighbours_in_both_spaces(page):
    page.mouse.click(*where(page, "class1/25.png"))
    page.wait_for_selector("#near .shot")
    assert page.inner_text("#picked-name") == "class1/25.png"
    near = ["class1/26.png", "class1/27.png"]
    assert shown(page, "#near") == near * 2
    assert page.inner_text("#near .shot.right >> nth=0").strip() == "✓ 0.900"
    assert page.inner_text("#facts").split() == ["label", "class1", "score", "0.4167"]
    assert page.locator("#texts p").all_inner_texts() == ["a Dog no. 25", "seen twice"]
    page.click("#near .shot >> nth=1")  # on to a neighbour
    expect(page.locator("#picked-name")).to_have_text("class1/27.png")


def test_words_find_paths_and_classes_and_a_selection_is_saved_as_csv(page):
    page.fill("#search", "CLASS2")
    expect(page.locator("#selection-count")).to_have_text("20 pictures")
    rows = saved(page)
    assert (
        len(rows) == 20
        and {row["label"] for row in rows} == {"class2"}
        and list(rows[0]) == [*("path", "label", "score", "x", "y")]
    )
    for words, found in (("dog NO. 25", "1 picture"), ("twice", "60 pictures"), ("dog no. 2", "11 pictures")):
        page.fill("#search", words)  # captions
        expect(page.locator("#selection-count")).to_have_text(found)
    page.fill("#search", "onerror")
    expect(page.locator("#selection-count")).to_have_text("1 picture")
    assert [row["path"] for row in saved(page)] == [HOSTILE] and shown(page, "#selection-shots") == [HOSTILE]


def drag(page, line):
    page.mouse.move(*line[0])
    page.mouse.down()
    for point in line[1:]:
        page.mouse.move(*point, steps=4)
    page.mouse.up()


@pytest.mark.parametrize("tool", ["box", "lasso"])
def test_what_lies_in_a_box_or_a_lasso_is_selected(page, tool):
    (x0, y0), (x1, y1) = where(page, "class1/22.png"), where(page, "class0/07.png")
    page.click(f"#tool-{tool}")
    corners = [(x0 - 8, y0 - 8), (x1 + 8, y0 - 8), (x1 + 8, y1 + 8), (x0 - 8, y1 + 8)]
    drag(page, [corners[0], corners[2]] if tool == "box" else corners)
    names = {row["path"] for row in saved(page)}
    assert names == {f"class{row // 20}/{row:02d}.png" for row in (2, 3, 4, 5, 6, 7, 22, 23, 24, 25, 26, 27)}
    assert page.inner_text("#composition").split() == ["class0", "6", "class1", "6"]


def test_a_filter_takes_points_away_from_what_is_selected_and_clicked(page):
    page.click("#legend input >> nth=1")  # class1
    assert page.evaluate("explorer.state.visible.reduce((sum, one) => sum + one)") == 40
    page.fill("#search", "png")
    expect(page.locator("#selection-count")).to_have_text("40 pictures")
    page.select_option("#field", label="score")
    page.evaluate("[...document.querySelectorAll('.range input')][1].value = 250")
    page.dispatch_event(".range input >> nth=1", "input")
    assert page.evaluate("explorer.state.visible.reduce((sum, one) => sum + one)") == 15  # a quarter of 60, all class0
    page.evaluate("explorer.state.filters[1].splice(0, 2, 0, 65535)")
    page.select_option("#field", label="label")
    page.click("#legend input >> nth=1")
    assert page.evaluate("explorer.state.visible.reduce((sum, one) => sum + one)") == 60


def test_keys_move_the_map_and_choose_a_picture(page):
    page.focus("#points")
    before = page.evaluate("[explorer.view.x, explorer.view.scale]")
    for key in ("ArrowRight", "+"):
        page.keyboard.press(key)
    after = page.evaluate("[explorer.view.x, explorer.view.scale]")
    assert after[0] > before[0] and after[1] > before[1]
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#picked:not([hidden])")
    assert page.inner_text("#picked-name") in ("class1/29.png", "class1/30.png")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"


def test_places_are_compared_by_their_features(page):
    page.mouse.click(*where(page, "class0/03.png"))
    page.click("text=compare >> nth=0")
    page.wait_for_selector("#places:not([hidden])")
    page.focus("#heat-0")
    page.keyboard.press("ArrowRight")  # the middle place: its own direction is that of the same place
    assert page.inner_text("#places-said").startswith("The most similar place has 1.00")
    painted = """() => {
      const canvas = document.getElementById("heat-1"), cell = canvas.width / 2;
      const seen = (x, y) => canvas.getContext("2d").getImageData(cell * (x + 0.5), cell * (y + 0.5), 1, 1).data[3];
      return [seen(0, 0), seen(1, 0), seen(0, 1), seen(1, 1)].map((alpha) => alpha > 100);
    }"""
    assert json.dumps(page.evaluate(painted)) == "[false, false, true, false]"


def test_points_and_pictures_are_drawn(page):
    colors = """() => {
      explorer.map.draw.points(explorer.meta.count, 9, false);
      const gl = explorer.map.gl, size = [gl.drawingBufferWidth, gl.drawingBufferHeight];
      const pixels = new Uint8Array(4 * size[0] * size[1]), found = new Set();
      gl.readPixels(0, 0, ...size, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
      for (let at = 0; at < pixels.length; at += 4)
        if (pixels[at + 3] > 200) found.add([0, 1, 2].map((k) => (pixels[at + k] * 255) / pixels[at + 3]).join());
      return [...found].map((color) => color.split(",").map(Number));
    }"""
    if page.evaluate("explorer.map.gl !== null"):
        found = np.asarray(page.evaluate(colors))
        for wanted in ((0, 114, 178), (213, 94, 0), (0, 158, 115)):  # one a class
            assert np.abs(found - wanted).max(axis=1).min() < 2
    page.click("#show-pictures")
    if not page.evaluate("explorer.meta.folder"):  # elsewhere the browser lets nobody read what is painted
        painted = """async () => {
          await new Promise((done) => setTimeout(done, 300));
          const canvas = document.getElementById("pictures");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return data.some((value) => value > 0);
        }"""
        assert page.evaluate(painted)
    page.click("#show-pictures")
