// Two rows beside each other: differences by setting with their intervals, what they cost, and one sentence.

function drawComparison() {
  const [a, b] = state.pair.map(rowOf);
  $("compare").hidden = !board().pairs || board().rows.filter((row) => row.tasks.some(Boolean)).length < 2;
  if ($("compare").hidden) return;
  const found = a && b && a !== b ? compared(a.key, b.key) : null;
  if (!found) return $("verdict").replaceChildren(h("p", { class: "note" }, a === b ? "Choose two different rows." : "The two have no setting in common."));
  const command = a.command && b.command ? shellWords(["mad", "compare", a.given, b.given, "--suite", board().word]) : null;
  $("verdict").replaceChildren(
    h("p", { class: "verdict" }, sentence(found, a, b)),
    h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Differences, to be scrolled" }, differences(found, a, b)),
    h("p", { class: "caption" }, basisOf(found)),
    costs(a, b),
    command ? h("p", { class: "caption" }, "The same in a terminal: ", h("code", {}, command)) : null);
}

const shortName = (row, otherwise) => (row.label.length <= 40 ? row.label : otherwise);

function sentence({ settings, tasks, mean: whole }, a, b) {
  const [first, second] = [shortName(a, "A"), shortName(b, "B")];
  const size = ({ value, low, high }) => `${percent(Math.abs(value))} \u00b1${percent((high - low) / 2)} points`;
  const ahead = whole.value >= 0 ? first : second;
  const parts = [];
  if (tasks > 1) parts.push(whole.p < LEVEL ? `${ahead} is better over ${counted(tasks, "task")} by ${size(whole)} (p ${equals(whole.p)})` : `over ${counted(tasks, "task")} nothing is separated: ${ahead} is ahead by ${size(whole)} (p ${equals(whole.p)})`);
  for (const [name, sign] of [[first, 1], [second, -1]]) {
    const won = settings.filter((one) => one.separated && sign * one.value > 0);
    if (won.length) parts.push(`${name} is better on ${someOf(won, settings)}`);
  }
  const open = settings.filter((one) => !one.separated);
  if (open.length) parts.push(open.length === settings.length ? "no single one separates them" : `${someOf(open, settings)} ${open.length === 1 ? "does" : "do"} not separate them`);
  const text = parts.join("; ");
  return `${/^(over|no) /.test(text) ? text[0].toUpperCase() + text.slice(1) : text}.`;
}

// At most four by name, the largest differences first.
function someOf(found, settings) {
  if (found.length <= 6 && settings.length <= 6) return listed(found.map(titleOf));
  const most = [...found].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, 4);
  return listed([...most.map(titleOf), ...(found.length > most.length ? [counted(found.length - most.length, "other")] : [])]);
}

const titleOf = ({ task, setting }) => (task.settings.length === 1 ? task.heading : setting.label);
const equals = (p) => (p < 0.001 ? "< 0.001" : `= ${p.toFixed(p < 0.1 ? 3 : 2)}`);

function differences({ settings, tasks, mean: whole }, a, b) {
  const most = Math.max(0.01, ...settings.flatMap((one) => [Math.abs(one.low), Math.abs(one.high)]));
  const line = (name, one, p, verdict, needs) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, percent(one.a)), h("td", {}, percent(one.b)),
    h("td", { title: `95 % interval ${points(one.low)} to ${points(one.high)}` }, `${points(one.value)} \u00b1${percent((one.high - one.low) / 2)}`), h("td", {}, probability(p)), h("td", { class: "left" }, interval(one, most)), h("td", { class: "left" }, verdict), h("td", {}, needs));
  const verdict = (one, surely) => surely ? h("span", { class: one.value > 0 ? "better" : "worse" }, one.value > 0 ? "A is better" : "B is better") : one.value === 0 ? "equal" : "not separated";
  const heads = ["", "A", "B", "A \u2212 B", "p", "95 % interval", "verdict", "seeds to separate"];
  return h("table", {}, h("caption", { class: "quiet" }, `Differences between ${clipped(a.label, 80)} and ${clipped(b.label, 80)}`), h("thead", {}, h("tr", {}, heads.map((name) => (name ? h("th", { scope: "col" }, name) : h("td", {}))))),
    h("tbody", {}, settings.map((one) => line(titleOf(one), one, one.adjusted, verdict(one, one.separated), one.needs === null ? "" : one.needs === Infinity ? "> 1000" : one.needs)), tasks > 1 ? line("mean", whole, whole.p, verdict(whole, whole.p < LEVEL), "") : null));
}

// The interval of a difference about 0, on the scale of the widest.
function interval({ value, low, high }, most) {
  const x = (at) => 90 + (84 * at) / most;
  const look = low > 0 ? "better" : high < 0 ? "worse" : "muted";
  return s("svg", { width: 180, height: 14, class: look, "aria-hidden": "true" },
    s("line", { x1: 90, x2: 90, y1: 0, y2: 14, stroke: "var(--strong)" }),
    s("line", { x1: x(low), x2: x(high), y1: 7, y2: 7, stroke: "currentColor", "stroke-width": 3, "stroke-opacity": 0.5 }),
    s("circle", { cx: x(value), cy: 7, r: 3.5, fill: "currentColor" }));
}

function basisOf({ settings }) {
  const bases = new Set(settings.map((one) => one.parts.basis));
  const words = [`Paired on the same test rows, with the luck of seeds counted; p is corrected for ${counted(settings.length, "setting")} (Holm), not that of the mean. Seeds to separate: of each, to show the observed difference with a power of 80 %.`];
  if (bases.has("unpaired") || bases.has("none")) words.push("Some runs have no hits by row: there rows are not paired, and the interval is wider.");
  if (settings.some((one) => !one.luck)) words.push("With one seed, and no other row that has two, the interval is of test rows alone: the luck of a seed, often larger, is not in it.");
  else if (settings.some((one) => one.parts.lucks.some((luck) => luck.seeds === 1))) words.push("Where there is one seed, its luck is taken from the other rows of the board.");
  return words.join(" ");
}

function costs(a, b) {
  const ratio = (x, y) => {
    if (!x || !y) return "";
    const by = Math.max(x, y) / Math.min(x, y);
    return by < 1.02 ? "about equal" : `${by < 10 ? by.toFixed(by < 2 ? 2 : 1) : by.toFixed(0)} times ${x > y ? "more" : "less"}`;
  };
  const lines = [["parameters", "params"], ["state", "state"], ["FLOPs per token", "flops"]].map(([name, key]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, short(a[key])), h("td", {}, short(b[key])), h("td", { class: "left" }, a[key] === b[key] ? "equal" : ratio(a[key], b[key]))));
  lines.push(h("tr", {}, h("th", { scope: "row" }, "time"), h("td", {}, seconds(a.seconds)), h("td", {}, seconds(b.seconds)), h("td", { class: "left" }, "")));
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Costs, to be scrolled" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "cost"), h("th", { scope: "col" }, "A"), h("th", { scope: "col" }, "B"), h("th", { scope: "col", class: "left" }, "A over B"))), h("tbody", {}, lines)));
}

// Words for a POSIX shell.
const shellWords = (words) => words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`)).join(" ");
