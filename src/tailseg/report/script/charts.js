// Charts in general: drawing at the width there is, axes, lines, legends.

const DASHES = ["", "6 3", "2 3", "9 3 2 3", "1 4", "12 4"];
const MARGIN = { left: 44, right: 12, top: 10, bottom: 36 };

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
