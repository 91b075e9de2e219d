"use strict";
// The report: draws what the file carries, asks nothing of a network. Everything that came from an annotation file
// enters the page as text (textContent, attributes), never as markup.

const GROUPS = { r: "rare", c: "common", f: "frequent" };
const KINDS = { found: "Found", missed: "Missed", confused: "Taken for another class", false: "False alarms" };
const FATES = ["missed", "taken for another class", "found"];
const DASHES = ["", "6 3", "2 3", "9 3 2 3", "1 4", "12 4"];
const ROWS_AT_FIRST = 100;
const $ = (id) => document.getElementById(id);

function make(create, tag, attributes, children) {
  const node = create(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
const html = (tag, attributes = {}, ...children) => make((t) => document.createElement(t), tag, attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  make((t) => document.createElementNS("http://www.w3.org/2000/svg", t), tag, attributes, children);

async function unpack(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(1));
const signed = (value) => (value === null ? "–" : (value > 0 ? "+" : "") + (100 * value).toFixed(1));
const whole = (value) => value.toLocaleString("en");
const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);

// ---------------------------------------------------------------------------------------------------------- charts

// Redraws whenever the width changes: text keeps its size on a phone.
const charts = new WeakMap();
const watcher = new ResizeObserver((entries) => entries.forEach((entry) => charts.get(entry.target)?.()));
function chart(host, label, height, draw) {
  let width = 0;
  const render = (force) => {
    if (!host.clientWidth || (!force && host.clientWidth === width)) return;
    width = host.clientWidth;
    const root = svg("svg", { height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    const extra = draw(root, width, height) ?? [];
    host.replaceChildren(...extra, root);
  };
  charts.set(host, () => render(false));
  watcher.observe(host);
  render(true);
}

const MARGIN = { left: 44, right: 12, top: 10, bottom: 36 };
function scale(min, max, from, to, log = false) {
  const t = log ? Math.log10 : (v) => v;
  const [low, high] = [t(min), t(max)];
  return (value) => from + ((t(value) - low) / (high - low || 1)) * (to - from);
}
function ticks(min, max, count) {
  const rough = (max - min) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let v = Math.ceil(min / step) * step; v <= max + step * 1e-9; v += step) found.push(Number(v.toPrecision(10)));
  return found;
}
const powers = (min, max) => [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7].filter((v) => v >= min && v <= max);

function axes(root, width, height, x, y) {
  const [left, right] = [MARGIN.left, width - MARGIN.right];
  const [top, bottom] = [MARGIN.top, height - MARGIN.bottom];
  const sx = scale(x.min, x.max, left, right, x.log);
  const sy = scale(y.min, y.max, bottom, top);
  for (const v of y.ticks ?? ticks(y.min, y.max, 5)) {
    root.append(svg("line", { x1: left, x2: right, y1: sy(v), y2: sy(v), class: "grid" }));
    root.append(svg("text", { x: left - 6, y: sy(v) + 4, "text-anchor": "end" }, (y.format ?? String)(v)));
  }
  for (const v of x.ticks ?? (x.log ? powers(x.min, x.max) : ticks(x.min, x.max, Math.max(2, width / 90)))) {
    root.append(svg("line", { x1: sx(v), x2: sx(v), y1: bottom, y2: bottom + 4, class: "grid" }));
    root.append(svg("text", { x: sx(v), y: bottom + 17, "text-anchor": "middle" }, (x.format ?? whole)(v)));
  }
  root.append(svg("text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, x.label));
  return [sx, sy];
}

function line(points, color, dash, extra = {}) {
  const d = points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  return svg("path", { d, fill: "none", stroke: color, "stroke-width": 2, "stroke-dasharray": dash || null, ...extra });
}
function legend(entries) {
  return html("div", { class: "legend" }, ...entries.map(({ name, color, dash, fill }) => {
    const sample = svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" },
      fill ? svg("rect", { x: 4, y: 0, width: 18, height: 12, fill }) : line([[0, 6], [26, 6]], color, dash));
    return html("span", {}, sample, name);
  }));
}

function tip(text, x, y) {
  const box = $("tip");
  box.hidden = text === null;
  if (text === null) return;
  box.textContent = text;
  const left = Math.min(x + 12, document.documentElement.clientWidth + window.scrollX - box.offsetWidth - 8);
  box.style.left = `${Math.max(left, 4)}px`;
  box.style.top = `${y + 14}px`;
}

// ---------------------------------------------------------------------------------------------------------- state

let data;
const state = { run: 0, query: "", groups: new Set("rcf"), sort: "name", up: false, all: false, chosen: [], order: [] };
const color = (run) => `var(--run${run % 6})`;
const single = () => data.runs.length === 1;
const classes = () => data.classes;
const matching = (i) =>
  state.groups.has(classes().group[i]) && classes().name[i].toLowerCase().includes(state.query.toLowerCase());
const href = (i) => `#class-${i}`;

function start(unpacked) {
  data = unpacked;
  if (single()) document.querySelector("label.run").hidden = true;
  state.run = data.runs.length - 1;
  state.sort = `AP${state.run}`;
  data.runs.forEach((run, i) => $("run").append(html("option", { value: i, selected: i === state.run }, run.name)));
  $("run").addEventListener("change", () => { state.run = Number($("run").value); route(); });
  for (const [key, name] of Object.entries(GROUPS)) {
    const box = html("input", { type: "checkbox", checked: true, value: key, onchange: () => {
      state.groups[box.checked ? "add" : "delete"](key);
      filtered();
    } });
    $("groups").append(html("label", {}, box, " ", html("span", { class: `ink-${key}` }, name)));
  }
  $("search").addEventListener("input", () => { state.query = $("search").value.trim(); filtered(); });
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && state.order.length) location.hash = href(state.order[0]);
  });
  $("more").addEventListener("click", () => { state.all = true; table(); });
  fillSelects();
  document.addEventListener("keydown", keys);
  window.addEventListener("hashchange", route);
  $("controls").hidden = false;
  route();
}

function fillSelects() {
  const options = [["AP", "AP"], ["AP50", "AP at IoU 0.5"], ["found", "share of objects found"]];
  if (!single()) options.push(["change", `AP, change from ${data.runs[0].name}`]);
  options.forEach(([value, name]) => $("scatter-value").append(html("option", { value }, name)));
  $("scatter-value").addEventListener("change", scatter);
  const curves = new Set(data.runs.flatMap((run) => [...Object.keys(run.train), ...Object.keys(run.val)]));
  const hidden = ["step", "epoch"];
  [...curves].filter((name) => !hidden.includes(name)).forEach((name) => $("curve").append(html("option", {}, name)));
  $("curve").addEventListener("change", training);
  classes().name.forEach((name) => $("class-names").append(html("option", { value: name })));
  $("add-class").addEventListener("change", () => {
    const i = classes().name.indexOf($("add-class").value);
    if (i >= 0 && !state.chosen.includes(i)) state.chosen.push(i);
    if (i >= 0) $("add-class").value = "";
    precision();
  });
}

function keys(event) {
  const typing = event.target.matches("input, select");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("search").focus();
  } else if (event.key === "Escape") {
    tip(null);
    if (current() !== null) location.hash = "";
    else if (event.target === $("search")) { $("search").value = state.query = ""; filtered(); }
  } else if (current() !== null && !typing && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    const next = neighbour(current(), event.key === "ArrowRight" ? 1 : -1);
    if (next !== undefined) location.replace(href(next));
  }
}
const current = () => {
  const found = /^#class-(\d+)$/.exec(location.hash);
  return found && Number(found[1]) < classes().name.length ? Number(found[1]) : null;
};
const neighbour = (i, step) => state.order[state.order.indexOf(i) + step];

