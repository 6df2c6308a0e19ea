// The page at work: drawing when something changed, mouse, keys, search, and what lies over the points.

let map;
let pending = false, stirred = false, settled = 0, before = 0;
let hovered = -1;
let gesture = null; // {kind, line} while a button of the mouse is down

function redraw(moving = false) {
  if (moving) [stirred, settled] = [true, performance.now() + SETTLING_MS];
  if (!pending) {
    pending = true;
    requestAnimationFrame(drawFrame);
  }
}

// While the map moves, only as many points are drawn as the machine can; all of them as soon as it rests.
function drawFrame(now) {
  const moving = stirred || now < settled;
  const drawn = Math.floor(moving ? Math.min(meta.count, view.budget) : meta.count);
  if (moving && before) {
    const share = Math.min(1.2, Math.max(0.3, FRAME_MS / (now - before)));
    if (share < 0.7 || share > 1) view.budget = Math.max(FEWEST, drawn * share);
  }
  [pending, stirred, before] = [false, false, moving ? now : 0];
  map.draw.points(drawn, pointSize(), Boolean(state.selected));
  drawOverlay();
  if (moving) redraw();
  else if (settled) {
    settled = 0;
    if (state.pictures) drawPictures();
  }
}

function resize() {
  const box = map.canvas.parentElement.getBoundingClientRect();
  const old = view.width * view.height > 1 ? fitScale() : 0;
  view.ratio = Math.min(2, window.devicePixelRatio || 1);
  [view.width, view.height] = [Math.max(80, box.width), Math.max(80, box.height)];
  view.scale = old ? (view.scale * fitScale()) / old : fitScale();
  for (const id of ["points", "pictures", "overlay"]) {
    byId(id).width = Math.round(view.width * view.ratio);
    byId(id).height = Math.round(view.height * view.ratio);
  }
  redraw();
  if (state.pictures) drawPictures();
}

function drawOverlay() {
  const context = byId("overlay").getContext("2d");
  context.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
  context.clearRect(0, 0, view.width, view.height);
  const style = getComputedStyle(document.documentElement);
  const [ink, accent] = [style.getPropertyValue("--ink"), style.getPropertyValue("--accent")];
  const ring = (row, radius, color, width) => {
    const [x, y] = toScreen(...pointOf(row));
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
  };
  const size = pointSize() / 2;
  if (state.picked >= 0) {
    const from = toScreen(...pointOf(state.picked));
    context.globalAlpha = 0.5;
    for (const row of state.near) {
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...toScreen(...pointOf(row)));
      context.strokeStyle = ink;
      context.lineWidth = 1;
      context.stroke();
    }
    context.globalAlpha = 1;
    for (const row of state.near) ring(row, size + 3, ink, 1.5);
    ring(state.picked, size + 5, accent, 3);
  }
  if (hovered >= 0) ring(hovered, size + 3, ink, 2);
  if (document.activeElement === map.canvas && map.canvas.matches(":focus-visible")) drawCross(context, accent);
  if (gesture && gesture.kind !== "move") drawGesture(context, accent);
}

function drawCross(context, color) {
  const [x, y] = [view.width / 2, view.height / 2];
  context.beginPath();
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    context.moveTo(x + 5 * dx, y + 5 * dy);
    context.lineTo(x + 14 * dx, y + 14 * dy);
  }
  context.strokeStyle = color;
  context.lineWidth = 2;
  context.stroke();
}

function outline(shape) {
  if (shape.kind === "lasso") return shape.line;
  const [[x0, y0], [x1, y1]] = [shape.line[0], shape.line.at(-1)];
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
}

function drawGesture(context, color) {
  context.beginPath();
  outline(gesture).forEach(([x, y]) => context.lineTo(x, y));
  context.closePath();
  context.globalAlpha = 0.12;
  context.fillStyle = color;
  context.fill();
  context.globalAlpha = 1;
  context.strokeStyle = color;
  context.lineWidth = 1.5;
  context.stroke();
}

// Pictures in place of points: in every cell of the screen the one nearest to its middle, so that none covers another.
const CELL = 46, MOST_SHEETS = 48;
let drawing = 0;

