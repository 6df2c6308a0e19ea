// The panels beside the map: legend and filters, the picture that was chosen with its neighbours, the selection.

const byId = (id) => document.getElementById(id);
const FIRST_SHOWN = 48;
let shownOfSelection = FIRST_SHOWN;

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text; // never as markup: names are other people's words
  return made;
}

// A picture to click at, with words below it.
function shot(row, side, words = "", mark = "") {
  const button = element("button", `shot ${mark}`);
  button.type = "button";
  if (meta.sheets) {
    const canvas = element("canvas");
    canvas.width = canvas.height = side;
    canvas.style.width = canvas.style.height = `${side}px`;
    button.append(canvas);
    paint(canvas, row, side).catch(() => canvas.classList.add("gone"));
  }
  if (words) button.append(element("span", "", words));
  button.dataset.row = row;
  button.addEventListener("click", () => pick(row));
  nameOf(row).then((name) => {
    if (!meta.sheets) button.append(element("span", "name", name)); // points only
    button.title = name;
    button.setAttribute("aria-label", name);
  });
  return button;
}

function showLegend() {
  const field = data.fields[state.field];
  const body = byId("legend");
  body.replaceChildren();
  if (!field) return;
  byId("field-note").textContent = field.note;
  body.append(...(field.names ? categoryRows(field) : numberRows(field)));
}

function categoryRows(field) {
  const counts = new Map();
  field.values.forEach((level, row) => {
    if (state.visible[row] || state.filters[field.number].has(level)) counts.set(level, (counts.get(level) || 0) + 1);
  });
  const levels = [...field.names.keys()].filter((level) => counts.has(level));
  if (counts.has(NONE)) levels.push(NONE);
  return levels.map((level) => {
    const row = element("div", "category");
    const box = element("input");
    box.type = "checkbox";
    box.checked = !state.filters[field.number].has(level);
    const name = level === NONE ? "none" : field.names[level];
    box.setAttribute("aria-label", `show ${name}`);
    box.addEventListener("change", () => {
      state.filters[field.number][box.checked ? "delete" : "add"](level);
      applyFilters();
    });
    const swatch = element("i", "swatch");
    swatch.style.background = css(colorOf(field, level));
    const button = element("button", "link", name);
    button.type = "button";
    button.title = `select all of ${name}`;
    button.addEventListener("click", () => selectLevel(field, level, name));
    row.append(box, swatch, button, element("small", "", counts.get(level).toLocaleString("en")));
    return row;
  });
}

function selectLevel(field, level, name) {
  const rows = [];
  field.values.forEach((own, row) => own === level && rows.push(row));
  select(rows, `${field.name}: ${name}`);
}

function numberRows(field) {
  const bins = new Array(40).fill(0);
  field.values.forEach((level) => level !== NONE && bins[Math.floor((level * 40) / NONE)]++);
  const most = Math.max(...bins, 1);
  const bars = element("div", "bars");
  bins.forEach((count, at) => {
    const bar = element("i");
    bar.style.height = `${Math.max(count ? 2 : 0, Math.round((56 * count) / most))}px`;
    bar.style.background = css(colorOf(field, ((at + 0.5) * NONE) / 40));
    bars.append(bar);
  });
  const ranges = [0, 1].map((end) => {
    const label = element("label", "range", end ? "up to " : "from ");
    const shown = element("b");
    const input = element("input");
    Object.assign(input, { type: "range", min: 0, max: 1000, step: 1 });
    const filter = state.filters[field.number];
    input.value = Math.round((1000 * filter[end]) / NONE);
    const tell = () => (shown.textContent = short(numberOf(field, Math.min(filter[end], NONE - 1))));
    tell();
    input.addEventListener("input", () => {
      filter[end] = Math.round((input.value * NONE) / 1000);
      tell();
      applyFilters();
    });
    label.append(shown, input);
    return label;
  });
  return [bars, ...ranges];
}

async function showPicked() {
  const row = state.picked;
  byId("picked").hidden = row < 0;
  byId("welcome").hidden = row >= 0;
  byId("places").hidden = true;
  if (row < 0) return;
  const [name, texts] = await Promise.all([nameOf(row), textsOf(row)]);
  if (row !== state.picked) return;
  byId("texts").replaceChildren(...texts.map((text) => element("p", "", text)));
  byId("picked-name").textContent = name;
  byId("picked-picture").hidden = !meta.sheets;
  paint(byId("picked-picture"), row, 176).catch(() => {});
  byId("picked-picture").setAttribute("aria-label", name);
  const facts = byId("facts");
  facts.replaceChildren();
  for (const field of data.fields) {
    const value = valueOf(field, row);
    if (value !== "") facts.append(element("dt", "", field.name), element("dd", "", value));
  }
  await showNear(row);
  announce(`${name} chosen`);
}

async function showNear(row) {
  const label = data.fields[meta.label];
  const groups = await Promise.all(meta.near.map((_, space) => neighborsOf(row, space)));
  if (row !== state.picked) return;
  const place = byId("near");
  place.replaceChildren();
  meta.near.forEach((space, number) => {
    const shots = element("div", "shots");
    for (const { row: other, similarity } of groups[number]) {
      const known = label && label.values[row] !== NONE && label.values[other] !== NONE;
      const right = known && label.values[row] === label.values[other];
      const sign = known ? (right ? "✓ " : "✗ ") : "";
      const tile = element("div");
      tile.append(shot(other, 78, sign + similarity.toFixed(3), right ? "right" : ""));
      if (meta.places) tile.append(compareButton(row, other));
      shots.append(tile);
    }
    const title = element("h3", "", space.title);
    const all = element("button", "link", "select");
    all.type = "button";
    const rows = [row, ...groups[number].map((one) => one.row)];
    all.addEventListener("click", () => select(rows, `a picture and its ${space.title.toLowerCase()}`));
    title.append(" ", all);
    place.append(title, shots);
  });
  state.near = groups.length ? groups[0].map((one) => one.row) : [];
  changed("view");
}

function compareButton(row, other) {
  const button = element("button", "link", "compare");
  button.type = "button";
  button.title = "which places of the two pictures are alike";
  button.addEventListener("click", () => comparePlaces(row, other));
  return button;
}

function showSelection() {
  const rows = state.selection;
  byId("selection").hidden = !state.selected;
  if (!state.selected) return;
  byId("selection-count").textContent = counted(rows.length, "picture");
  byId("selection-said").textContent = state.said;
  byId("composition").replaceChildren(...composition(rows));
  byId("selection-shots").replaceChildren(...rows.slice(0, shownOfSelection).map((row) => shot(row, 56)));
  byId("more").hidden = rows.length <= shownOfSelection;
  announce(`${counted(rows.length, "picture")} selected`);
}

// What the selection consists of, by the field that colours the map.
function composition(rows) {
  const field = data.fields[state.field];
  if (!field || !field.names || !rows.length) return [];
  const counts = new Map();
  for (const row of rows) counts.set(field.values[row], (counts.get(field.values[row]) || 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).slice(0, 6).map(([level, count]) => {
    const line = element("div", "share");
    const bar = element("i");
    bar.style.width = `${(100 * count) / rows.length}%`;
    bar.style.background = css(colorOf(field, level));
    line.append(element("span", "", level === NONE ? "none" : field.names[level]), bar, element("small", "", String(count)));
    return line;
  });
}

async function saveCsv() {
  const blob = new Blob([await asCsv(state.selection)], { type: "text/csv" });
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = "selection.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function announce(words) {
  byId("live").textContent = words;
}