let scrolled = 0;
function route() {
  const i = current();
  if (!$("overview").hidden) scrolled = window.scrollY;
  const entering = (i === null) === $("overview").hidden;
  $("overview").hidden = i !== null;
  $("class").hidden = i === null;
  tip(null);
  sorted();
  if (i !== null) return classPage(i);
  overview();
  if (entering) window.scrollTo({ top: scrolled, behavior: "instant" });
}

// ---------------------------------------------------------------------------------------------------------- overview

function overview() {
  byGroup();
  filtered();
  precision();
  training();
  scores($("scores"), Object.keys(GROUPS).map((group) => [GROUPS[group], `var(--${group})`, members(group)]));
  fates();
  errors();
  calibration();
  matrix();
  settings();
}
function filtered() {
  sorted();
  if (current() !== null) return;
  table();
  scatter();
}
const members = (group) => classes().group.flatMap((g, i) => (g === group ? [i] : []));

function byGroup() {
  const names = [["AP", "all"], ["APr", "rare"], ["APc", "common"], ["APf", "frequent"]];
  const rows = data.runs.map((run) => names.map(([key]) => run.scores[data.kind][key]));
  const top = Math.max(0.05, ...rows.flat().map((v) => v ?? 0)) * 1.15;
  chart($("by-group"), "average precision of all, rare, common and frequent classes", 260, (root, width, height) => {
    const axisY = { min: 0, max: top, format: (v) => (100 * v).toFixed(0) };
    const [, sy] = axes(root, width, height, { min: 0, max: 1, ticks: [], label: "" }, axisY);
    const slot = (width - MARGIN.left - MARGIN.right) / names.length;
    const bar = Math.min(46, (slot * 0.8) / rows.length);
    names.forEach(([, name], g) => {
      const centre = MARGIN.left + slot * (g + 0.5);
      root.append(svg("text", { x: centre, y: height - 14, "text-anchor": "middle", class: "strong" }, name));
      rows.forEach((row, r) => {
        if (row[g] === null) return;
        const x = centre + (r - rows.length / 2) * bar;
        const fill = single() ? `var(--${["all", "r", "c", "f"][g]})` : color(r);
        root.append(svg("rect", { x: x + 1, y: sy(row[g]), width: bar - 2, height: sy(0) - sy(row[g]), fill, rx: 2 }));
        if (bar > 20) root.append(svg("text", { x: x + bar / 2, y: sy(row[g]) - 4, "text-anchor": "middle" }, percent(row[g])));
      });
    });
    return single() ? [] : [legend(data.runs.map((run, r) => ({ name: run.name, fill: color(r) })))];
  });
}