async function drawPictures() {
  const turn = ++drawing;
  const canvas = byId("pictures");
  const context = canvas.getContext("2d");
  const chosen = new Map();
  rowsInside(map, [0, 0, view.width, view.height], (row) => {
    const [x, y] = toScreen(...pointOf(row));
    const [column, line] = [Math.floor(x / CELL), Math.floor(y / CELL)];
    const other = state.selected && !state.selected[row] ? 9 : 0; // those of the selection first
    const distance = other + Math.abs(x / CELL - column - 0.5) + Math.abs(y / CELL - line - 0.5);
    const key = line * 10000 + column;
    if (!chosen.has(key) || chosen.get(key).distance > distance) chosen.set(key, { row, column, line, distance });
  });
  context.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
  context.clearRect(0, 0, view.width, view.height);
  const bySheet = Map.groupBy([...chosen.values()], ({ row }) => cellOf(row).sheet);
  byId("zoom-hint").hidden = bySheet.size <= MOST_SHEETS;
  for (const [number, cells] of [...bySheet].slice(0, MOST_SHEETS)) {
    const image = await sheetImage(number);
    if (turn !== drawing) return;
    for (const { row, column, line } of cells) {
      const { left, top, width, height } = cellOf(row);
      const scale = (CELL - 4) / Math.max(width, height);
      const [w, h] = [width * scale, height * scale];
      const [x, y] = [(column + 0.5) * CELL - w / 2, (line + 0.5) * CELL - h / 2];
      context.fillStyle = css(colorOf(data.fields[state.field], data.fields[state.field]?.values[row] ?? NONE));
      context.globalAlpha = state.selected && !state.selected[row] ? 0.2 : 1;
      context.fillRect(x - 2, y - 2, w + 4, h + 4);
      if (context.globalAlpha < 1) context.clearRect(x, y, w, h);
      context.drawImage(image, left, top, width, height, x, y, w, h);
    }
  }
}

function clearPictures() {
  drawing++;
  byId("pictures").getContext("2d").clearRect(0, 0, byId("pictures").width, byId("pictures").height);
}

function moved() {
  if (state.pictures) clearPictures();
  redraw(true);
}

function hover(event) {
  const box = map.canvas.getBoundingClientRect();
  const [left, top] = [event.clientX - box.left, event.clientY - box.top];
  const row = nearestPoint(map, left, top, Math.max(8, pointSize()));
  if (row === hovered) return;
  hovered = row;
  const tip = byId("tip");
  tip.hidden = row < 0;
  map.canvas.style.cursor = row >= 0 ? "pointer" : state.tool === "move" ? "grab" : "crosshair";
  redraw();
  if (row < 0) return;
  const [x, y] = toScreen(...pointOf(row));
  tip.style.left = `${x > view.width - 150 ? x - 138 : x + 14}px`;
  const below = y < view.height / 2;
  tip.style.top = below ? `${y + 14}px` : "auto";
  tip.style.bottom = below ? "auto" : `${view.height - y + 14}px`;
  const field = data.fields[state.field];
  byId("tip-value").textContent = field ? valueOf(field, row) : "";
  byId("tip-name").textContent = "";
  nameOf(row).then((name) => row === hovered && (byId("tip-name").textContent = name.replaceAll("/", "/\u200b")));
  if (meta.sheets) paint(byId("tip-picture"), row, 110).catch(() => {});
}

function initMouse(canvas) {
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    const kind = event.shiftKey ? "box" : state.tool;
    gesture = { kind, line: [at(event)], start: [view.x, view.y] };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!gesture) return hover(event);
    gesture.line.push(at(event));
    if (gesture.kind !== "move") return redraw();
    const [[x0, y0], [x1, y1]] = [gesture.line[0], gesture.line.at(-1)];
    view.x = gesture.start[0] - (x1 - x0) / view.scale;
    view.y = gesture.start[1] + (y1 - y0) / view.scale;
    moved();
  });
  canvas.addEventListener("pointerup", (event) => {
    const shape = gesture;
    gesture = null;
    if (!shape) return;
    const [x0, y0] = shape.line[0], [x1, y1] = at(event);
    if (Math.hypot(x1 - x0, y1 - y0) < 4 && shape.line.length < 30) {
      const row = nearestPoint(map, x1, y1, Math.max(8, pointSize()));
      if (row >= 0) pick(row);
    } else if (shape.kind !== "move") select(rowsInLasso(map, outline(shape)), `on the map, by ${shape.kind}`);
    redraw();
  });
  canvas.addEventListener("pointerleave", () => {
    hovered = -1;
    byId("tip").hidden = true;
    redraw();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...at(event));
    moved();
  }, { passive: false });
}

