// Which places of two pictures are alike: the cosine of the features of their places, before they are averaged.

const compared = { rows: [-1, -1], values: [null, null], side: -1, place: -1 };
const PANE = 178;

async function comparePlaces(first, second) {
  compared.rows = [first, second];
  compared.values = await Promise.all(compared.rows.map(placesOf));
  compared.side = compared.place = -1;
  byId("places").hidden = false;
  await Promise.all([0, 1].map((side) => paint(byId(`pane-${side}`), compared.rows[side], PANE, meta.places.crop)));
  const titles = await Promise.all(compared.rows.map(nameOf));
  titles.forEach((title, side) => byId(`pane-${side}`).setAttribute("aria-label", title));
  drawHeat();
  byId("places").scrollIntoView({ block: "nearest" });
}

// Cosine of a place of one picture with every place of the other.
function similarPlaces(side, place) {
  const { grid, depth } = meta.places;
  const [own, other] = [compared.values[side], compared.values[1 - side]];
  const found = new Float32Array(grid * grid);
  for (let at = 0; at < grid * grid; at++) {
    let sum = 0;
    for (let k = 0; k < depth; k++) sum += own[place * depth + k] * other[at * depth + k];
    found[at] = sum / 16129;
  }
  return found;
}

// What each pane shows: of the place that is pointed at, its likeness everywhere in the other picture; else the best
// likeness of every place.
function heatOf(side) {
  const { grid } = meta.places;
  if (compared.side === 1 - side) return similarPlaces(compared.side, compared.place);
  if (compared.side === side) return new Float32Array(grid * grid);
  return Float32Array.from({ length: grid * grid }, (_, place) => Math.max(...similarPlaces(side, place)));
}

function drawHeat() {
  const { grid } = meta.places;
  let best = -2, where = 0;
  for (const side of [0, 1]) {
    const canvas = byId(`heat-${side}`);
    const context = canvas.getContext("2d");
    canvas.width = canvas.height = PANE * view.ratio;
    canvas.style.width = canvas.style.height = `${PANE}px`;
    const cell = canvas.width / grid;
    heatOf(side).forEach((value, at) => {
      const [column, line] = [at % grid, Math.floor(at / grid)];
      context.fillStyle = `rgba(213,94,0,${0.75 * Math.max(0, value) ** 3})`;
      context.fillRect(column * cell, line * cell, cell, cell);
      if (value > best && compared.side === 1 - side) [best, where] = [value, at];
    });
    const marked = compared.side === side ? compared.place : compared.side === 1 - side ? where : -1;
    if (marked < 0) continue;
    context.strokeStyle = "white";
    context.lineWidth = 2 * view.ratio;
    context.strokeRect((marked % grid) * cell + 1, Math.floor(marked / grid) * cell + 1, cell - 2, cell - 2);
  }
  byId("places-said").textContent = compared.side < 0
    ? "Redder: the other picture has a place like this. Point at a place, or use the arrow keys, to see where."
    : `The most similar place has ${best.toFixed(2)} (1: the same, 0: nothing in common).`;
}

function pointAt(side, place) {
  [compared.side, compared.place] = [side, place];
  drawHeat();
}

function initPlaces() {
  if (!meta.places) return;
  const { grid } = meta.places;
  byId("places-note").textContent = meta.places.note;
  byId("places-close").addEventListener("click", () => (byId("places").hidden = true));
  for (const side of [0, 1]) {
    const pane = byId(`heat-${side}`);
    pane.addEventListener("pointermove", (event) => {
      const box = pane.getBoundingClientRect();
      const cell = (offset) => Math.min(grid - 1, Math.max(0, Math.floor((offset * grid) / box.width)));
      pointAt(side, cell(event.clientY - box.top) * grid + cell(event.clientX - box.left));
    });
    pane.addEventListener("pointerleave", () => pointAt(-1, -1));
    pane.addEventListener("blur", () => pointAt(-1, -1));
    pane.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid, ArrowDown: grid }[event.key];
      if (!step) return;
      event.preventDefault();
      const from = compared.side === side ? compared.place : Math.floor((grid * grid) / 2) - step;
      pointAt(side, (from + step + grid * grid) % (grid * grid));
    });
  }
}