function valueOf(kind, i, run = state.run) {
  const it = data.runs[run];
  if (kind === "found") return classes().objects[i] ? it.outcomes[i][2] / classes().objects[i] : null;
  if (kind === "change") return it.AP[i] === null || data.runs[0].AP[i] === null ? null : it.AP[i] - data.runs[0].AP[i];
  return it[kind][i];
}

function scatter() {
  const kind = $("scatter-value").value;
  const shown = classes().name.map((_, i) => i).filter((i) => valueOf(kind, i) !== null);
  const values = shown.map((i) => valueOf(kind, i));
  const bounds = kind === "change"
    ? { min: Math.min(-0.05, ...values), max: Math.max(0.05, ...values) }
    : { min: 0, max: Math.max(0.1, ...values) };
  const counts = shown.map((i) => Math.max(1, classes().images[i]));
  const label = `${$("scatter-value").selectedOptions[0].textContent} against training images, a dot a class`;
  chart($("scatter"), label, 280, (root, width, height) => {
    const x = { min: 0.8, max: Math.max(12, ...counts) * 1.2, log: true, label: "training images" };
    const [sx, sy] = axes(root, width, height, x, { ...bounds, format: (v) => (100 * v).toFixed(0) });
    for (const edge of [10, 100]) {
      if (edge * 1.05 < x.max) root.append(svg("line", { x1: sx(edge * 1.05), x2: sx(edge * 1.05), y1: MARGIN.top, y2: height - MARGIN.bottom, class: "grid", "stroke-dasharray": "3 3" }));
    }
    const dots = shown.map((i) => ({ i, x: sx(Math.max(1, classes().images[i])), y: sy(valueOf(kind, i)) }));
    dots.sort((a, b) => matching(a.i) - matching(b.i));
    for (const dot of dots) {
      const on = matching(dot.i);
      dot.node = svg("circle", { cx: dot.x, cy: dot.y, r: on ? 4.5 : 3, class: "dot", "data-class": dot.i,
        fill: `var(--${classes().group[dot.i]})`, "fill-opacity": on ? 0.75 : 0.12 });
      root.append(dot.node);
    }
    pointing(root, dots.filter((dot) => matching(dot.i)), (i) => `${classes().name[i]}: ${kind === "change" ? signed(valueOf(kind, i)) : percent(valueOf(kind, i))}, ${whole(classes().images[i])} training images`);
  });
}

// The nearest dot under the pointer; arrows walk along the dots from rare to frequent.
function pointing(root, dots, describe) {
  const order = [...dots].sort((a, b) => a.x - b.x || a.y - b.y);
  let at = -1;
  const ring = svg("circle", { r: 8, fill: "none", stroke: "var(--ink)", "stroke-width": 2, visibility: "hidden" });
  root.append(ring);
  const show = (dot) => {
    ring.setAttribute("visibility", dot ? "visible" : "hidden");
    if (!dot) return tip(null);
    ring.setAttribute("cx", dot.x);
    ring.setAttribute("cy", dot.y);
    const box = root.getBoundingClientRect();
    tip(describe(dot.i), box.left + window.scrollX + dot.x, box.top + window.scrollY + dot.y);
  };
  const nearest = (event) => {
    const box = root.getBoundingClientRect();
    const far = (dot) => Math.hypot(dot.x - (event.clientX - box.left), dot.y - (event.clientY - box.top));
    const best = order.reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
    return best && far(best) < 24 ? best : null;
  };
  root.addEventListener("pointermove", (event) => show(nearest(event)));
  root.addEventListener("pointerleave", () => show(null));
  root.addEventListener("click", (event) => { const dot = nearest(event); if (dot) location.hash = href(dot.i); });
  root.setAttribute("tabindex", 0);
  root.addEventListener("blur", () => show(null));
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (step && order.length) {
      event.preventDefault();
      at = (at + step + order.length) % order.length;
      show(order[at]);
    } else if (event.key === "Enter" && at >= 0) location.hash = href(order[at].i);
  });
}

