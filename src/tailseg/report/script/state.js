// The data, and what the reader has chosen: the run, the classes, the order of the table.

let data;
const state = { run: 0, query: "", groups: new Set(), sort: "name", up: false, all: false, chosen: [], order: [] };
const color = (run) => `var(--run${run % 6})`;
const single = () => data.runs.length === 1;
const classes = () => data.classes;
const members = (group) => classes().group.flatMap((g, i) => (g === group ? [i] : []));
const matching = (i) =>
  state.groups.has(classes().group[i]) && classes().name[i].toLowerCase().includes(state.query.toLowerCase());

function valueOf(kind, i, run = state.run) {
  const it = data.runs[run];
  if (kind === "found") return classes().objects[i] ? it.outcomes[i][2] / classes().objects[i] : null;
  if (kind === "change") return it.AP[i] === null || data.runs[0].AP[i] === null ? null : it.AP[i] - data.runs[0].AP[i];
  return it[kind][i];
}

const href = (i) => `#class-${i}`;
const current = () => {
  const found = /^#class-(\d+)$/.exec(location.hash);
  return found && Number(found[1]) < classes().name.length ? Number(found[1]) : null;
};
const neighbor = (i, step) => state.order[state.order.indexOf(i) + step];
