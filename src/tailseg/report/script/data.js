"use strict";
// Sorts and searches the table of classes, which is complete without this script.

const table = document.getElementById("classes");
const rows = [...table.tBodies[0].rows];
const heads = [...table.tHead.rows[0].cells];

function valueOf(row, column) {
  const text = row.cells[column].textContent;
  if (column < 2) return text;
  const number = Number(text.replaceAll(",", ""));
  return Number.isNaN(number) ? null : number; // a dash: no object
}

function sortBy(column) {
  const before = heads[column].getAttribute("aria-sort");
  const down = before === null ? column > 1 : before === "ascending"; // numbers begin with the largest, text with a
  const values = new Map(rows.map((row) => [row, valueOf(row, column)]));
  rows.sort((a, b) => {
    const [x, y] = [values.get(a), values.get(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return (down ? -1 : 1) * (typeof x === "string" ? x.localeCompare(y) : x - y);
  });
  heads.forEach((head, i) => {
    if (i === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  table.tBodies[0].append(...rows);
}

function filter() {
  const query = document.getElementById("search").value.trim().toLowerCase();
  const groups = new Set([...document.querySelectorAll("#controls input:checked")].map((box) => box.parentElement.textContent.trim()));
  let shown = 0;
  for (const row of rows) {
    row.hidden = !(row.cells[0].textContent.toLowerCase().includes(query) && groups.has(row.cells[1].textContent));
    shown += !row.hidden;
  }
  document.getElementById("count").textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} classes`;
}

heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  button.addEventListener("click", () => sortBy(column));
  head.replaceChildren(button);
});
document.getElementById("controls").addEventListener("input", filter);
document.getElementById("controls").hidden = false;
filter();