function columns() {
  const c = classes();
  const found = [
    { key: "name", name: "class", value: (i) => c.name[i] },
    { key: "group", name: "group", value: (i) => "rcf".indexOf(c.group[i]) },
    ...data.runs.map((run, r) => ({ key: `AP${r}`, name: single() ? "AP" : `AP ${run.name}`, value: (i) => run.AP[i], show: percent })),
  ];
  if (single()) found.push({ key: "AP50", name: "AP50", value: (i) => data.runs[0].AP50[i], show: percent });
  else found.push({ key: "change", name: `${data.runs[state.run].name} − ${data.runs[0].name}`, value: (i) => valueOf("change", i), show: signed });
  found.push(
    { key: "found", name: "found, %", value: (i) => valueOf("found", i), show: percent },
    { key: "images", name: "train images", value: (i) => c.images[i] },
    { key: "instances", name: "train objects", value: (i) => c.instances[i] },
    { key: "objects", name: "objects", value: (i) => c.objects[i] },
  );
  return found;
}

function sorted() {
  const column = columns().find(({ key }) => key === state.sort) ?? columns()[0];
  const compare = (a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b; // what has no value comes last
    return (state.up ? 1 : -1) * (typeof x === "string" ? -x.localeCompare(y) : x - y) || a - b;
  };
  state.order = classes().name.map((_, i) => i).filter(matching).sort(compare);
  $("count").textContent = `${whole(state.order.length)} of ${whole(classes().name.length)} classes`;
}

function table() {
  const all = columns();
  const head = html("tr", {}, ...all.map(({ key, name }) => {
    const on = key === state.sort;
    const arrow = on ? (state.up ? " ▲" : " ▼") : "";
    return html("th", { scope: "col", "aria-sort": on ? (state.up ? "ascending" : "descending") : null },
      html("button", { type: "button", "data-key": key, onclick: () => sortBy(key) }, name + arrow));
  }));
  const rows = (state.all ? state.order : state.order.slice(0, ROWS_AT_FIRST)).map((i) =>
    html("tr", {}, ...all.map(({ key, value, show }) => {
      if (key === "name") return html("td", {}, html("a", { href: href(i), class: `ink-${classes().group[i]}` }, classes().name[i]));
      if (key === "group") return html("td", {}, badge(i));
      const text = (show ?? whole)(value(i));
      const sign = key === "change" && value(i) ? (value(i) > 0 ? " up" : " down") : "";
      return html("td", { class: "number" + sign }, text);
    })));
  const focused = document.activeElement?.dataset?.key;
  $("classes").tHead.replaceChildren(head);
  $("classes").tBodies[0].replaceChildren(...rows);
  if (focused) head.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  $("more").hidden = state.all || state.order.length <= ROWS_AT_FIRST;
  $("more").textContent = `show all ${whole(state.order.length)}`;
}
function sortBy(key) {
  state.up = state.sort === key ? !state.up : false;
  state.sort = key;
  filtered();
}
const badge = (i) => html("span", { class: `group ${classes().group[i]}` }, GROUPS[classes().group[i]]);

function precisionLines(entries, host, label) {
  chart(host, label, 280, (root, width, height) => {
    const [sx, sy] = axes(root, width, height, { min: 0, max: 1, label: "recall", format: String }, { min: 0, max: 1 });
    for (const { curve, stroke, dash } of entries) {
      root.append(line(curve.map((p, k) => [sx(k / (curve.length - 1)), sy(p / 1000)]), stroke, dash));
    }
    return [legend(entries.map(({ name, stroke, dash }) => ({ name, color: stroke, dash })))];
  });
}
function precision() {
  $("chosen").replaceChildren(...state.chosen.map((i) => html("button", { type: "button", title: "remove",
    onclick: () => { state.chosen.splice(state.chosen.indexOf(i), 1); precision(); } }, `${classes().name[i]} ×`)));
  let entries;
  if (state.chosen.length === 0) {
    entries = Object.keys(GROUPS).flatMap((group) => {
      const curves = members(group).map((i) => data.runs[state.run].precision[i]).filter((curve) => curve);
      if (!curves.length) return [];
      return [{ name: `${GROUPS[group]}, mean`, stroke: `var(--${group})`, curve: curves[0].map((_, k) => mean(curves.map((c) => c[k]))) }];
    });
  } else {
    entries = state.chosen.flatMap((i, n) => data.runs.flatMap((run, r) => run.precision[i] === null ? [] : [{
      name: single() ? classes().name[i] : `${classes().name[i]}, ${run.name}`, curve: run.precision[i],
      stroke: single() ? color(n) : color(r), dash: DASHES[(single() ? 0 : n) % DASHES.length] }]));
  }
  precisionLines(entries, $("precision"), "precision against recall");
}

