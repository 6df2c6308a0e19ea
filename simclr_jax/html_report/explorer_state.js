// What the visitor has chosen: a colour, filters, a selection, a picture; and what follows from it for the points.

// Okabe and Ito's colours, which colour-blind readers can tell apart; beyond them, turns of the colour circle.
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d46", "#7f7f7f"];
const RAMP = [[0, 114, 178], [154, 165, 177], [213, 94, 0]]; // low, middle, high
const UNKNOWN = [140, 150, 160];
const listeners = [];

const state = {
  field: 0,
  picked: -1,
  near: [], // rows that are marked as neighbours of the picked one
  selection: [], // rows
  selected: null, // Uint8Array, 1 for those; null for none
  said: "", // where the selection comes from
  visible: null, // Uint8Array
  filters: [], // of each field: Set of hidden values, or [low, high] levels
  tool: "move",
  pictures: false,
};

function initState() {
  state.visible = new Uint8Array(meta.count).fill(1);
  state.filters = data.fields.map((field) => (field.names ? new Set() : [0, NONE]));
  state.field = Math.max(0, meta.start);
}

const changed = (what) => listeners.forEach((listener) => listener(what));

function colorOf(field, level) {
  if (!field || level === NONE) return UNKNOWN;
  if (field.names) return categoryColor(level);
  const place = (2 * level) / (NONE - 1);
  const [from, to] = place < 1 ? [RAMP[0], RAMP[1]] : [RAMP[1], RAMP[2]];
  return from.map((value, channel) => Math.round(value + (to[channel] - value) * (place < 1 ? place : place - 1)));
}

function categoryColor(level) {
  if (level < PALETTE.length) return [1, 3, 5].map((at) => parseInt(PALETTE[level].slice(at, at + 2), 16));
  const hue = (level * 137.508) % 360;
  const light = 0.42 + 0.16 * (level % 3) / 2;
  const channel = (shift) => {
    const place = (shift + hue / 30) % 12;
    return Math.round(255 * (light - 0.55 * Math.min(light, 1 - light) * Math.max(-1, Math.min(place - 3, 9 - place, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

const css = (color) => `rgb(${color.join(",")})`;

// A point is seen where every field lets it pass.
function applyFilters() {
  state.visible.fill(1);
  data.fields.forEach((field, number) => {
    const filter = state.filters[number];
    const idle = field.names ? !filter.size : filter[0] === 0 && filter[1] === NONE;
    if (idle) return;
    const passes = field.names ? (level) => !filter.has(level) : (level) => level >= filter[0] && level <= filter[1];
    for (let row = 0; row < meta.count; row++) if (!passes(field.values[row])) state.visible[row] = 0;
  });
  changed("colors");
}

function recolor(map) {
  const field = data.fields[state.field];
  const table = field && field.names ? [...field.names.keys()].map((level) => colorOf(field, level)) : null;
  for (let at = 0; at < meta.count; at++) {
    const row = map.order[at];
    const level = field ? field.values[row] : NONE;
    const color = table && level !== NONE ? table[level] : colorOf(field, level);
    const faint = state.selected && !state.selected[row];
    map.colors[4 * at] = color[0];
    map.colors[4 * at + 1] = color[1];
    map.colors[4 * at + 2] = color[2];
    map.colors[4 * at + 3] = !state.visible[row] ? HIDDEN : faint ? FAINT : STRONG;
  }
  map.draw.recolor();
}

function select(rows, said) {
  state.selection = rows.filter((row) => state.visible[row]);
  state.selected = rows.length ? new Uint8Array(meta.count) : null;
  for (const row of state.selection) state.selected[row] = 1;
  state.said = said;
  changed("selection");
  changed("colors");
}

async function pick(row) {
  state.picked = row;
  state.near = [];
  changed("picked");
}

// Rows whose path, class or texts hold the words, in any case.
async function search(words) {
  const wanted = words.toLowerCase();
  const classes = data.fields
    .filter((field) => field.names)
    .map((field) => ({ field, levels: new Set([...field.names.keys()].filter((k) => field.names[k].toLowerCase().includes(wanted))) }))
    .filter(({ levels }) => levels.size);
  const found = [];
  for (let block = 0; block * meta.block < meta.count; block++) {
    const own = await namesOfBlock(block);
    const texts = await textsOfBlock(block);
    for (let at = 0; at < own.length; at++) {
      const row = block * meta.block + at;
      const isOne =
        own[at].toLowerCase().includes(wanted) ||
        texts[at]?.toLowerCase().includes(wanted) ||
        classes.some(({ field, levels }) => levels.has(field.values[row]));
      if (isOne) found.push(row);
    }
  }
  return found;
}

// A table of rows, as text with quotes where they are needed; the column `label` is what `probe --labels` reads.
async function asCsv(rows) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = [["path", ...data.fields.map((field) => field.name), "x", "y"].map(quoted).join(",")];
  for (const row of rows) {
    const values = data.fields.map((field) => valueOf(field, row));
    const place = pointOf(row).map((value) => value.toFixed(5));
    lines.push([await nameOf(row), ...values, ...place].map(quoted).join(","));
  }
  return `${lines.join("\n")}\n`;
}
