"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const ROW = 19; // height of a frame with the gap below it, in pixels
const SMALLEST = 0.0007; // part of the width below which a frame is not drawn
const MOST_ROWS = 1000;
const exact = new Intl.NumberFormat("en");
const signed = new Intl.NumberFormat("en", { signDisplay: "exceptZero" });

let measure = data.by;
let search = "";
let root, zoomed;

function make(tag, parent, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  if (parent) parent.append(element);
  return element;
}

const header = make("header", document.body);
for (const line of data.lines) make("p", header, line);
document.title = "Allocations: " + data.title;
const nav = make("nav", document.body);
const buttons = data.measures.map((name, index) => {
  const known = data.sites.some((site) => site.counts[index] !== null);
  const button = make("button", known ? nav : null, name);
  button.onclick = () => { measure = index; update(); };
  return button;
});
const input = make("input", nav);
input.type = "search";
input.placeholder = "search functions and files";
input.oninput = () => { search = input.value.toLowerCase(); draw(); list(); };
const reset = make("button", nav, "reset zoom");
reset.onclick = () => zoom(root);
const share = make("span", nav);
const view = make("div", document.body);
view.id = "view";
const flame = make("div", view);
flame.id = "flame";
const detail = make("p", document.body);
detail.id = "detail";
const table = make("table", document.body);
addEventListener("keydown", (event) => { if (event.key === "Escape") zoom(root); });

function matches(frame) {
  return data.frames[frame].some((text) => text.toLowerCase().includes(search));
}

function hit(node) { return search !== "" && [...node.frames].some(matches); }

function now(site) { return site.counts[measure] ?? 0; }
function then(site) { return site.before ? site.before[measure] ?? 0 : now(site); }

// Outermost functions first; calls from several lines of a function are one frame. A frame is as wide as the larger of its counts in both reports, so that
// what is gone can be seen, too.
function build() {
  const node = (name, parent) => ({
    name, parent, depth: parent ? parent.depth + 1 : 0, frames: new Set(), width: 0, now: 0, then: 0, below: new Map(),
  });
  root = node("all", null);
  for (const site of data.sites) {
    const width = Math.max(now(site), then(site));
    if (width <= 0) continue;
    const add = (node) => { node.width += width; node.now += now(site); node.then += then(site); };
    let at = root;
    add(at);
    for (const frame of site.stack.length ? site.stack.slice().reverse() : [null]) {
      const name = frame === null ? "unknown" : data.frames[frame][0];
      if (!at.below.has(name)) at.below.set(name, node(name, at));
      at = at.below.get(name);
      if (frame !== null) at.frames.add(frame);
      add(at);
    }
  }
  zoomed = root;
}

function colour(node) {
  if (data.compares) {
    const change = node.width ? (node.now - node.then) / node.width : 0;
    const strength = Math.round(92 - 42 * Math.min(1, Math.abs(change)));
    return change === 0 ? "hsl(0 0% 85%)" : `hsl(${change > 0 ? 5 : 215} 85% ${strength}%)`;
  }
  let hash = 7;
  for (const c of node.name) hash = (hash * 31 + c.codePointAt(0)) >>> 0;
  return `hsl(${15 + hash % 40} ${70 + hash % 23}% ${62 + (hash >> 5) % 14}%)`;
}

function described(node) {
  const sources = [...node.frames].map((frame) => data.frames[frame][1]);
  const source = sources.length > 3 ? `${sources.length} places` : sources.join(", ");
  const counts = data.compares
    ? `${exact.format(node.then)} → ${exact.format(node.now)} (${signed.format(node.now - node.then)})`
    : `${exact.format(node.now)} (${(100 * node.now / (root.now || 1)).toFixed(1)}%)`;
  return `${node.name}${source && "  " + source}: ${counts} ${data.measures[measure]}`;
}

function zoom(node) { zoomed = node; draw(); }

function draw() {
  flame.replaceChildren();
  flame.classList.toggle("searching", search !== "");
  let deepest = 0, found = 0;
  const put = (node, left, width, above) => {
    const box = make("div", flame, node.name, above ? "above" : "");
    box.style.cssText = `left:${100 * left}%;width:${100 * width}%;top:${node.depth * ROW}px;background:${colour(node)}`;
    box.tabIndex = 0;
    box.title = described(node);
    box.onclick = () => zoom(node);
    box.onkeydown = (event) => { if (event.key === "Enter") zoom(node); };
    box.onmouseenter = box.onfocus = () => { detail.textContent = described(node); };
    if (hit(node)) box.classList.add("found");
    deepest = Math.max(deepest, node.depth);
  };
  for (let node = zoomed.parent; node; node = node.parent) put(node, 0, 1, true);
  const todo = [[zoomed, 0, false]];
  while (todo.length) {
    const [node, left, counted] = todo.pop();
    const isHit = hit(node);
    if (isHit && !counted) found += node.width;
    const width = node.width / (zoomed.width || 1);
    if (width >= SMALLEST) put(node, left, width, false);
    else if (!search) continue;
    let at = left;
    for (const next of [...node.below.values()].sort((a, b) => b.width - a.width)) {
      todo.push([next, at, counted || isHit]);
      at += next.width / (zoomed.width || 1);
    }
  }
  flame.style.height = `${(deepest + 1) * ROW}px`;
  share.textContent = search ? `${(100 * found / (zoomed.width || 1)).toFixed(1)}% match` : "";
}

function cell(row, site, index) {
  const after = site.counts[index], before = site.before && site.before[index];
  const element = make("td", row, "-", "number");
  if (after === null) return;
  if (!data.compares) { element.textContent = exact.format(after); return; }
  const change = after - before;
  element.textContent = signed.format(change);
  element.title = `${exact.format(before)} → ${exact.format(after)}`;
  if (change) element.classList.add(change > 0 ? "more" : "less");
}

function list() {
  table.replaceChildren();
  const head = make("tr", make("thead", table));
  data.measures.forEach((name, index) => {
    const th = make("th", head, undefined, "number");
    make("button", th, data.compares ? "Δ " + name : name).onclick = () => { measure = index; update(); };
    if (index === measure) th.setAttribute("aria-sort", "descending");
  });
  make("th", head, "site");
  const body = make("tbody", table);
  const order = (site) => data.compares ? Math.abs(now(site) - then(site)) : now(site);
  const sites = data.sites.filter((site) => !search || site.stack.some(matches));
  sites.sort((a, b) => order(b) - order(a));
  for (const site of sites.slice(0, MOST_ROWS)) {
    const row = make("tr", body);
    data.measures.forEach((_, index) => cell(row, site, index));
    const stack = make("td", row, undefined, "stack");
    if (site.mark) make("span", stack, site.mark, "mark");
    if (!site.stack.length) make("div", stack, "unknown");
    for (const frame of site.stack) {
      const entry = make("div", stack, data.frames[frame][0] + " ");
      make("span", entry, data.frames[frame][1], "source");
    }
  }
  if (sites.length > MOST_ROWS) {
    const row = make("tr", body);
    make("td", row, `and ${exact.format(sites.length - MOST_ROWS)} more sites`).colSpan = data.measures.length + 1;
  }
}

function update() {
  buttons.forEach((button, index) => button.setAttribute("aria-pressed", index === measure));
  build();
  draw();
  list();
}
update();
