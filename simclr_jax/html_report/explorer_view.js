// The map: points by WebGL (or on a plain canvas where there is none), the camera, and which point lies where.

const VERTEX = `#version 300 es
in vec2 position; in vec4 color;
uniform vec2 center, zoom; uniform float size, least;
out vec4 tint;
void main() {
  gl_Position = vec4((position - center) * zoom, 0.0, 1.0);
  if (color.a < least) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = size;
  tint = color;
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec4 tint; uniform float size; out vec4 result;
void main() {
  float edge = 1.0;
  if (size > 3.0) edge = clamp((0.5 - length(gl_PointCoord - 0.5)) * size + 0.5, 0.0, 1.0);
  result = vec4(tint.rgb * tint.a, tint.a) * edge;
}`;
const HIDDEN = 0, FAINT = 38, STRONG = 230; // opacities
const MAX_ZOOM = 400;
const FRAME_MS = 33; // while the map moves, as many points as can be drawn in this time,
const FEWEST = 10000; // but so many at least; and it has come to rest after
const SETTLING_MS = 200;

const view = { x: 0.5, y: 0.5, scale: 1, width: 1, height: 1, ratio: 1, budget: Infinity };

function makeMap(canvas) {
  const count = meta.count;
  const order = shuffled(count); // any first part of it is a fair sample, and no class lies on top of all others
  const places = new Uint16Array(2 * count);
  for (let at = 0; at < count; at++) {
    places[2 * at] = data.points[2 * order[at]];
    places[2 * at + 1] = data.points[2 * order[at] + 1];
  }
  const colors = new Uint8Array(4 * count);
  const gl = canvas.getContext("webgl2", { antialias: false, premultipliedAlpha: true });
  const draw = gl ? glDrawer(gl, places, colors) : plainDrawer(canvas, places, colors);
  return { canvas, order, colors, draw, grid: makeGrid(), gl };
}

function shuffled(count) {
  const order = new Uint32Array(count);
  let seed = 12345;
  for (let at = 0; at < count; at++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((seed / 4294967296) * (at + 1));
    order[at] = order[other];
    order[other] = at;
  }
  return order;
}

function glDrawer(gl, places, colors) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  gl.useProgram(program);
  const buffers = { position: [places, 2, gl.UNSIGNED_SHORT], color: [colors, 4, gl.UNSIGNED_BYTE] };
  for (const [name, [values, size, type]] of Object.entries(buffers)) {
    const where = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, values, name === "color" ? gl.DYNAMIC_DRAW : gl.STATIC_DRAW);
    gl.enableVertexAttribArray(where);
    gl.vertexAttribPointer(where, size, type, true, 0, 0);
  } // the buffer of colours stays bound
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const uniform = (name) => gl.getUniformLocation(program, name);
  const at = { center: uniform("center"), zoom: uniform("zoom"), size: uniform("size"), least: uniform("least") };
  return {
    recolor: () => gl.bufferSubData(gl.ARRAY_BUFFER, 0, colors),
    points: (most, size, twice) => {
      gl.viewport(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform2f(at.center, view.x, view.y);
      gl.uniform2f(at.zoom, (2 * view.scale) / view.width, (2 * view.scale) / view.height);
      gl.uniform1f(at.size, size * view.ratio);
      gl.uniform1f(at.least, 0.01);
      gl.drawArrays(gl.POINTS, 0, most);
      if (!twice) return;
      gl.uniform1f(at.least, 0.5); // what is selected, above all others
      gl.drawArrays(gl.POINTS, 0, most);
    },
  };
}

function plainDrawer(canvas, places, colors) {
  const context = canvas.getContext("2d");
  return {
    recolor: () => {},
    points: (most, size) => {
      context.clearRect(0, 0, canvas.width, canvas.height);
      const side = Math.max(1, size * view.ratio);
      for (let at = 0; at < most; at++) {
        const alpha = colors[4 * at + 3];
        if (alpha === HIDDEN) continue;
        const [x, y] = toScreen(places[2 * at] / NONE, places[2 * at + 1] / NONE);
        context.fillStyle = `rgba(${colors[4 * at]},${colors[4 * at + 1]},${colors[4 * at + 2]},${alpha / 255})`;
        context.fillRect(x * view.ratio - side / 2, y * view.ratio - side / 2, side, side);
      }
    },
  };
}

