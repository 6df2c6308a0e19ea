"""How fast a map of `simclr-jax explore` opens and moves, in headless Chromium with the package playwright.

python benchmarks/explore.py explore.html site/index.html
python benchmarks/explore.py --synthetic 1000000 features.npz      writes features of so many points in 200 groups

Chromium without a graphics card draws by SwiftShader on the CPU: a lower bound of what a reader's machine does.
"""

import argparse
import os
import pathlib
import shutil
import time

import numpy as np

_ALL = """() => {
  const { map, view, meta } = explorer, gl = map.gl, pixel = new Uint8Array(4);
  const start = performance.now();
  let frames = 0;
  while (performance.now() - start < 3000) {
    view.x += 0.001 * (frames % 2 ? 1 : -1);
    map.draw.points(meta.count, 2, false);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);  // waits for the frame
    frames++;
  }
  return (1000 * frames) / (performance.now() - start);
}"""
_MOVING = """async () => {
  const canvas = document.getElementById("points"), box = canvas.getBoundingClientRect();
  const wheel = (deltaY) => canvas.dispatchEvent(new WheelEvent("wheel", {
    deltaY, clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, cancelable: true }));
  let frames = 0, start = 0;
  for (let turn = 0; turn < 400 && (!start || performance.now() - start < 4000); turn++) {
    wheel(turn % 40 < 20 ? -10 : 10);
    await new Promise(requestAnimationFrame);
    if (turn === 60) [frames, start] = [0, performance.now()];  // by now as many points are drawn as the machine can
    frames++;
  }
  return [(1000 * frames) / (performance.now() - start), Math.min(explorer.view.budget, explorer.meta.count)];
}"""
_SEARCH = """async () => {
  const start = performance.now();
  const found = await explorer.search("group007");
  const first = performance.now() - start, again = performance.now();
  await explorer.search("group011");
  return [found.length, first / 1000, (performance.now() - again) / 1000];
}"""


def measure(page_file: str) -> None:
    """Prints seconds until the map is there, frames a second, and seconds of a search."""
    from playwright import sync_api

    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        start = time.perf_counter()
        page.goto(pathlib.Path(page_file).resolve().as_uri())
        page.wait_for_selector("body[data-ready=yes]", state="attached", timeout=300_000)
        opened = time.perf_counter() - start
        every = page.evaluate(_ALL)
        moving, drawn = page.evaluate(_MOVING)
        found, first, again = page.evaluate(_SEARCH)
        print(f"{page_file}: {page.evaluate('explorer.meta.count'):,} points, load {os.getloadavg()[0]:.1f}")
        print(f"  open {opened:.1f} s; all points {every:.1f} frames/s; moving {moving:.1f} with {drawn:,.0f} points")
        print(f"  a search {first:.2f} s the first time, then {again:.2f} s ({found} found)")
        browser.close()


def synthesize(count: int, path: str) -> None:
    """Writes a file of features of points in 200 groups, without pictures."""
    from simclr_jax.run import feature_file

    rng = np.random.default_rng(0)
    group = rng.integers(0, 200, count)
    features = (rng.normal(size=(200, 32))[group] + 0.35 * rng.normal(size=(count, 32))).astype(np.float16)
    names = np.asarray([f"group{label:03d}/picture{row:07d}.jpg" for row, label in enumerate(group)])
    sizes, digests = np.full((count, 2), 32, np.int32), np.arange(count, dtype=np.uint64)
    rows = feature_file.Rows(features, names, group.astype(np.int32), np.full(count, ""), sizes, digests)
    meta = {"fingerprint": "0" * 64, "layer": "h", "protocol": "synthetic", "images": "synthetic", "split": None}
    classes = [f"group{label:03d}" for label in range(200)]
    feature_file.save(path, [rows], meta={**meta, "class_names": classes}, num_rows=count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", type=int)
    parser.add_argument("files", nargs="+")
    given = parser.parse_args()
    for file in given.files:
        synthesize(given.synthetic, file) if given.synthetic else measure(file)
