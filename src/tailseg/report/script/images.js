// The images with the most errors: cards, and a page for each.

const sumOf = (counts, ...keys) => keys.reduce((total, key) => total + counts[key], 0);
const [IN_MISSED, IN_CONFUSED, IN_FOUND, IN_FALSE, IN_RARE] = [0, 1, 2, 3, 4];
const IMAGE_ORDERS = {
  errors: ["all errors", (counts) => sumOf(counts, IN_MISSED, IN_CONFUSED, IN_FALSE)],
  objects: ["objects that are not found", (counts) => sumOf(counts, IN_MISSED, IN_CONFUSED)],
  false: ["false alarms", (counts) => counts[IN_FALSE]],
  rare: ["rare objects that are not found", (counts) => counts[IN_RARE]],
};
const CARDS = 12;
const OUTLINES = { found: "an object, found", lost: "an object, not found", right: "a detection, right", wrong: "a false alarm", other: "a detection that does not count" };
const STATES = ["wrong", "right", "other"];

let unpackedImages;
const imageGallery = () => (unpackedImages ??= unpack("gallery-images"));
const imageHref = (k) => `#image-${k}`;
const currentImage = () => {
  const found = /^#image-(\d+)$/.exec(location.hash);
  return found ? Number(found[1]) : null;
};

function imageCounts([missed, confused, found, wrong]) {
  const parts = [[missed, "missed"], [confused, "taken for another class"]].filter(([count]) => count).map(([count, name]) => `${whole(count)} ${name}`);
  return [...parts, counted(wrong, "false alarm", "false alarms"), `${whole(found)} found`].join(", ");
}

async function images() {
  $("clean").textContent = `${whole(data.runs[state.run].clean)} of ${counted(data.numImages, "image has", "images have")} no error.`;
  const { pictures, items } = await imageGallery();
  const [, value] = IMAGE_ORDERS[$("image-order").value];
  const mine = items.map((item, k) => ({ item, k })).filter(({ item }) => item[1] === state.run && value(item[3]) > 0);
  mine.sort((a, b) => value(b.item[3]) - value(a.item[3]) || a.item[3][IN_FOUND] - b.item[3][IN_FOUND] || a.k - b.k);
  const cards = mine.slice(0, CARDS).map(({ item, k }) => html("li", {}, html("a", { href: imageHref(k) },
    html("figure", {}, html("div", { class: "frame" }, drawnImage(item, pictures)),
      html("figcaption", {}, html("strong", {}, item[2]), html("br"), imageCounts(item[3]))))));
  $("images").replaceChildren(...(cards.length ? [imageLegend(), html("ul", { class: "pictures wide" }, ...cards)] : [html("p", { class: "note" }, "There is no such error.")]));
}

function drawnImage([number, , name, counts, objects, detections], pictures) {
  const frame = framed(pictures[number], `${name}: ${imageCounts(counts)}`);
  for (const [label, state_, score, path] of [...detections].reverse()) outline(frame, path, STATES[state_], `${classes().name[label]}, score ${score.toFixed(2)}`);
  for (const [label, fate, path] of [...objects].reverse()) outline(frame, path, fate === 2 ? "kept" : "lost", `${classes().name[label]}, ${FATES[fate]}`);
  return frame;
}
function imageLegend() {
  const names = [["kept", OUTLINES.found], ["lost", OUTLINES.lost], ["right", OUTLINES.right], ["wrong", OUTLINES.wrong]];
  return html("div", { class: "legend" }, ...names.map(([name, text]) => html("span", {},
    svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, svg("rect", { width: 26, height: 12, class: "empty" }), svg("path", { d: "M2 6H24", class: name })), text)));
}

async function imagePage(k) {
  const { pictures, items } = await imageGallery();
  if (currentImage() !== k) return;
  if (!items[k]) return void (location.hash = "");
  const [, run, name, counts, objects, detections] = items[k];
  const list = (title, rows, total) => {
    const groups = new Map();
    rows.forEach(([label, note]) => groups.set(label, [...(groups.get(label) ?? []), note]));
    const entries = [...groups].map(([label, notes]) => html("li", {}, html("a", { href: href(label), class: `ink-${classes().group[label]}` }, classes().name[label]),
      notes.length > 1 ? ` × ${notes.length}` : "", notes.some((note) => note) ? ` (${notes.filter((note) => note).join(", ")})` : ""));
    return rows.length ? [html("h3", {}, `${title} (${rows.length < total ? `${rows.length} of ${whole(total)}` : rows.length})`), html("ul", { class: "chips" }, ...entries)] : [];
  };
  $("image").replaceChildren(
    html("div", { class: "top" }, html("a", { href: "#" }, "← all images")),
    html("h2", { tabindex: -1 }, name),
    html("p", { class: "note" }, `${single() ? "" : `${data.runs[run].name}: `}${imageCounts(counts)}`),
    imageLegend(),
    html("div", { class: "frame large" }, drawnImage(items[k], pictures)),
    ...list("Objects that are not found", objects.filter((row) => row[1] !== 2).map(([label, fate]) => [label, fate ? "taken for another class" : ""]), sumOf(counts, IN_MISSED, IN_CONFUSED)),
    ...list("False alarms", detections.filter((row) => row[1] === 0).map(([label, , score]) => [label, score.toFixed(2)]), counts[IN_FALSE]),
    ...list("Objects found", objects.filter((row) => row[1] === 2).map(([label]) => [label, ""]), counts[IN_FOUND]));
  window.scrollTo({ top: 0, behavior: "instant" });
  $("image").querySelector("h2").focus({ preventScroll: true });
}

// The images above in which an object of a class is not found, or a detection of it is a false alarm.
function imageLinks(i) {
  const host = html("p", {});
  imageGallery().then(({ items }) => {
    const mine = items.map((item, k) => ({ item, k })).filter(({ item: [, run, , , objects, detections] }) => run === state.run
      && (objects.some(([label, fate]) => label === i && fate !== 2) || detections.some(([label, state_]) => label === i && state_ === 0)));
    if (mine.length) host.append("errors of it in the images with the most errors: ", ...mine.slice(0, 8).flatMap(({ item, k }, n) => [n ? ", " : "", html("a", { href: imageHref(k) }, item[2])]));
  });
  return host;
}
