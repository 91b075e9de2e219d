// Puts the page together: controls, keys, the way between the overview and the page of a class.

function start(unpacked) {
  data = unpacked;
  GROUPS = data.groups;
  state.groups = new Set(Object.keys(GROUPS));
  if (single()) document.querySelector("label.run").hidden = true;
  state.run = data.runs.length - 1;
  state.sort = `AP${state.run}`;
  data.runs.forEach((run, i) => $("run").append(html("option", { value: i, selected: i === state.run }, run.name)));
  $("run").addEventListener("change", () => { state.run = Number($("run").value); route(); });
  for (const [key, name] of Object.entries(GROUPS)) {
    const box = html("input", { type: "checkbox", checked: true, value: key, onchange: () => {
      state.groups[box.checked ? "add" : "delete"](key);
      filtered();
    } });
    $("groups").append(html("label", {}, box, " ", html("span", { class: `ink-${key}` }, name)));
  }
  $("search").addEventListener("input", () => { state.query = $("search").value.trim(); filtered(); });
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && state.order.length) location.hash = href(state.order[0]);
  });
  $("more").addEventListener("click", () => { state.all = true; table(); });
  fillSelects();
  document.addEventListener("keydown", keys);
  window.addEventListener("hashchange", route);
  $("controls").hidden = false;
  route();
}

function fillSelects() {
  const options = [["AP", "AP"], ["AP50", "AP at IoU 0.5"], ["found", "share of objects found"]];
  if (!single()) options.push(["change", `AP, change from ${data.runs[0].name}`]);
  options.forEach(([value, name]) => $("scatter-value").append(html("option", { value }, name)));
  $("scatter-value").addEventListener("change", scatter);
  const curves = new Set(data.runs.flatMap((run) => [...Object.keys(run.train), ...Object.keys(run.val)]));
  const hidden = ["step", "epoch"];
  if ($("curve")) {
    [...curves].filter((name) => !hidden.includes(name)).forEach((name) => $("curve").append(html("option", {}, name)));
    $("curve").addEventListener("change", training);
  }
  Object.entries(IMAGE_ORDERS).filter(([key]) => key !== "rare" || !("all" in GROUPS))
    .forEach(([key, [name]]) => $("image-order").append(html("option", { value: key }, name)));
  $("image-order").addEventListener("change", images);
  classes().name.forEach((name) => $("class-names").append(html("option", { value: name })));
  $("add-class").addEventListener("change", () => {
    const i = classes().name.indexOf($("add-class").value);
    if (i >= 0 && !state.chosen.includes(i)) state.chosen.push(i);
    if (i >= 0) $("add-class").value = "";
    precision();
  });
}

function keys(event) {
  const typing = event.target.matches("input, select");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("search").focus();
  } else if (event.key === "Escape") {
    tip(null);
    if (current() !== null || currentImage() !== null) location.hash = "";
    else if (event.target === $("search")) { $("search").value = state.query = ""; filtered(); }
  } else if (current() !== null && !typing && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    const next = neighbor(current(), event.key === "ArrowRight" ? 1 : -1);
    if (next !== undefined) location.replace(href(next));
  }
}

let scrolled = 0;
function route() {
  const [i, image] = [current(), currentImage()];
  const inside = i !== null || image !== null;
  if (!$("overview").hidden) scrolled = window.scrollY;
  const entering = inside !== $("overview").hidden;
  $("overview").hidden = inside;
  $("class").hidden = i === null;
  $("image").hidden = image === null;
  tip(null);
  sorted();
  if (i !== null) return classPage(i);
  if (image !== null) return imagePage(image);
  overview();
  if (entering) window.scrollTo({ top: scrolled, behavior: "instant" });
}

function overview() {
  byGroup();
  slices();
  filtered();
  precision();
  if ($("training")) training();
  scores($("scores"), Object.keys(GROUPS).map((group) => [GROUPS[group], `var(--${group})`, members(group)]));
  fates();
  errors();
  calibration();
  splits();
  matrix();
  images();
  if ($("settings")) settings();
}
function filtered() {
  sorted();
  if (current() !== null || currentImage() !== null) return;
  table();
  scatter();
}

if (typeof DecompressionStream === "undefined") $("failure").hidden = false;
else unpack("data").then(start);
