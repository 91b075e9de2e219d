// What became of the objects: found, missed, taken for which other class.

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

function matrix() {
  const pairs = data.runs[state.run].confusions.filter(([a]) => classes().group[a] !== "f");
  const total = (key) => pairs.reduce((sums, pair) => sums.set(pair[key], (sums.get(pair[key]) ?? 0) + pair[2]), new Map());
  const best = (sums, count) => [...sums].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, count).map(([i]) => i);
  const rows = best(total(0), 16);
  const among = new Map();
  pairs.filter(([a]) => rows.includes(a)).forEach(([, b, n]) => among.set(b, (among.get(b) ?? 0) + n));
  const across = best(among, 14).sort((a, b) => classes().count[b] - classes().count[a]);
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

function splits() {
  const parts = Object.keys(GROUPS).length > 1 ? ["all", ...Object.keys(GROUPS)] : ["all"];
  const labels = (part) => (part === "all" ? classes().name.map((_, i) => i) : members(part));
  const sum = (values, part) => labels(part).reduce((total, i) => total + values(i), 0);
  const rows = parts.filter((part) => labels(part).length).flatMap((part) => data.runs.map((run, r) => html("tr", {},
    r ? null : html("th", { scope: "row", rowspan: data.runs.length, class: `ink-${part}` }, GROUPS[part] ?? "all classes"),
    single() ? null : html("td", {}, run.name),
    ...[(i) => classes().objects[i], ...[0, 1, 2].map((k) => (i) => run.splits[i][k])].map((values) => html("td", { class: "number" }, whole(sum(values, part)))))));
  const names = ["objects", "split", "merged", "merging detections"];
  $("splits").replaceChildren(
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "classes"), single() ? null : html("th", { scope: "col" }, "run"),
      ...names.map((name) => html("th", { scope: "col", class: "number" }, name)))),
    html("tbody", {}, ...rows));
}