function training() {
  const name = $("curve").value;
  const series = data.runs.map((run) => (name in run.val ? run.val : run.train)).map((log) =>
    (log.step ?? []).map((step, k) => [step, log[name]?.[k] ?? null]).filter(([, value]) => value !== null));
  const points = series.flat();
  if (!points.length) return $("training").replaceChildren(html("p", { class: "note" }, "No log: the run was not trained here."));
  const values = points.map(([, value]) => value);
  const low = Math.min(...values);
  const bounds = { min: low < Math.max(...values) * 0.5 ? Math.min(0, low) : low, max: Math.max(...values) };
  if (bounds.min === bounds.max) Object.assign(bounds, { min: bounds.min * 0.9, max: bounds.max * 1.1 || 1 });
  chart($("training"), `${name} by step`, 280, (root, width, height) => {
    const short = (v) => Number(v.toPrecision(3)).toString();
    const x = { min: 0, max: Math.max(...points.map(([step]) => step)), label: "step" };
    const [sx, sy] = axes(root, width, height, x, { ...bounds, format: short });
    series.forEach((line_, r) => {
      const at = line_.map(([step, value]) => [sx(step), sy(value)]);
      if (at.length > 1) root.append(line(at, single() ? "var(--link)" : color(r), DASHES[r % DASHES.length]));
      if (at.length < 30) at.forEach(([cx, cy]) => root.append(svg("circle", { cx, cy, r: 3.5, fill: single() ? "var(--link)" : color(r) })));
    });
    return single() ? [] : [legend(data.runs.map((run, r) => ({ name: run.name, color: color(r), dash: DASHES[r % DASHES.length] })))];
  });
}

