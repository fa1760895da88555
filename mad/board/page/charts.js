// The plots: score against cost with its Pareto front, the spread of each task, difficulty, learning.

const COSTS = {
  state: { label: "state", long: "state elements, log scale; hollow: nominal state", of: (row) => row.state },
  params: { label: "parameters", long: "parameters, log scale", of: (row) => row.params },
  core: { label: "core parameters", long: "parameters without embedding and readout, log scale", of: (row) => row.core },
  flops: { label: "FLOPs per token", long: "forward FLOPs per token, log scale", of: (row) => row.flops },
  seconds: { label: "seconds", long: "seconds of training per seed, log scale; devices differ", of: (row) => row.seconds },
};

const scoreOf = (row, name) => (name === "mad" ? row.mad : row.tasks[Number(name)]);
const scoreName = (name) => (name === "mad" ? (board().mean === "MAD" ? "MAD score" : board().mean) : board().tasks[Number(name)].heading);

// The rows that no other beats in both: more score for less cost.
function paretoFront(points) {
  const sorted = [...points].sort((a, b) => a.cost - b.cost || b.score[0] - a.score[0]);
  let best = -Infinity;
  return sorted.filter((point) => point.score[0] > best && ((best = point.score[0]), true));
}

function drawTradeoff() {
  const holder = $("tradeoff-plot");
  const cost = COSTS[state.cost];
  const points = shownRows().filter((row) => row.complete && scoreOf(row, state.against) && cost.of(row) !== null)
    .map((row) => ({ row, cost: cost.of(row), score: scoreOf(row, state.against) }));
  if (!points.length) return holder.replaceChildren(h("p", { class: "note" }, "No complete row passes the filters of the table."));
  const width = Math.max(300, holder.clientWidth);
  const height = Math.round(Math.min(480, Math.max(320, width * 0.42)));
  const zero = points.some((point) => point.cost === 0);
  const box = { left: 40, right: width - 16, top: 26, bottom: height - 46 };
  const positive = points.flatMap(({ row, cost: at }) => [at, state.cost === "state" ? row.nominal ?? 0 : 0]).filter((value) => value > 0);
  const [least, most] = positive.length ? [Math.min(...positive), Math.max(...positive)] : [1, 10];
  const pad = Math.max(1.15, (most / least) ** 0.06);
  const scale = logarithmic([least / pad, most * pad], [box.left + (zero ? 46 : 8), box.right]);
  const x = (value) => (value > 0 ? scale(value) : box.left + 16);
  const floor = Math.max(0, Math.floor(10 * Math.min(...points.map((point) => point.score[1]))) / 10);
  const y = linear([floor, 1], [box.bottom, box.top]);
  const front = paretoFront(points);
  const corners = front.flatMap((point, i) => (i ? [[x(point.cost), y(front[i - 1].score[0])], [x(point.cost), y(point.score[0])]] : [[x(point.cost), y(point.score[0])]]));
  corners.push([box.right, corners.at(-1)[1]]);
  const marks = points.map(({ row, cost: at, score }) => {
    const [cx, cy] = [x(at), y(score[0])];
    const nominal = state.cost === "state" && row.nominal > 0 && row.nominal !== at && points.length <= 60
      ? [s("line", { class: "grid", x1: cx, x2: x(row.nominal), y1: cy, y2: cy }), mark(row.family, x(row.nominal), cy, 3, true)] : [];
    const element = s("g", { class: state.picked.length && !state.picked.includes(row.key) ? "faint" : "" }, nominal, s("line", { class: `line ${tone(row.family)}`, x1: cx, x2: cx, y1: y(score[1]), y2: y(Math.min(1, score[2])), "stroke-opacity": 0.55 }), mark(row.family, cx, cy));
    return { element, cx, cy, row, title: row.label, lines: [`${scoreName(state.against)} ${percent(score[0])}, ${range(score)}`, `${cost.label} ${state.cost === "seconds" ? seconds(at) : Math.round(at).toLocaleString("en")}`, row.family] };
  }).sort((a, b) => a.cx - b.cx);
  pointed(marks);
  const named = new Set(front.map((point) => point.row));
  state.picked.map(rowOf).forEach((row) => named.add(row));
  const labels = placeNames(marks.filter((point) => named.has(point.row)), marks, box);
  holder.replaceChildren(
    svg(width, height, `${scoreName(state.against)} against ${cost.label}, ${points.length} architectures; arrow keys go from one to the next`,
      axes({ x, y, box, xTicks: [...(zero ? [0] : []), ...logTicks(least / pad, most * pad)], yTicks: roundTicks(floor, 1), xLabel: cost.long, yLabel: `${scoreName(state.against)}, %` }),
      s("path", { class: "front", d: polyline(corners) }), marks.map((point) => point.element), labels),
    h("p", { class: "caption" }, `Dashed: the Pareto front, rows that no other beats in both; ${listed(front.map((point) => clipped(point.row.label, 40)))}. Whiskers are 95 % intervals. Incomplete rows are left out.`));
}

