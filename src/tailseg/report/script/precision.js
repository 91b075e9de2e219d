// AP by group, and precision against recall.

function byGroup() {
  const grouped = [["AP", "all", "all"], ["APr", "rare", "r"], ["APc", "common", "c"], ["APf", "frequent", "f"]];
  const names = "all" in GROUPS ? grouped.slice(0, 1) : grouped;
  const rows = data.runs.map((run) => names.map(([key]) => run.scores[data.kind][key]));
  const top = Math.max(0.05, ...rows.flat().map((v) => v ?? 0)) * 1.15;
  chart($("by-group"), `average precision of ${names.map(([, name]) => name).join(", ")} classes`, 260, (root, width, height) => {
    const axisY = { min: 0, max: top, format: (v) => (100 * v).toFixed(0) };
    const [, sy] = axes(root, width, height, { min: 0, max: 1, ticks: [], label: "" }, axisY);
    const slot = (width - MARGIN.left - MARGIN.right) / names.length;
    const bar = Math.min(46, (slot * 0.8) / rows.length);
    names.forEach(([, name], g) => {
      const center = MARGIN.left + slot * (g + 0.5);
      root.append(svg("text", { x: center, y: height - 14, "text-anchor": "middle", class: "strong" }, name));
      rows.forEach((row, r) => {
        if (row[g] === null) return;
        const x = center + (r - rows.length / 2) * bar;
        const fill = single() ? `var(--${names[g][2]})` : color(r);
        root.append(svg("rect", { x: x + 1, y: sy(row[g]), width: bar - 2, height: sy(0) - sy(row[g]), fill, rx: 2 }));
        if (bar > 20) root.append(svg("text", { x: x + bar / 2, y: sy(row[g]) - 4, "text-anchor": "middle" }, percent(row[g])));
      });
    });
    return single() ? [] : [legend(data.runs.map((run, r) => ({ name: run.name, fill: color(r) })))];
  });
}

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
