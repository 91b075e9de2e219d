// Suspected label errors: each is confirmed or dismissed by a key or a button; the confirmed changes are the patch.

const decisions = new Map(); // "kind number" to true (confirmed) or false (dismissed)
let content;

const TEXTS = {
  class: (change, names) => `${names[change.was.category_id]} → ${names[change.becomes.category_id]}`,
  missing: (change, names) => `add ${names[change.becomes.category_id]}`,
  outline: (change, names, category) => `${names[category]}: another outline`,
  duplicate: (change, names, category) => `remove the second ${names[category]}`,
};

function decide(item, key, value) {
  if (value === null) decisions.delete(key);
  else decisions.set(key, value);
  item.classList.toggle("confirmed", value === true);
  item.classList.toggle("dismissed", value === false);
  count();
}

function count() {
  const confirmed = [...decisions.values()].filter(Boolean).length;
  $("status").textContent = `${confirmed} confirmed, ${decisions.size - confirmed} dismissed`;
  $("save").disabled = confirmed === 0;
}

function card(kind, number, [picture, score, group, image, truth, proposed, change, category], pictures) {
  const key = `${kind} ${number}`, text = TEXTS[kind](change, content.names, category);
  const frame = framed(pictures[picture], text);
  outline(frame, truth, "truth");
  outline(frame, proposed, "found");
  const item = html("li", { tabindex: 0, "data-key": key },
    html("figure", {}, html("div", { class: "frame" }, frame), html("figcaption", {}, html("strong", {}, text), html("br"),
      `${content.groups[group]}, image ${image}${change.annotation_id === null ? "" : `, annotation ${change.annotation_id}`}, score ${score.toFixed(2)}`)),
    html("button", { onclick: () => decide(item, key, true) }, "confirm"),
    html("button", { onclick: () => decide(item, key, false) }, "dismiss"));
  const value = decisions.get(key);
  if (value !== undefined) item.classList.add(value ? "confirmed" : "dismissed");
  return item;
}

function show() {
  const kind = $("kind").value, group = $("group").value;
  const { pictures, items } = content.galleries[kind];
  const cards = items.map((item, number) => [item, number]).filter(([item]) => group === "all" || item[2] === group);
  $("suspects").replaceChildren(...cards.map(([item, number]) => card(kind, number, item, pictures)));
}

function save() {
  const changes = [...decisions].filter(([, value]) => value).map(([key]) => {
    const [kind, number] = key.split(" ");
    return content.galleries[kind].items[Number(number)][6];
  });
  const text = `${JSON.stringify({ ...content.patch, changes }, null, 1)}\n`;
  const link = html("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: "patch.json" });
  link.click();
  URL.revokeObjectURL(link.href);
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const cards = [...$("suspects").children];
  const at = cards.indexOf(document.activeElement.closest("#suspects > li"));
  const move = (to) => cards[Math.min(Math.max(to, 0), cards.length - 1)]?.focus();
  const values = { y: true, n: false };
  if (event.key === "u" && at >= 0) { // y and n have moved on
    const last = at > 0 && !decisions.has(cards[at].dataset.key) ? at - 1 : at;
    decide(cards[last], cards[last].dataset.key, null);
    move(last);
  } else if (event.key in values && at >= 0) {
    decide(cards[at], cards[at].dataset.key, values[event.key]);
    move(at + 1);
  } else if (event.key === "ArrowRight") move(at + 1);
  else if (event.key === "ArrowLeft") move(at - 1);
  else return;
  event.preventDefault();
}

async function start() {
  content = await unpack("data");
  const kinds = Object.entries(content.galleries).map(([kind, { items }]) => html("option", { value: kind }, `${content.kinds[kind]} (${items.length})`));
  $("kind").append(...kinds);
  $("group").append(html("option", { value: "all" }, "all"), ...Object.entries(content.groups).map(([value, name]) => html("option", { value }, name)));
  for (const id of ["kind", "group"]) $(id).addEventListener("change", show);
  $("save").addEventListener("click", save);
  document.addEventListener("keydown", press);
  $("controls").hidden = false;
  show();
  count();
  $("suspects").firstElementChild?.focus({ preventScroll: true });
}
start();