// Names beside their points, where they cover neither points nor each other; what finds no place stays unnamed.
function placeNames(points, all, box) {
  const taken = all.map(({ cx, cy }) => [cx - 5, cy - 5, cx + 5, cy + 5]);
  const free = (r) => r[0] >= box.left && r[2] <= box.right + 12 && r[1] >= 0 && taken.every((t) => r[2] < t[0] || r[0] > t[2] || r[3] < t[1] || r[1] > t[3]);
  return points.map(({ cx, cy, row }) => {
    const text = clipped(row.label, 34);
    const wide = 6.1 * text.length;
    const spots = [[8, 4, "start"], [-8, 4, "end"], [0, -10, "middle"], [0, 18, "middle"], [8, -9, "start"], [8, 17, "start"], [-8, -9, "end"], [-8, 17, "end"]];
    for (const [dx, dy, anchor] of spots) {
      const from = cx + dx - (anchor === "end" ? wide : anchor === "middle" ? wide / 2 : 0);
      const area = [from, cy + dy - 10, from + wide, cy + dy + 2];
      if (!free(area)) continue;
      taken.push(area);
      return s("text", { class: "halo", x: cx + dx, y: cy + dy, "text-anchor": anchor }, text);
    }
    return null;
  });
}

// Every task as a line from 0 to 100: who stands where, and how far seeds move it.
function drawSpread() {
  const holder = $("spread-plot");
  const rows = shownRows().filter((row) => row.tasks.some(Boolean));
  const width = Math.max(300, holder.clientWidth);
  const narrow = width < 560;
  const lane = 50;
  const box = { left: narrow ? 8 : 118, right: width - (narrow ? 8 : 128), top: 8, bottom: 8 + lane * board().tasks.length };
  const x = linear([0, 1], [box.left + 6, box.right - 6]);
  const marks = [];
  const lanes = board().tasks.map((task, i) => {
    const middle = box.top + lane * i + lane / 2 + (narrow ? 6 : 0);
    const placed = [];
    const near = (at) => placed.filter((other) => Math.abs(other - at) < 6).length;
    const offset = (at) => { const n = near(at); placed.push(at); return (n % 2 ? -1 : 1) * Math.ceil(n / 2) * 5; };
    const inside = (dy) => Math.max(-15, Math.min(15, dy));
    for (const row of [...rows].sort((a, b) => (a.tasks[i]?.[0] ?? 0) - (b.tasks[i]?.[0] ?? 0))) {
      const score = row.tasks[i];
      if (!score) continue;
      const cx = x(score[0]);
      const element = s("g", { class: state.picked.length && !state.picked.includes(row.key) ? "faint" : "" }, mark(row.family, cx, middle + inside(offset(cx)), 4));
      marks.push({ element, title: row.label, lines: [`${task.name} ${percent(score[0])}, ${range(score)}`] });
    }
    const published = state.origins.has("published") ? data.published.filter((row) => task.name in row.scores).map((row) => {
      const element = s("g", {}, mark("other", x(row.scores[task.name]), middle + 19, 3, true));
      marks.push({ element, title: row.model, lines: [`published: ${task.name} ${percent(row.scores[task.name])}`, row.source] });
      return element;
    }) : [];
    const signal = task.signal ?? null;
    const said = signal !== null ? `signal ${signal.toFixed(1)}` : task.sigma !== null ? `\u03c3 ${percent(task.sigma)}` : "";
    return [
      s("line", { class: "grid", x1: box.left, x2: box.right, y1: middle, y2: middle }),
      [["chance", task.chance], ["ceiling", task.ceiling]].filter(([, value]) => value !== null).map(([name, value]) => s("line", { class: "axis", x1: x(value), x2: x(value), y1: middle - 17, y2: middle + 17 }, s("title", {}, `${name} ${percent(value)}`))),
      narrow ? s("text", { class: "title", x: box.left, y: middle - 21 }, `${task.heading}${said ? `, ${said}` : ""}`) : [s("text", { class: "title", x: box.left - 12, y: middle + 4, "text-anchor": "end" }, task.heading), s("text", { x: box.right + 12, y: middle + 4 }, said)],
      published,
    ];
  });
  pointed(marks);
  const bottom = box.bottom + (narrow ? 12 : 0);
  holder.replaceChildren(
    svg(width, bottom + 40, "Scores by task; arrow keys go from one to the next", lanes,
      roundTicks(0, 1).map((v) => s("text", { x: x(v), y: bottom + 16, "text-anchor": "middle" }, (100 * v).toFixed(0))), s("text", { x: x(0.5), y: bottom + 34, "text-anchor": "middle" }, "score, %"), marks.filter((point) => !lanes.flat(9).includes(point.element)).map((point) => point.element)),
    h("p", { class: "caption" }, `Each mark is an architecture; upright lines are chance and ceiling. A task whose marks stand in one place separates nothing.${data.published.length ? " Hollow marks below a line are published scores of other settings, for orientation only." : ""}`));
}

