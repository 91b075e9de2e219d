// Pictures of a class, with outlines.

function galleryParts(i, { pictures, items }) {
  const strip = (title, kind, run, total) => {
    const mine = items.filter((item) => item[1] === kind && item[2] === run);
    if (!mine.length && !total) return [];
    const count = mine.length < total ? `${mine.length} of ${whole(total)}` : String(mine.length);
    const list = html("ul", { class: "pictures" }, ...mine.map((item) => html("li", {}, figure(item, pictures))));
    return [html("h4", {}, `${title} (${count})`), ...(mine.length ? [list] : [])];
  };
  const parts = data.runs.flatMap((run, r) => {
    const [missed, confused, found] = run.outcomes[i];
    const [split, , merged] = run.splits[i];
    const totals = { found, missed, confused, split, merged, false: run.alarms[i] };
    const strips = Object.entries(KINDS).flatMap(([kind, title]) => strip(title, kind, r, totals[kind]));
    if (!strips.length) strips.push(html("p", { class: "note" }, "No object to be found, and no false alarm."));
    return single() ? strips : [html("details", { open: true }, html("summary", {}, run.name), ...strips)];
  });
  return [...strip("Training examples", "train", 0, 0), ...parts];
}

function figure([number, kind, , truth, found, score, iou, other], pictures) {
  const text = caption(kind, score, iou, other);
  const frame = framed(pictures[number], text);
  for (const [path, name] of [[truth, "truth"], [found, "found"]]) outline(frame, path, name);
  return html("figure", {}, html("div", { class: "frame" }, frame), html("figcaption", {}, text));
}

// A picture (width, height, WebP in base64) to draw outlines on, which are in half pixels; without a file, an empty frame.
function framed([wide, tall, file], label) {
  const size = { width: 2 * wide, height: 2 * tall };
  return svg("svg", { role: "img", "aria-label": label, viewBox: `0 0 ${size.width} ${size.height}` },
    file ? svg("image", { href: `data:image/webp;base64,${file}`, ...size }) : svg("rect", { ...size, class: "empty" }));
}
function outline(frame, path, name, title = null) {
  if (!path) return;
  frame.append(svg("path", { d: path, class: "halo" }),
    svg("path", { d: path, class: name }, title === null ? null : svg("title", {}, title)));
}

function caption(kind, score, iou, other) {
  if (kind === "train") return "training";
  if (kind === "missed") return score === null ? "no detection" : `found, but with score ${score.toFixed(2)}`;
  if (kind === "split") return `split, best score ${score.toFixed(2)}`;
  if (kind === "merged") return `merged, score ${score.toFixed(2)}`;
  if (kind === "found") return `score ${score.toFixed(2)}, IoU ${iou.toFixed(2)}`;
  if (kind === "confused") return `taken for ${classes().name[other]}, score ${score.toFixed(2)}, IoU ${iou.toFixed(2)}`;
  if (other < 0) return `score ${score.toFixed(2)}, nothing annotated there`;
  return `score ${score.toFixed(2)}, IoU ${iou.toFixed(2)} with ${classes().name[other]}`;
}