const toScreen = (x, y) => [
  (x - view.x) * view.scale + view.width / 2,
  (view.y - y) * view.scale + view.height / 2,
];
const toWorld = (left, top) => [
  (left - view.width / 2) / view.scale + view.x,
  view.y - (top - view.height / 2) / view.scale,
];
const pointOf = (row) => [data.points[2 * row] / NONE, data.points[2 * row + 1] / NONE];
const fitScale = () => 0.92 * Math.min(view.width, view.height);

function fit() {
  view.x = view.y = 0.5;
  view.scale = fitScale();
}

function zoomAt(factor, left, top) {
  const [x, y] = toWorld(left, top);
  view.scale = Math.min(Math.max(view.scale * factor, 0.5 * fitScale()), MAX_ZOOM * fitScale());
  const [newX, newY] = toWorld(left, top);
  view.x += x - newX;
  view.y += y - newY;
}

// Diameter of a point in pixels: smaller where there are more, larger where one looks closer.
function pointSize() {
  const size = meta.count < 1500 ? 9 : meta.count < 8000 ? 6.5 : meta.count < 100000 ? 4 : 2;
  return Math.min(18, size * (view.scale / fitScale()) ** 0.35);
}

// The rows of each cell of a grid, for questions about places.
function makeGrid() {
  const cells = Math.max(8, Math.min(512, Math.ceil(Math.sqrt(meta.count / 4))));
  const starts = new Uint32Array(cells * cells + 1);
  const cellAt = (row) => {
    const column = Math.floor((data.points[2 * row] * cells) / 65536);
    return Math.floor((data.points[2 * row + 1] * cells) / 65536) * cells + column;
  };
  for (let row = 0; row < meta.count; row++) starts[cellAt(row) + 1]++;
  for (let cell = 0; cell < cells * cells; cell++) starts[cell + 1] += starts[cell];
  const rows = new Uint32Array(meta.count);
  const next = starts.slice();
  for (let row = 0; row < meta.count; row++) rows[next[cellAt(row)]++] = row;
  return { cells, starts, rows };
}

// Calls `visit` with every visible row in a rectangle of the screen, and how many of its cells there are.
function rowsInside(map, [left, top, right, bottom], visit) {
  const { cells, starts, rows } = map.grid;
  const [x0, y1] = toWorld(left, top);
  const [x1, y0] = toWorld(right, bottom);
  const cell = (value) => Math.min(cells - 1, Math.max(0, Math.floor(value * cells)));
  for (let line = cell(y0); line <= cell(y1); line++) {
    const last = starts[line * cells + cell(x1) + 1];
    for (let at = starts[line * cells + cell(x0)]; at < last; at++) {
      const row = rows[at];
      const [x, y] = pointOf(row);
      if (x >= x0 && x <= x1 && y >= y0 && y <= y1 && state.visible[row]) visit(row, x, y);
    }
  }
}

// The visible point nearest to a place of the screen, -1 if none is within so many pixels.
function nearestPoint(map, left, top, radius) {
  const [x, y] = toWorld(left, top);
  let [best, found] = [(radius / view.scale) ** 2, -1];
  rowsInside(map, [left - radius, top - radius, left + radius, top + radius], (row, px, py) => {
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance <= best) [best, found] = [distance, row];
  });
  return found;
}

// Rows within a closed line [[left, top], ...] of the screen.
function rowsInLasso(map, line) {
  const xs = line.map(([x]) => x), ys = line.map(([, y]) => y);
  const corners = line.map(([left, top]) => toWorld(left, top));
  const found = [];
  rowsInside(map, [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)], (row, x, y) => {
    let inside = false;
    for (let at = 0, before = corners.length - 1; at < corners.length; before = at++) {
      const [ax, ay] = corners[at], [bx, by] = corners[before];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
    }
    if (inside) found.push(row);
  });
  return found;
}