// Right detections filled, wrong ones hatched, a row for each [name, color, class numbers].
function scores(host, rows, run = state.run) {
  const sum = (table, labels) => table[0].map((_, k) => labels.reduce((total, i) => total + table[i][k], 0));
  const counts = rows.map(([, , labels]) => [sum(data.runs[run].right, labels), sum(data.runs[run].wrong, labels)]);
  const top = Math.log10(1 + Math.max(1, ...counts.flat(2)));
  const each = 84;
  chart(host, "numbers of right and wrong detections by score", rows.length * each + 40, (root, width, height) => {
    const sx = scale(0, 1, MARGIN.left, width - MARGIN.right);
    const step = sx(1 / 20) - sx(0);
    rows.forEach(([name, fill], n) => {
      const base = MARGIN.top + (n + 1) * each - 8;
      const tall = (count) => (Math.log10(1 + count) / top) * (each - 26);
      const id = `hatch-${host.id || "class"}-${n}`;
      root.append(svg("pattern", { id, width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        svg("rect", { width: 1.6, height: 4, fill })));
      root.append(svg("text", { x: MARGIN.left, y: base - each + 20, class: "strong" }, name));
      root.append(svg("line", { x1: sx(0), x2: sx(1), y1: base, y2: base, class: "grid" }));
      for (let k = 0; k < 20; k++) {
        const [right, wrong] = [counts[n][0][k], counts[n][1][k]];
        const title = `scores ${(k / 20).toFixed(2)} to ${((k + 1) / 20).toFixed(2)}: ${whole(right)} right, ${whole(wrong)} wrong`;
        root.append(svg("g", {}, svg("title", {}, title),
          svg("rect", { x: sx(k / 20) + step / 2, y: base - tall(wrong), width: step / 2 - 1, height: tall(wrong), fill: `url(#${id})` }),
          svg("rect", { x: sx(k / 20) + 1, y: base - tall(right), width: step / 2 - 1, height: tall(right), fill })));
      }
    });
    for (const v of [0, 0.25, 0.5, 0.75, 1]) root.append(svg("text", { x: sx(v), y: height - 18, "text-anchor": "middle" }, String(v)));
    root.append(svg("text", { x: (sx(0) + sx(1)) / 2, y: height - 2, "text-anchor": "middle" }, "score"));
    const cut = sx(data.threshold);
    root.append(svg("line", { x1: cut, x2: cut, y1: MARGIN.top, y2: height - 32, stroke: "var(--soft)", "stroke-dasharray": "3 3" }));
  });
}

function shares(root, x, y, wide, tall, counts) {
  const total = counts.reduce((a, b) => a + b, 0);
  const fills = ["var(--line)", "var(--c)", "var(--run0)"];
  let at = x;
  for (const k of [2, 1, 0]) {
    const part = total ? (counts[k] / total) * wide : 0;
    const bar = svg("rect", { x: at, y, width: Math.max(0, part - 1), height: tall, fill: fills[k], rx: 2 });
    bar.append(svg("title", {}, `${FATES[k]}: ${whole(counts[k])} of ${whole(total)}`));
    root.append(bar);
    if (part > 36) root.append(svg("text", { x: at + 5, y: y + tall / 2 + 4, class: k ? "on-bar" : "strong" }, `${Math.round((100 * counts[k]) / total)}%`));
    at += part;
  }
}
function fates() {
  const rows = Object.keys(GROUPS).flatMap((group) => data.runs.map((run, r) => ({ group, run, r })));
  const tall = single() ? 34 : 24;
  const height = rows.length * tall + Object.keys(GROUPS).length * 22 + 6;
  chart($("fates"), "objects found, taken for another class and missed, by group", height, (root, width) => {
    let y = 0;
    rows.forEach(({ group, run, r }) => {
      if (r === 0) {
        y += 20;
        root.append(svg("text", { x: 0, y: y - 4, class: "strong" }, GROUPS[group]));
      }
      const counts = members(group).reduce((sum, i) => sum.map((v, k) => v + run.outcomes[i][k]), [0, 0, 0]);
      const left = single() ? 0 : Math.min(120, width * 0.3);
      if (!single()) root.append(svg("text", { x: 0, y: y + tall / 2 + 2 }, clip(run.name, left / 7)));
      shares(root, left, y + 1, width - left, tall - 6, counts);
      y += tall;
    });
    return [legend([{ name: "found", fill: "var(--run0)" }, { name: "taken for another class", fill: "var(--c)" }, { name: "missed", fill: "var(--line)" }])];
  });
}
const clip = (text, length) => (text.length > length ? `${text.slice(0, Math.max(1, length - 1))}…` : text);

function errors() {
  const found = data.runs[state.run].errors;
  const parts = Object.keys(GROUPS).filter((part) => part in found);
  const kinds = Object.keys(found.all);
  const cost = (part, kind) => found[part][kind][1] ?? 0;
  const top = Math.max(0.02, ...parts.flatMap((part) => kinds.map((kind) => cost(part, kind)))) * 1.12;
  const tall = 13;
  const row = parts.length * tall + 14;
  chart($("errors"), "AP50 lost to each kind of error, by group", kinds.length * row + 6, (root, width) => {
    const left = 96;
    const sx = scale(0, top, left, width - 40);
    kinds.forEach((kind, k) => {
      const y = k * row + 6;
      root.append(svg("text", { x: 0, y: y + (parts.length * tall) / 2 + 4, class: "strong" }, kind));
      parts.forEach((part, n) => {
        const value = cost(part, kind);
        const bar = svg("g", {}, svg("title", {}, `${GROUPS[part]}: ${whole(found[part][kind][0])} errors`),
          svg("rect", { x: left, y: y + n * tall, width: Math.max(1, sx(Math.max(0, value)) - left), height: tall - 2, fill: `var(--${part})` }),
          svg("text", { x: sx(Math.max(0, value)) + 4, y: y + n * tall + 10 }, percent(value)));
        root.append(bar);
      });
    });
    return [legend(parts.map((part) => ({ name: GROUPS[part], fill: `var(--${part})` })))];
  });
}

function calibration() {
  const found = data.runs[state.run].reliability;
  const parts = Object.keys(GROUPS).filter((part) => found[part]?.bins.length);
  if (!parts.length) return $("calibration").replaceChildren(html("p", { class: "note" }, "The scores are no probabilities, or there are none."));
  chart($("calibration"), "share of right detections against their score, by group", 300, (root, width, height) => {
    const [sx, sy] = axes(root, width, height, { min: 0, max: 1, label: "score", format: String }, { min: 0, max: 1 });
    root.append(svg("line", { x1: sx(0), x2: sx(1), y1: sy(0), y2: sy(1), stroke: "var(--soft)", "stroke-dasharray": "4 4" }));
    parts.forEach((part) => {
      const points = found[part].bins.map(([score, right, count]) => [sx(score), sy(right), count]);
      root.append(line(points, `var(--${part})`, "", { "stroke-width": 1.5 }));
      points.forEach(([cx, cy, count]) => root.append(svg("circle", { cx, cy, r: 2 + 1.2 * Math.log10(count), fill: `var(--${part})` },
        svg("title", {}, `${GROUPS[part]}: ${whole(count)} detections`))));
    });
    return [legend(parts.map((part) => ({ name: `${GROUPS[part]}, error ${percent(found[part].error)}`, color: `var(--${part})` })))];
  });
}

function matrix() {
  const pairs = data.runs[state.run].confusions.filter(([a]) => classes().group[a] !== "f");
  const total = (key) => pairs.reduce((sums, pair) => sums.set(pair[key], (sums.get(pair[key]) ?? 0) + pair[2]), new Map());
  const best = (sums, count) => [...sums].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, count).map(([i]) => i);
  const rows = best(total(0), 16);
  const among = new Map();
  pairs.filter(([a]) => rows.includes(a)).forEach(([, b, n]) => among.set(b, (among.get(b) ?? 0) + n));
  const across = best(among, 14).sort((a, b) => classes().images[b] - classes().images[a]);
  if (!rows.length) return $("matrix").replaceChildren(html("caption", { class: "note" }, "No such confusion."));
  const count = new Map(pairs.map(([a, b, n]) => [`${a} ${b}`, n]));
  const most = Math.max(...pairs.map(([, , n]) => n));
  const head = (i) => html("th", { scope: "col" }, html("span", {}, html("a", { href: href(i), class: `ink-${classes().group[i]}` }, clip(classes().name[i], 22))));
  const cell = (a, b) => {
    const n = count.get(`${a} ${b}`);
    const node = html("td", { title: n ? `${n} of ${classes().objects[a]} objects of ${classes().name[a]} are taken for ${classes().name[b]}` : null }, n ? String(n) : "");
    if (n) node.style.background = `color-mix(in srgb, var(--c) ${Math.round(15 + (55 * n) / most)}%, transparent)`;
    return node;
  };
  $("matrix").replaceChildren(
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "object"), html("th", { scope: "col" }, "objects"), ...across.map(head))),
    html("tbody", {}, ...rows.map((a) => html("tr", {},
      html("th", { scope: "row" }, html("a", { href: href(a), class: `ink-${classes().group[a]}` }, clip(classes().name[a], 28))),
      html("td", {}, whole(classes().objects[a])), ...across.map((b) => cell(a, b))))));
}