const KEYS = {
  ArrowLeft: () => (view.x -= 60 / view.scale),
  ArrowRight: () => (view.x += 60 / view.scale),
  ArrowUp: () => (view.y += 60 / view.scale),
  ArrowDown: () => (view.y -= 60 / view.scale),
  "+": () => zoomAt(1.3, view.width / 2, view.height / 2),
  "=": () => zoomAt(1.3, view.width / 2, view.height / 2),
  "-": () => zoomAt(1 / 1.3, view.width / 2, view.height / 2),
  0: fit,
  Enter: () => {
    const row = nearestPoint(map, view.width / 2, view.height / 2, Math.max(view.width, view.height));
    if (row >= 0) pick(row);
  },
};

function initKeys(canvas) {
  canvas.addEventListener("keydown", (event) => {
    const action = KEYS[event.key];
    if (!action || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    action();
    moved();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input[type=search]");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      byId("search").focus();
    }
    if (event.key === "Escape") {
      byId("search").value = "";
      select([], "");
      pick(-1);
    }
  });
}

function setTool(tool) {
  state.tool = tool;
  for (const name of ["move", "box", "lasso"]) byId(`tool-${name}`).setAttribute("aria-pressed", String(name === tool));
  map.canvas.style.cursor = tool === "move" ? "grab" : "crosshair";
}

function initControls() {
  data.fields.forEach((field, number) => {
    const option = element("option", "", field.name);
    option.value = number;
    byId("field").append(option);
  });
  byId("field").value = state.field;
  byId("field").addEventListener("change", () => {
    state.field = Number(byId("field").value);
    changed("field");
    changed("colors");
  });
  for (const name of ["move", "box", "lasso"]) byId(`tool-${name}`).addEventListener("click", () => setTool(name));
  const zoom = (key) => () => (KEYS[key](), moved());
  byId("zoom-in").addEventListener("click", zoom("+"));
  byId("zoom-out").addEventListener("click", zoom("-"));
  byId("zoom-fit").addEventListener("click", zoom("0"));
  byId("show-pictures").hidden = !meta.sheets;
  byId("show-pictures").addEventListener("click", (event) => {
    state.pictures = !state.pictures;
    event.currentTarget.setAttribute("aria-pressed", String(state.pictures));
    map.canvas.parentElement.classList.toggle("with-pictures", state.pictures);
    if (state.pictures) drawPictures();
    else clearPictures();
    byId("zoom-hint").hidden ||= !state.pictures;
  });
  let timer;
  byId("search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const words = byId("search").value.trim();
      select(words ? await search(words) : [], words && `search: ${words}`);
    }, 150);
  });
  byId("export").addEventListener("click", saveCsv);
  byId("clear").addEventListener("click", () => (byId("search").value = "", select([], "")));
  byId("more").addEventListener("click", () => ((shownOfSelection += 4 * FIRST_SHOWN), showSelection()));
}

async function start() {
  await loadAll();
  initState();
  map = makeMap(byId("points"));
  listeners.push((what) => {
    if (what === "colors") {
      recolor(map);
      if (state.pictures) drawPictures();
    }
    if (what === "field" || what === "colors") showLegend();
    if (what === "field") showSelection();
    if (what === "picked") showPicked();
    if (what === "selection") ((shownOfSelection = FIRST_SHOWN), showSelection());
    redraw();
  });
  initControls();
  initMouse(map.canvas);
  initKeys(map.canvas);
  initPlaces();
  setTool("move");
  new ResizeObserver(resize).observe(map.canvas.parentElement);
  resize();
  changed("colors");
  window.explorer = { meta, state, view, data, map, toScreen, pointOf, pick, select, search, applyFilters, drawFrame };
  document.body.dataset.ready = "yes";
}

start().catch((error) => {
  byId("fault").hidden = false;
  byId("fault").textContent = `This page is not whole: ${error.message}. Make it again, and keep its files together.`;
});
