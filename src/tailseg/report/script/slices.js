// AP by the fields of the image records: a dot with its interval for each value and run, and what chance gives.

function slices() {
  data.fields.forEach((field, f) => {
    const rows = data.runs[0].slices[f];
    const all = data.runs.flatMap((run) => run.slices[f]);
    const top = Math.min(1, 1.05 * Math.max(0.01, ...all.flatMap((row) => [row.AP, row.high, row.expected]).map((v) => v ?? 0)));
    const tall = 16;
    const each = data.runs.length * tall + 16;
    chart($(`slices-${f}`), `AP by ${field}, with 95 % intervals`, rows.length * each + 34, (root, width, height) => {
      const left = Math.min(170, width * 0.36);
      const sx = scale(0, top, left, width - 86);
      for (const v of ticks(0, 100 * top, Math.max(2, width / 120))) {
        root.append(svg("line", { x1: sx(v / 100), x2: sx(v / 100), y1: 2, y2: height - 26, class: "grid" }));
        root.append(svg("text", { x: sx(v / 100), y: height - 10, "text-anchor": "middle" }, String(v)));
      }
      rows.forEach((row, n) => {
        const y = n * each + 6;
        root.append(svg("text", { x: 0, y: y + 12, class: "strong" }, clip(row.value, left / 7.5), svg("title", {}, row.value)));
        root.append(svg("text", { x: 0, y: y + 27 }, clip(counted(row.images, "image", "images"), left / 7)));
        data.runs.forEach((run, r) => slice(root, sx, y + 8 + r * tall, run.slices[f][n], r));
      });
      return [legend(single() ? [] : data.runs.map((run, r) => ({ name: run.name, fill: color(r) })))];
    });
  });
}

function slice(root, sx, y, row, r) {
  const interval = row.low === null ? "" : ` (${percent(row.low)} .. ${percent(row.high)})`;
  const title = `${row.value}${single() ? "" : `, ${data.runs[r].name}`}: AP ${percent(row.AP)}${interval}, expected ${percent(row.expected)}; ` +
    `${counted(row.images, "image", "images")}, ${counted(row.objects, "object", "objects")}, ${counted(row.classes, "class", "classes")}`;
  const mark = svg("g", {}, svg("title", {}, title));
  if (row.low !== null) mark.append(svg("line", { x1: sx(row.low), x2: sx(row.high), y1: y, y2: y, stroke: color(r), "stroke-width": 2 }));
  if (row.expected !== null) mark.append(svg("line", { x1: sx(row.expected), x2: sx(row.expected), y1: y - 7, y2: y + 7, stroke: "var(--soft)", "stroke-width": 2 }));
  if (row.AP !== null) mark.append(svg("circle", { cx: sx(row.AP), cy: y, r: 4.5, fill: color(r) }));
  const end = Math.max(sx(row.AP ?? 0), sx(row.high ?? 0), sx(row.expected ?? 0)) + 8;
  const verdict = row.verdict === "better" || row.verdict === "worse" ? ` ${row.verdict}` : "";
  mark.append(svg("text", { x: end, y: y + 4, class: verdict ? "strong" : null }, `${percent(row.AP)}${verdict}`));
  root.append(mark);
}
