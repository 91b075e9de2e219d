// Pictures of a class, with outlines.

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
