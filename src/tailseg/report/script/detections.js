// Scores of right and wrong detections, kinds of error, calibration.

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
          svg("text", { x: sx(Math.max(0, value)) + 4, y: y + n * tall + 10 }, percent(found[part][kind][1])));
        root.append(bar);
      });
    });
    return [legend(parts.map((part) => ({ name: GROUPS[part], fill: `var(--${part})` })))];
  });
}

function calibration() {
  const found = data.runs[state.run].reliability;
  const parts = Object.keys(GROUPS).filter((part) => found[part]?.bins.length);
  if (!parts.length) return $("calibration").replaceChildren(html("p", { class: "note" }, "There are no scores, or they are not between 0 and 1."));
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
