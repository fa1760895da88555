// What is shown: the data, the reader's choices, and the rows that pass the filters, in their order.

const data = JSON.parse($("payload").textContent);
const FAMILIES = ["attention", "recurrence", "convolution", "hybrid", "none", "own"];
const ORIGINS = ["own", "reference", "incomplete", "stale", "published"];

const state = {
  board: data.opened,
  find: "",
  families: new Set(FAMILIES),
  origins: new Set(ORIGINS),
  views: new Set(),
  sort: null, // {key, down}; null: as ranked
  picked: [], // keys of rows
  open: new Set(),
  pair: [null, null],
  cost: "state",
  against: "mad",
};

const board = () => data.boards[state.board];
const rowOf = (key) => board().rows.find((row) => row.key === key) ?? null;
const isReference = (row) => row.packaged > 0 && row.packaged === row.runs;

// Every layer's name in a row, for the search.
const words = (row) => `${row.label} ${row.spec} ${row.given}`.toLowerCase();

function passes(row) {
  const { origins, families, find } = state;
  return (
    families.has(row.family) &&
    origins.has(isReference(row) ? "reference" : "own") &&
    (row.complete || origins.has("incomplete")) &&
    (!row.stale || origins.has("stale")) &&
    find.toLowerCase().split(/\s+/).every((part) => words(row).includes(part))
  );
}

// Smaller first where `down` is false; what has no value is last either way.
function ordered(rows, value, down) {
  const keyed = rows.map((row, place) => ({ row, place, value: value(row) }));
  keyed.sort((a, b) => {
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.place - b.place;
    const order = typeof a.value === "string" ? a.value.localeCompare(b.value, "en", { numeric: true }) : a.value - b.value;
    return (down ? -order : order) || a.place - b.place;
  });
  return keyed.map((item) => item.row);
}

function shownRows() {
  const rows = board().rows.filter(passes);
  const column = state.sort && columns().find((found) => found.key === state.sort.key);
  return column ? ordered(rows, column.value, state.sort.down) : rows;
}

// The rows that plots of lines show: those that are picked, else the first of the table.
const MOST_LINES = 8;
function lineRows() {
  const picked = state.picked.map(rowOf).filter(Boolean);
  return picked.length ? picked.slice(0, MOST_LINES) : shownRows().filter((row) => row.mad).slice(0, 5);
}

// Of a task, the settings of a row in the order of the suite.
const settingsOf = (row, task) => row.settings.slice(task.first, task.first + task.settings.length);

// Where a value stands between chance and ceiling, from 0 to 1.
function share(value, task) {
  const room = task.ceiling - task.chance;
  return room > 0 ? Math.min(1, Math.max(0, (value - task.chance) / room)) : 1;
}

function marksOf(row) {
  const marks = [];
  if (isReference(row)) marks.push(["ref", "its runs came with the package"]);
  if (row.imported) marks.push([row.imported === row.runs ? "imported" : `${row.imported} imported`, "runs that came out of a file: what they say was checked, not repeated"]);
  if (row.stale) marks.push(["stale", "a layer in it has a newer version by now", "warn"]);
  if (!row.complete) marks.push([`${row.tasks.filter(Boolean).length}/${board().tasks.length} tasks`, "not ranked: tasks or settings are missing", "warn"]);
  const [precision, backend, compiled] = row.arithmetic;
  if (precision !== "32-true") marks.push([precision, "precision"]);
  if (backend !== "reference") marks.push([backend, "backend"]);
  if (compiled) marks.push(["compiled", "trained with torch.compile"]);
  return marks;
}
