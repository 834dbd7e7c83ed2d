"use strict";
const told = JSON.parse(document.getElementById("walk").textContent);
const byId = (id) => document.getElementById(id);
const rows = told.output.length, columns = told.output[0].length, count = rows * columns;
const taps = [told.filter.length, told.filter[0].length];
const [top_, bottom, left, right] = told.padding;
const height = told.image.length, width = told.image[0].length;
const SIDE = 720, RULED = 24, NUMBERED = 36;
let at = 0, timer = 0;

function plain(value) {
  if (Number.isInteger(value)) return String(value).replace("-", "\u2212");
  return String(Number(value.toPrecision(4))).replace("-", "\u2212");
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// The pixel at a place of the padded image, and whether it is padding.
function pixel(row, column) {
  const y = row - top_, x = column - left;
  const outside = y < 0 || y >= height || x < 0 || x >= width;
  if (outside && told.mode !== "edge") return { value: 0, outside };
  const value = told.image[Math.min(Math.max(y, 0), height - 1)][Math.min(Math.max(x, 0), width - 1)];
  return { value, outside };
}

class Cells {
  constructor(id, rows, columns, scale) {
    this.canvas = byId(id);
    this.rows = rows;
    this.columns = columns;
    this.scale = scale;
    this.cell = Math.max(1, Math.floor(SIDE / Math.max(rows, columns)));
    this.canvas.width = columns * this.cell;
    this.canvas.height = rows * this.cell;
    this.pen = this.canvas.getContext("2d");
  }

  draw(row, column, value) {
    const { cell, pen } = this, x = column * cell, y = row * cell;
    const { zero, step } = told.scales[this.scale];
    const level = Math.min(255, Math.max(0, Math.round(zero + step * value)));
    pen.fillStyle = `rgb(${level}, ${level}, ${level})`;
    pen.fillRect(x, y, cell, cell);
    this.rule(x, y);
    if (cell < NUMBERED) return;
    pen.fillStyle = level > 127 ? "#1c2128" : "#ffffff";
    pen.font = `${Math.min(34, cell / 2.8)}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(plain(value), x + cell / 2, y + cell / 2, cell - 4);
  }

  leave(row, column) {
    this.pen.fillStyle = colour("--pending");
    this.pen.fillRect(column * this.cell, row * this.cell, this.cell, this.cell);
    this.rule(column * this.cell, row * this.cell);
  }

  rule(x, y) {
    if (this.cell < RULED) return;
    this.pen.strokeStyle = "#808890";
    this.pen.lineWidth = 1;
    this.pen.strokeRect(x + 0.5, y + 0.5, this.cell, this.cell);
  }

  frame(row, column, rows, columns, stroke, wide, dashed) {
    const { cell, pen } = this;
    pen.strokeStyle = stroke;
    pen.lineWidth = wide;
    pen.setLineDash(dashed ? [6, 4] : []);
    pen.strokeRect(column * cell, row * cell, columns * cell, rows * cell);
    pen.setLineDash([]);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      Math.floor(((event.clientY - box.top) / box.height) * this.rows),
      Math.floor(((event.clientX - box.left) / box.width) * this.columns),
    ];
  }
}

const image = new Cells("image", height + top_ + bottom, width + left + right, "input");
const output = new Cells("output", rows, columns, "convolution");
const pooled = told.pool ? new Cells("pooled", told.pooled.length, told.pooled[0].length, "pool") : null;

function drawImage() {
  for (let r = 0; r < image.rows; r++)
    for (let c = 0; c < image.columns; c++) image.draw(r, c, pixel(r, c).value);
  image.frame(top_, left, height, width, "#808890", 2, true);
}

function drawProducts(row, column) {
  const dense = Math.max(...taps) > 7, table = byId("products"), terms = [];
  const products = told.filter.map((line, r) => line.map((weight, s) => {
    const { value, outside } = pixel(row * told.stride + r, column * told.stride + s);
    return { weight, value, outside, product: value * weight };
  }));
  const most = Math.max(...products.flat().map((p) => Math.abs(p.product))) || 1;
  table.className = dense ? "dense" : "";
  table.replaceChildren(...products.map((line) => {
    const tr = document.createElement("tr");
    for (const { weight, value, outside, product } of line) {
      const td = document.createElement("td"), share = (0.55 * Math.abs(product)) / most;
      td.style.background = `rgba(${colour(product < 0 ? "--below" : "--above")}, ${share})`;
      if (outside) td.classList.add("outside");
      const how = `${plain(value)} \u00d7 ${plain(weight)}`;
      if (dense) td.title = `${how} = ${plain(product)}`;
      else {
        const small = document.createElement("small");
        small.textContent = outside ? `(${plain(value)}) \u00d7 ${plain(weight)}` : how;
        td.append(small, plain(product));
      }
      tr.append(td);
      terms.push(product);
    }
    return tr;
  }));
  return terms;
}

function say(row, column, terms) {
  const value = told.output[row][column];
  const shown = terms.length <= 25 ? terms.map(plain).join(" + ").replaceAll("+ \u2212", "\u2212 ") : "sum";
  const strong = document.createElement("strong");
  strong.textContent = plain(value);
  const parts = [`${shown} = `, strong];
  if (told.relu) parts.push(`, after the ReLU ${plain(Math.max(0, value))}`);
  byId("sum").replaceChildren(...parts);
  byId("place").textContent = `Position ${at + 1} of ${count}: row ${row + 1}, column ${column + 1}`;
}

function drawPooled() {
  for (let r = 0; r < pooled.rows; r++)
    for (let c = 0; c < pooled.columns; c++) {
      const last = (r * told.pool + told.pool - 1) * columns + c * told.pool + told.pool - 1;
      if (last <= at) pooled.draw(r, c, told.pooled[r][c]);
      else pooled.leave(r, c);
    }
}

function show() {
  const row = Math.floor(at / columns), column = at % columns;
  drawImage();
  image.frame(row * told.stride, column * told.stride, ...taps, colour("--window"), 5);
  for (let i = 0; i < count; i++) {
    const r = Math.floor(i / columns), c = i % columns;
    if (i <= at) output.draw(r, c, told.output[r][c]);
    else output.leave(r, c);
  }
  output.frame(row, column, 1, 1, colour("--result"), 5);
  if (pooled) drawPooled();
  say(row, column, drawProducts(row, column));
}

function go(to) {
  at = Math.min(count - 1, Math.max(0, to));
  if (at === count - 1) pause();
  show();
}

function pause() {
  clearInterval(timer);
  timer = 0;
  byId("play").textContent = "Play";
}

function play() {
  if (at === count - 1) at = -1;
  const rate = Number(byId("speed").value), ticks = Math.min(rate, 20);
  timer = setInterval(() => go(at + Math.max(1, Math.round(rate / ticks))), 1000 / ticks);
  byId("play").textContent = "Pause";
}

const moves = {
  ArrowLeft: () => at - 1, ArrowRight: () => at + 1, ArrowUp: () => at - columns,
  ArrowDown: () => at + columns, Home: () => 0, End: () => count - 1,
};
const toggle = () => (timer ? pause() : play());

byId("play").addEventListener("click", toggle);
byId("back").addEventListener("click", () => { pause(); go(at - 1); });
byId("next").addEventListener("click", () => { pause(); go(at + 1); });
byId("start").addEventListener("click", () => { pause(); go(0); });
byId("end").addEventListener("click", () => go(count - 1));
byId("speed").addEventListener("input", () => { if (timer) { pause(); play(); } });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input")) return;
  if (event.key === " " && !event.target.matches("button")) toggle();
  else if (moves[event.key]) { pause(); go(moves[event.key]()); }
  else return;
  event.preventDefault();
});
output.canvas.addEventListener("click", (event) => {
  const [r, c] = output.at(event);
  pause();
  go(Math.min(r, rows - 1) * columns + Math.min(c, columns - 1));
});
image.canvas.addEventListener("click", (event) => {
  const [r, c] = image.at(event);
  const place = (pixel_, tap, most) =>
    Math.min(most - 1, Math.max(0, Math.round((pixel_ - (tap - 1) / 2) / told.stride)));
  pause();
  go(place(r, taps[0], rows) * columns + place(c, taps[1], columns));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
byId("speed").value = String(Math.min(100, Math.max(2, Math.round(count / 30))));
go(Math.max(0, Math.min(count - 1, Number(location.hash.slice(1)) - 1 || 0)));
