// What the page knows: small values at once, everything else when it is first asked for.
// In a single file data lie in elements of the page; in a folder they are classic scripts, which a page opened from a
// disk may load where it may not fetch.

const meta = JSON.parse(document.getElementById("meta").textContent);
const NONE = 65535;
const MAX_SHEETS = 64;
const arriving = new Map(); // name -> function that takes the text
const loaded = new Map(); // name -> promise of bytes
const sheets = new Map(); // number -> promise of an image, the least recently used first

window.explorerData = (name, text) => {
  arriving.get(name)(text);
  arriving.delete(name);
};

function bytesOf(text) {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
  return bytes;
}

function load(name) {
  if (!loaded.has(name)) loaded.set(name, meta.folder ? fromScript(name) : fromElement(name));
  return loaded.get(name);
}

async function fromElement(name) {
  const element = document.getElementById(`data-${name}`);
  const bytes = bytesOf(element.textContent);
  element.remove();
  return bytes;
}

function fromScript(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    arriving.set(name, (text) => {
      script.remove();
      resolve(bytesOf(text));
    });
    script.onerror = () => {
      script.remove();
      loaded.delete(name);
      reject(new Error(`data/${name}.js is missing`));
    };
    script.src = `data/${name}.js`;
    document.head.append(script);
  });
}

function sheetImage(number) {
  const known = sheets.get(number) || readSheet(number);
  sheets.delete(number);
  sheets.set(number, known);
  if (sheets.size > MAX_SHEETS) sheets.delete(sheets.keys().next().value);
  return known;
}

async function readSheet(number) {
  const name = `sheet-${number}`;
  const image = new Image();
  image.src = meta.folder
    ? `data/${name}.${meta.sheets.kind}`
    : `data:image/${meta.sheets.kind};base64,${document.getElementById(`data-${name}`).textContent}`;
  await image.decode();
  return image;
}

// The block of a row and its place there.
const blockOf = (row) => Math.floor(row / meta.block);
const placeIn = (row) => row % meta.block;
const rowsOfBlock = (block) => Math.min(meta.block, meta.count - block * meta.block);

const lists = { names: [], texts: [] }; // of the blocks that are there, arrays of text

async function listOfBlock(kind, block) {
  const known = lists[kind];
  if (!known[block]) known[block] = new TextDecoder().decode(await load(`${kind}-${block}`)).split("\0");
  return known[block];
}

const namesOfBlock = (block) => listOfBlock("names", block);
const textsOfBlock = (block) => (meta.texts ? listOfBlock("texts", block) : []);

// What is written about a picture, an array.
async function textsOf(row) {
  const all = (await textsOfBlock(blockOf(row)))[placeIn(row)];
  return all ? all.split("\n") : [];
}

async function nameOf(row) {
  return (await namesOfBlock(blockOf(row)))[placeIn(row)];
}

// [{row, similarity}] in one of the spaces, best first.
async function neighborsOf(row, space) {
  const bytes = await load(`near-${blockOf(row)}`);
  const count = rowsOfBlock(blockOf(row));
  let at = 0;
  for (let before = 0; before < space; before++) at += count * meta.near[before].k * 6;
  const k = meta.near[space].k;
  const start = at + placeIn(row) * k * 4;
  const rows = new Uint32Array(bytes.slice(start, start + k * 4).buffer);
  const second = at + count * k * 4 + placeIn(row) * k * 2;
  const levels = new Uint16Array(bytes.slice(second, second + k * 2).buffer);
  return Array.from(rows, (found, i) => ({ row: found, similarity: levels[i] / 32767.5 - 1 }));
}

// int8 [grid * grid, depth] of a picture.
async function placesOf(row) {
  const bytes = await load(`places-${blockOf(row)}`);
  const length = meta.places.grid ** 2 * meta.places.depth;
  return new Int8Array(bytes.buffer, placeIn(row) * length, length);
}

const sixteen = async (name) => new Uint16Array((await load(name)).buffer);

// The value of a field for people: the name of a class, a number, or "".
function valueOf(field, row) {
  const level = field.values[row];
  if (level === NONE) return "";
  if (field.names) return field.names[level];
  return short(numberOf(field, level));
}

const numberOf = (field, level) => field.low + ((field.high - field.low) * level) / (NONE - 1);
const short = (value) => (Math.abs(value) >= 1000 ? Math.round(value).toString() : String(+value.toPrecision(4)));
const counted = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

// A picture in a canvas of so many pixels; `square` shows what the network saw: the middle of the picture.
async function paint(canvas, row, side, square = 0) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(side * ratio);
  canvas.style.width = canvas.style.height = `${side}px`;
  if (!meta.sheets) return;
  const cell = cellOf(row);
  const image = await sheetImage(cell.sheet);
  let { left, top, width, height } = cell;
  if (square) {
    const length = square * Math.min(width, height);
    left += (width - length) / 2;
    top += (height - length) / 2;
    width = height = length;
  }
  const scale = canvas.width / Math.max(width, height);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = meta.sheets.side > 48 || scale < 2;
  context.imageSmoothingQuality = "high";
  const [w, h] = [width * scale, height * scale];
  context.drawImage(image, left, top, width, height, (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
}

// Where a picture lies in its sheet.
function cellOf(row) {
  const { side, columns, pictures } = meta.sheets;
  const [height, width] = [data.sizes[2 * row], data.sizes[2 * row + 1]];
  const place = row % pictures;
  return {
    sheet: Math.floor(row / pictures),
    left: (place % columns) * side,
    top: Math.floor(place / columns) * side,
    width,
    height,
  };
}

const data = {};

async function loadAll() {
  data.points = await sixteen("points");
  if (meta.sheets) data.sizes = await load("sizes");
  data.fields = await Promise.all(
    meta.fields.map(async (field, number) => ({ ...field, number, values: await sixteen(`field-${number}`) })),
  );
}
