// The curves and the settings of the training.

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
    const short = (v) => v && Math.abs(v) < 1e-3 ? v.toExponential(1).replace(".0e", "e") : Number(v.toPrecision(3)).toString();
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

function settings() {
  const names = [...new Set(data.runs.flatMap((run) => Object.keys(run.settings)))];
  const differs = (name) => new Set(data.runs.map((run) => run.settings[name])).size > 1;
  const shown = single() ? names : names.filter(differs).concat(names.filter((name) => !differs(name)));
  $("settings").replaceChildren(
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "setting"), ...data.runs.map((run) => html("th", { scope: "col" }, run.name)))),
    html("tbody", {}, ...shown.map((name) => html("tr", {}, html("th", { scope: "row" }, name),
      ...data.runs.map((run) => html("td", {}, differs(name) ? html("strong", {}, run.settings[name] ?? "–") : run.settings[name] ?? "–"))))));
}