// Of suites that ask a task at several difficulties: score against each thing that is varied.
function drawDifficulty() {
  const rows = lineRows();
  const width = panelWidth($("learning-plot").parentElement);
  const panels = board().tasks.flatMap((task) => {
    const fields = [...new Set(task.settings.flatMap((setting) => Object.keys(setting.changes)))];
    return fields.map((field) => {
      const at = task.settings.map((setting, i) => {
        const names = Object.keys(setting.changes);
        return names.length === 0 ? [task.base[field], i] : names.length === 1 && names[0] === field ? [setting.changes[field], i] : null;
      }).filter(Boolean).sort((a, b) => a[0] - b[0]);
      const lines = rows.map((row, place) => ({ place, points: at.map(([value, i]) => [value, settingsOf(row, task)[i]]).filter(([, found]) => found).map(([value, found]) => [value, ...found.score]) })).filter(({ points }) => points.length);
      if (at.length < 2 || !lines.length) return null;
      const ends = [at[0][0], at.at(-1)[0]];
      const log = ends[0] > 0 && ends[1] / ends[0] >= 4;
      return h("div", {}, panel({ width, title: `${task.heading}: ${field.replaceAll("_", " ")}`, lines, x: (to) => (log ? logarithmic : linear)(ends, to), xTicks: at.length > 5 ? [at[0][0], at[Math.floor(at.length / 2)][0], at.at(-1)[0]] : at.map(([value]) => value), guides: [{ value: task.chance, text: "chance" }] }));
    }).filter(Boolean);
  });
  $("difficulty").hidden = !panels.length;
  $("difficulty-plot").replaceChildren(lineNames(rows), h("div", { class: "panels plot" }, panels), h("p", { class: "caption" }, "One thing is varied at a time, the others stay at the task's first setting. Bands are 95 % intervals. Pick rows in the table to see theirs."));
}

// Accuracy on the split that the protocol watches, of the chosen run of each seed: their mean and their range.
function drawLearning() {
  const rows = lineRows();
  const width = panelWidth($("learning-plot").parentElement);
  const panels = board().tasks.map((task) => {
    const lines = rows.map((row, place) => ({ place, points: curveOf(settingsOf(row, task)[0]) })).filter(({ points }) => points.length);
    const last = Math.max(...lines.flatMap(({ points }) => points.map(([at]) => at)));
    return lines.length ? h("div", {}, panel({ width, title: task.settings.length > 1 ? task.settings[0].label : task.heading, lines, x: (to) => linear([0, last], to), xTicks: roundTicks(0, last, 4), xLabel: "", guides: [{ value: task.chance, text: "chance" }] })) : null;
  }).filter(Boolean);
  $("learning").hidden = !panels.length;
  $("learning-plot").replaceChildren(lineNames(rows), h("div", { class: "panels plot" }, panels), h("p", { class: "caption" }, "Validation accuracy in percent against training steps, of the chosen run of each seed: the mean, and as a band the range of the seeds. A run ends early where it has solved the validation set. Pick rows in the table to see theirs."));
}

function curveOf(setting) {
  if (!setting) return [];
  const curves = setting.groups.map(([, , , , [steps, accuracies]]) => new Map(accuracies.map((value, i) => [data.steps[steps][i], value / 10000])));
  const steps = [...new Set(curves.flatMap((curve) => [...curve.keys()]))].sort((a, b) => a - b);
  // A run that ended keeps the accuracy that it ended with.
  const last = curves.map(() => null);
  return steps.map((step) => {
    curves.forEach((curve, i) => curve.has(step) && (last[i] = curve.get(step)));
    const values = last.filter((value) => value !== null);
    return [step, mean(values), Math.min(...values), Math.max(...values)];
  });
}
