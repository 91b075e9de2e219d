// The table of classes.

const ROWS_AT_FIRST = 100;

function columns() {
  const c = classes();
  const found = [
    { key: "name", name: "class", value: (i) => c.name[i] },
    ...("all" in GROUPS ? [] : [{ key: "group", name: "group", value: (i) => "rcfn".indexOf(c.group[i]) }]),
    ...data.runs.map((run, r) => ({ key: `AP${r}`, name: single() ? "AP" : `AP ${run.name}`, value: (i) => run.AP[i], show: percent })),
  ];
  if (single()) found.push({ key: "AP50", name: "AP50", value: (i) => data.runs[0].AP50[i], show: percent });
  else found.push({ key: "change", name: `${data.runs[state.run].name} − ${data.runs[0].name}`, value: (i) => valueOf("change", i), show: signed });
  found.push(
    { key: "found", name: "found, %", value: (i) => valueOf("found", i), show: percent },
    ...(c.images === null ? [] : [
      { key: "images", name: "train images", value: (i) => c.images[i] },
      { key: "instances", name: "train objects", value: (i) => c.instances[i] },
    ]),
    { key: "objects", name: "objects", value: (i) => c.objects[i] },
    { key: "split", name: "split", value: (i) => data.runs[state.run].splits[i][0] },
    { key: "merged", name: "merged", value: (i) => data.runs[state.run].splits[i][1] },
  );
  return found;
}

function sorted() {
  const column = columns().find(({ key }) => key === state.sort) ?? columns()[0];
  const compare = (a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b; // what has no value comes last
    return (state.up ? 1 : -1) * (typeof x === "string" ? -x.localeCompare(y) : x - y) || a - b;
  };
  state.order = classes().name.map((_, i) => i).filter(matching).sort(compare);
  $("count").textContent = `${whole(state.order.length)} of ${whole(classes().name.length)} classes`;
}

function table() {
  const all = columns();
  const head = html("tr", {}, ...all.map(({ key, name }) => {
    const on = key === state.sort;
    const arrow = on ? (state.up ? " ▲" : " ▼") : "";
    return html("th", { scope: "col", class: key === "group" ? "group-column" : key === "name" ? null : "number", "aria-sort": on ? (state.up ? "ascending" : "descending") : null },
      html("button", { type: "button", "data-key": key, onclick: () => sortBy(key) }, name + arrow));
  }));
  const rows = (state.all ? state.order : state.order.slice(0, ROWS_AT_FIRST)).map((i) =>
    html("tr", {}, ...all.map(({ key, value, show }) => {
      if (key === "name") return html("td", {}, html("a", { href: href(i), class: `ink-${classes().group[i]}` }, classes().name[i]));
      if (key === "group") return html("td", { class: "group-column" }, badge(i));
      const text = (show ?? whole)(value(i));
      const sign = key === "change" && value(i) ? (value(i) > 0 ? " up" : " down") : "";
      return html("td", { class: "number" + sign }, text);
    })));
  const focused = document.activeElement?.dataset?.key;
  $("classes").tHead.replaceChildren(head);
  $("classes").tBodies[0].replaceChildren(...rows);
  if (focused) head.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  $("more").hidden = state.all || state.order.length <= ROWS_AT_FIRST;
  $("more").textContent = `show all ${whole(state.order.length)}`;
}
function sortBy(key) {
  state.up = state.sort === key ? !state.up : false;
  state.sort = key;
  filtered();
}
const badge = (i) => html("span", { class: `group ${classes().group[i]}` }, GROUPS[classes().group[i]]);