function settings() {
  const names = [...new Set(data.runs.flatMap((run) => Object.keys(run.settings)))];
  const differs = (name) => new Set(data.runs.map((run) => run.settings[name])).size > 1;
  const shown = single() ? names : names.filter(differs).concat(names.filter((name) => !differs(name)));
  $("settings").replaceChildren(
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "setting"), ...data.runs.map((run) => html("th", { scope: "col" }, run.name)))),
    html("tbody", {}, ...shown.map((name) => html("tr", {}, html("th", { scope: "row" }, name),
      ...data.runs.map((run) => html("td", {}, differs(name) ? html("strong", {}, run.settings[name] ?? "–") : run.settings[name] ?? "–"))))));
}

// ---------------------------------------------------------------------------------------------------------- a class

async function classPage(i) {
  const c = classes();
  const step = (by, name) => {
    const next = neighbour(i, by);
    return next === undefined ? null : html("a", { href: href(next), rel: by > 0 ? "next" : "prev" }, name);
  };
  const facts = `${whole(c.images[i])} training images, ${whole(c.instances[i])} training objects; ${whole(c.objects[i])} objects to be found`;
  const masks = html("input", { type: "checkbox", checked: true, onchange: () => $("class").classList.toggle("no-masks", !masks.checked) });
  const host = html("div", {}, html("p", { class: "note" }, "unpacking the pictures …"));
  $("class").classList.remove("no-masks");
  const [curve, spread] = [html("div", { class: "chart" }), html("div", { class: "chart" })];
  $("class").replaceChildren(
    html("div", { class: "top" }, html("a", { href: "#" }, "← all classes"), step(-1, "previous"), step(1, "next")),
    html("div", { class: "top" }, html("h2", { tabindex: -1, class: `ink-${c.group[i]}` }, c.name[i]), badge(i)),
    html("p", { class: "note" }, facts),
    html("div", { class: "scroll" }, classFigures(i)),
    html("div", { class: "charts" },
      html("div", {}, html("h3", {}, "Precision and recall"), curve),
      html("div", {}, html("h3", {}, single() ? "Scores" : `Scores, ${data.runs[state.run].name}`), spread)),
    neighbours(i),
    html("p", {}, html("label", {}, masks, " masks"), html("span", { class: "note" }, "   dashed white: the annotated object; blue: the detection")),
    host);
  const curves = data.runs.flatMap((run, r) => run.precision[i] === null ? [] : [{ name: run.name, curve: run.precision[i], stroke: color(r), dash: DASHES[r % DASHES.length] }]);
  if (curves.length) precisionLines(curves, curve, "precision against recall");
  else curve.append(html("p", { class: "note" }, "There is no object of this class to be found."));
  scores(spread, [["", `var(--${c.group[i]})`, [i]]]);
  window.scrollTo({ top: 0, behavior: "instant" });
  $("class").querySelector("h2").focus({ preventScroll: true });
  const gallery = await unpack(`gallery-${i}`);
  if (current() === i) host.replaceChildren(...galleryParts(i, gallery));
}

