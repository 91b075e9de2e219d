// The page of one class.

async function classPage(i) {
  const c = classes();
  const step = (by, name) => {
    const next = neighbor(i, by);
    return next === undefined ? null : html("a", { href: href(next), rel: by > 0 ? "next" : "prev" }, name);
  };
  const training = c.images === null ? "" : `${counted(c.images[i], "training image", "training images")}, ${counted(c.instances[i], "training object", "training objects")}; `;
  const facts = `${training}${counted(c.objects[i], "object", "objects")} to be found`;
  const masks = html("input", { type: "checkbox", checked: true, onchange: () => $("class").classList.toggle("no-masks", !masks.checked) });
  const host = html("div", {}, html("p", { class: "note" }, "unpacking the pictures …"));
  $("class").classList.remove("no-masks");
  const [curve, spread] = [html("div", { class: "chart" }), html("div", { class: "chart" })];
  $("class").replaceChildren(
    html("div", { class: "top" }, html("a", { href: "#" }, "← all classes"), step(-1, "previous"), step(1, "next")),
    html("div", { class: "top" }, html("h2", { tabindex: -1, class: `ink-${c.group[i]}` }, c.name[i]), "all" in GROUPS ? null : badge(i)),
    html("p", { class: "note" }, facts),
    html("div", { class: "scroll" }, classFigures(i)),
    html("div", { class: "charts" },
      html("div", {}, html("h3", {}, "Precision and recall"), curve),
      html("div", {}, html("h3", {}, single() ? "Scores" : `Scores, ${data.runs[state.run].name}`), spread)),
    neighbors(i),
    imageLinks(i),
    html("p", {}, html("label", {}, masks, " outlines"), html("span", { class: "note" }, "   dashed white: the annotated object; blue: the detection")),
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
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "run"), ...[...names, "found", "taken for another", "missed", "split", "merged"].map((name) => html("th", { scope: "col", class: "number" }, name)))),
    html("tbody", {}, ...data.runs.map((run) => html("tr", {}, html("th", { scope: "row" }, run.name),
      ...names.map((name) => html("td", { class: "number" }, percent(run[name][i]))),
      ...[run.outcomes[i][2], run.outcomes[i][1], run.outcomes[i][0], run.splits[i][0], run.splits[i][1]].map((count) => html("td", { class: "number" }, whole(count)))))));
}

function neighbors(i) {
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
