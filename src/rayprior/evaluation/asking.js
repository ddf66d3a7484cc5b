"use strict";
// Pictures that are asked: by mouse, touch or keys. A page's own script says what is answered, in
// `answer(view, column, row)`, which draws into the other pictures and returns what to say of the asked pixel.
const page = JSON.parse(document.getElementById("data").textContent);
const stages = [...document.querySelectorAll(".stage")];
const lines = [...document.querySelectorAll(".answer")];
const figures = stages.map((stage) => stage.parentElement);
const marks = stages.map((stage) => stage.querySelector("svg"));
const canvases = stages.map((stage) => stage.querySelector("canvas"));
const free = document.getElementById("free"), from = document.getElementById("from"), to = document.getElementById("to");
let asked = null, pinned = false, next = null;

function unpacked(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Kind === Uint8Array ? bytes : new Kind(bytes.buffer);
}

// A column and row of a view's grid as the (u, v) of its picture.
function pixel(view, column, row) {
  const {size, grid} = page.views[view];
  return [(column + 0.5) * size[0] / grid[0], (row + 0.5) * size[1] / grid[1]];
}

// `reach` of a cross or a ring is in 1/200 of the picture's width.
function mark(view, kind, shape, u, v, opacity = 1, reach = 4) {
  const r = reach * page.views[view].size[0] / 200, drawn = {
    dot: `M${u} ${v}h0`,
    cross: `M${u - r} ${v}h${2 * r}M${u} ${v - r}v${2 * r}`,
    ring: `M${u - r} ${v}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
  }[shape];
  for (const part of ["halo", kind]) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", `${shape} ${part}`);
    path.setAttribute("d", drawn);
    path.setAttribute("opacity", part === "halo" ? opacity * 0.8 : opacity);
    path.dataset.at = `${u},${v}`;
    marks[view].append(path);
  }
}

function near(value, most) { return Math.min(Math.max(Math.floor(value), 0), most - 1); }

function ask(view, column, row) {
  const begun = performance.now(), grid = page.views[view].grid;
  asked = {view, column: near(column, grid[0]), row: near(row, grid[1])};
  marks.forEach((svg) => svg.replaceChildren());
  lines.forEach((line) => { line.textContent = ""; });
  figures.forEach((figure, other) => figure.classList.toggle("asking", other === view));
  const [u, v] = pixel(view, asked.column, asked.row);
  mark(view, "source", "ring", u, v);
  const said = answer(view, asked.column, asked.row), spent = performance.now() - begun;
  document.getElementById("said").textContent =
    `${page.views[view].name} at (${u.toFixed(1)}, ${v.toFixed(1)})${pinned ? ", pinned" : ""}: ${said}`;
  document.documentElement.dataset.milliseconds = spent.toFixed(2);
}

// One answer a frame is enough.
function askSoon(view, column, row) {
  if (next === null) requestAnimationFrame(() => { const now = next; next = null; ask(...now); });
  next = [view, column, row];
}

function place(event, view) {
  const box = stages[view].getBoundingClientRect(), grid = page.views[view].grid;
  return [(event.clientX - box.left) / box.width * grid[0], (event.clientY - box.top) / box.height * grid[1]];
}

function pin(yes) {
  pinned = yes;
  free.hidden = !yes;
  document.body.classList.toggle("pinned", yes);
  if (asked) ask(asked.view, asked.column, asked.row);
}

stages.forEach((stage, view) => {
  stage.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch" ? event.buttons : !pinned) askSoon(view, ...place(event, view));
  });
  stage.addEventListener("pointerdown", (event) => {
    next = null;
    ask(view, ...place(event, view));
    pin(true);
  });
  stage.addEventListener("keydown", (event) => {
    const by = event.shiftKey ? 10 : 1;
    const step = {ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by]}[event.key];
    const grid = page.views[view].grid;
    const here = asked && asked.view === view ? asked : {column: grid[0] >> 1, row: grid[1] >> 1};
    if (step) ask(view, here.column + step[0], here.row + step[1]);
    else if (event.key === "Enter" || event.key === " ") { ask(view, here.column, here.row); pin(!pinned); }
    else return;
    event.preventDefault();
  });
});
addEventListener("keydown", (event) => { if (event.key === "Escape") pin(false); });
free.addEventListener("click", () => pin(false));

// A pair, or all.
function choose() {
  const pair = [from.value, to.value].filter((value) => value !== "");
  document.querySelector(".asked").classList.toggle("pair-only", pair.length === 2);
  figures.forEach((figure, view) => { figure.hidden = pair.length === 2 && !pair.includes(String(view)); });
  if (from.value === "") return;
  const [columns, rows] = page.views[from.value].grid;
  const here = asked && asked.view === Number(from.value) ? asked : {column: columns >> 1, row: rows >> 1};
  ask(Number(from.value), here.column, here.row);
}
from.addEventListener("change", choose);
to.addEventListener("change", choose);