function classFigures(i) {
  const names = ["AP", "AP50", "AR"];
  return html("table", { class: "figures" },
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "run"), ...[...names, "found", "taken for another", "missed"].map((name) => html("th", { scope: "col", class: "number" }, name)))),
    html("tbody", {}, ...data.runs.map((run) => html("tr", {}, html("th", { scope: "row" }, run.name),
      ...names.map((name) => html("td", { class: "number" }, percent(run[name][i]))),
      ...[2, 1, 0].map((k) => html("td", { class: "number" }, whole(run.outcomes[i][k])))))));
}

function neighbours(i) {
  const lines = data.runs.flatMap((run) => {
    const list = (pairs, key) => pairs.slice(0, 5).flatMap((pair, k) => [k ? ", " : "", html("a", { href: href(pair[key]) }, classes().name[pair[key]]), ` (${pair[2]})`]);
    const taken = run.confusions.filter(([a]) => a === i);
    const takes = run.confusions.filter(([, b]) => b === i);
    const prefix = single() ? "" : `${run.name}: `;
    return [
      taken.length ? html("p", {}, `${prefix}its objects are taken for `, ...list(taken, 1)) : null,
      takes.length ? html("p", {}, `${prefix}taken for it are `, ...list(takes, 0)) : null,
    ];
  }).filter((line) => line);
  return html("div", {}, ...lines);
}

function galleryParts(i, { pictures, items }) {
  const strip = (title, kind, run, total) => {
    const mine = items.filter((item) => item[0] === kind && item[1] === run);
    if (!mine.length && !total) return [];
    const count = mine.length < total ? `${mine.length} of ${whole(total)}` : String(mine.length);
    const list = html("ul", { class: "pictures" }, ...mine.map((item) => html("li", {}, figure(item, pictures))));
    return [html("h4", {}, `${title} (${count})`), ...(mine.length ? [list] : [])];
  };
  const parts = data.runs.flatMap((run, r) => {
    const [missed, confused, found] = run.outcomes[i];
    const totals = { found, missed, confused, false: run.alarms[i] };
    const strips = Object.entries(KINDS).flatMap(([kind, title]) => strip(title, kind, r, totals[kind]));
    if (!strips.length) strips.push(html("p", { class: "note" }, "No object to be found, and no false alarm."));
    return single() ? strips : [html("details", { open: true }, html("summary", {}, run.name), ...strips)];
  });
  return [...strip("Training examples", "train", 0, 0), ...parts];
}

function figure([kind, , number, truth, found, score, iou, other], pictures) {
  const image = `data:image/webp;base64,${pictures[number]}`;
  const frame = svg("svg", { role: "img", "aria-label": caption(kind, score, iou, other) });
  const probe = new Image();
  probe.onload = () => {
    const [wide, tall] = [probe.naturalWidth, probe.naturalHeight];
    frame.setAttribute("viewBox", `0 0 ${2 * wide} ${2 * tall}`); // outlines are in half pixels
    frame.prepend(svg("image", { href: image, width: 2 * wide, height: 2 * tall }));
  };
  probe.src = image;
  for (const [path, name] of [[truth, "truth"], [found, "found"]]) {
    if (path) frame.append(svg("path", { d: path, class: "halo" }), svg("path", { d: path, class: name }));
  }
  return html("figure", {}, html("div", { class: "frame" }, frame), html("figcaption", {}, caption(kind, score, iou, other)));
}
function caption(kind, score, iou, other) {
  if (kind === "train") return "training";
  if (kind === "missed") return score === null ? "no detection" : `found, but with score ${score.toFixed(2)}`;
  if (kind === "found") return `score ${score.toFixed(2)}, IoU ${iou.toFixed(2)}`;
  if (kind === "confused") return `taken for ${classes().name[other]}, score ${score.toFixed(2)}, IoU ${iou.toFixed(2)}`;
  if (other < 0) return `score ${score.toFixed(2)}, nothing annotated there`;
  return `score ${score.toFixed(2)}, IoU ${iou.toFixed(2)} with ${classes().name[other]}`;
}

if (typeof DecompressionStream === "undefined") $("failure").hidden = false;
else unpack("data").then(start);
