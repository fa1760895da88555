// The ranked table: its columns, which copies use as well, its head, rows and foot.

const TASK_WORDS = "accuracy on the test rows, in percent: the mean of its settings and seeds";

function columns() {
  const tasks = board().tasks.map((task, i) => ({
    key: `task-${i}`,
    label: task.heading,
    title: `${task.name}: ${TASK_WORDS}`,
    down: true,
    value: (row) => row.tasks[i]?.[0] ?? null,
    copy: (row) => (row.tasks[i] ? percent(row.tasks[i][0]) : ""),
    half: (row) => (row.tasks[i] ? half(row.tasks[i]) : ""),
    cell: (row) => heat(row.tasks[i], task),
  }));
  const size = (key, label, title) => ({
    key, label, title,
    value: (row) => row[key],
    copy: (row) => String(row[key] ?? ""),
    cell: (row) => h("td", { title: row[key]?.toLocaleString("en") }, short(row[key])),
  });
  const more = state.views.has("more")
    ? [
        size("core", "core", "parameters without embedding and readout"),
        size("nominal", "nominal", "state elements as iso-state counts them"),
        { ...size("memory", "memory", "peak memory of a run, bytes"), cell: (row) => h("td", {}, row.memory ? `${short(row.memory)}B` : "\u2013") },
        { ...size("seeds", "seeds", "the smallest number of seeds of a setting"), down: true },
        { key: "created", label: "newest run", title: "day of the newest run", down: true, value: (row) => row.created, copy: (row) => row.created, cell: (row) => h("td", {}, row.created) },
      ]
    : [];
  return [
    { key: "rank", label: "#", title: "1 + the number of rows whose interval lies wholly above", value: (row) => row.rank, copy: (row) => String(row.rank ?? ""), cell: (row) => h("td", { class: "rank" }, row.rank ?? "\u2013") },
    { key: "name", label: "architecture", title: "label, and its layers as a stripe", value: (row) => row.label.toLowerCase(), copy: (row) => [row.label, ...marksOf(row).map(([text]) => `(${text})`)].join(" "), cell: nameCell },
    { key: "mad", label: scoreName("mad"), title: "the mean of the tasks, with its 95 % interval", down: true, value: (row) => row.mad?.[0] ?? null, copy: (row) => (row.mad ? percent(row.mad[0]) : ""), half: (row) => (row.mad ? half(row.mad) : ""), cell: scoreCell },
    ...tasks,
    size("params", "params", "parameters"),
    size("state", "state", "state elements after the first setting's tokens, with the tails of convolutions"),
    size("flops", "FLOPs", "forward FLOPs per token"),
    { ...size("seconds", "time", "seconds of training for one seed of the suite, all grid points, on the device of its runs"), cell: (row) => h("td", {}, seconds(row.seconds)) },
    ...more,
  ];
}

function heat(estimate, task) {
  if (!estimate) return h("td", { title: "not run" }, "\u2013");
  const at = share(estimate[0], task);
  return h(
    "td",
    { class: `heat${at >= 0.5 ? " upper" : ""}`, "--share": `${((at >= 0.5 ? at - 0.5 : at) * 200).toFixed(1)}%`, title: `${task.name}: ${percent(estimate[0])}, 95 % interval ${range(estimate)}; chance ${percent(task.chance)}, ceiling ${percent(task.ceiling)}` },
    percent(estimate[0]),
    state.views.has("intervals") ? h("small", {}, `\u00b1${half(estimate)}`) : null,
  );
}

function scoreCell(row) {
  if (!row.mad) return h("td", { class: "score" }, "\u2013");
  return h("td", { class: "score", title: `95 % interval ${range(row.mad)} (${INTERVALS[row.interval]})` }, h("span", { class: "number" }, percent(row.mad[0])), h("span", { class: "half" }, `\u00b1${half(row.mad)}`), whisker(row.mad));
}

// A score and its interval on a line from the lowest of the board to 100.
function whisker([value, low, high]) {
  board().lowest ??= Math.min(...board().rows.filter((row) => row.mad).map((row) => row.mad[1]));
  const from = Math.floor(10 * board().lowest) / 10;
  const x = (at) => 3 + (114 * (at - from)) / (1 - from || 1);
  return s("svg", { width: 120, height: 9, "aria-hidden": "true" },
    s("line", { x1: 3, x2: 117, y1: 4.5, y2: 4.5, class: "grid", stroke: "var(--rule)" }),
    s("line", { x1: x(low), x2: x(high), y1: 4.5, y2: 4.5, stroke: "var(--accent)", "stroke-width": 3.5, "stroke-opacity": 0.45 }),
    s("circle", { cx: x(value), cy: 4.5, r: 3, fill: "var(--accent)" }));
}

function nameCell(row) {
  const box = h("input", { type: "checkbox", id: `pick-${row.key}`, "aria-label": `Pick ${clipped(row.label, 80)}`, title: "pick: for the comparison and the plots", onchange: () => pick(row.key, box.checked) });
  box.checked = state.picked.includes(row.key);
  const opener = h("button", { type: "button", "aria-expanded": String(state.open.has(row.key)), title: "layers, settings, runs and the command that makes this row again", onclick: () => toggle(row, opener) }, row.label);
  const marks = marksOf(row).map(([text, title, warn]) => h("span", { class: `mark ${warn ?? ""}`, title }, text));
  return h("th", { scope: "row", class: "name" }, h("div", { class: "who" }, box, opener, h("div", { class: "under" }, stripeOf(row), marks)));
}

// The layers as coloured blocks, the wrapped ones inside a frame, branches above one another.
function stripeOf(row, height = 11) {
  const blocks = [];
  const width = drawBlocks(blocks, row.stripe, 0, 0, height);
  return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `layers: ${clipped(row.spec, 200)}` }, blocks);
}

function drawBlocks(into, blocks, x, y, height) {
  const wide = height > 8 ? 12 : 9;
  for (const [name, kind, inside] of blocks) {
    if (inside && kind === "branches") {
      const lane = height / inside.length;
      x = Math.max(...inside.map(([, , parts], i) => drawBlocks(into, parts ?? [["", "other"]], x, y + i * lane, Math.max(2, lane - 1))), x);
    } else if (inside) {
      const frame = s("rect", { y: y + 0.5, height: height - 1, rx: 2.5, class: `line ${tone(kind)}` }, s("title", {}, clipped(name, 120)));
      const end = drawBlocks(into, inside, x + 4, y + 2.5, height - 5) + 2;
      frame.setAttribute("x", x + 0.5);
      frame.setAttribute("width", end - x - 1);
      into.push(frame);
      x = end + 2;
    } else {
      into.push(s("rect", { x, y, width: wide, height, rx: 1.5, class: `fill ${tone(kind)}` }, s("title", {}, clipped(name, 120))));
      x += wide + 2;
    }
  }
  return x;
}

function head() {
  const heads = columns().map((column) => {
    const sorted = state.sort?.key === column.key;
    const order = sorted ? (state.sort.down ? "descending" : "ascending") : "none";
    return h("th", { scope: "col", class: column.key === "rank" || column.key === "name" ? column.key : "", "aria-sort": order, "data-key": column.key },
      h("button", { type: "button", title: column.title, onclick: () => sortBy(column) }, column.label, h("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (state.sort.down ? "\u2193" : "\u2191") : "")));
  });
  return h("thead", {}, h("tr", {}, heads));
}

// First the column's better end, then the other, then the board's own order again.
function sortBy(column) {
  const first = Boolean(column.down);
  if (state.sort?.key !== column.key) state.sort = { key: column.key, down: first };
  else state.sort = state.sort.down === first ? { key: column.key, down: !first } : null;
  refresh();
  document.querySelector(`#table th[data-key="${column.key}"] button`)?.focus();
}

function foot() {
  const { tasks } = board();
  const mean = (name) => {
    const values = tasks.map((task) => task[name]);
    return values.every((value) => value !== null) ? values.reduce((a, b) => a + b, 0) / values.length : null;
  };
  const line = (label, title, mad, of) =>
    h("tr", {}, columns().map(({ key }) => {
      if (key === "name") return h("th", { scope: "row", class: "name", title }, label);
      if (key === "rank") return h("td", { class: "rank" });
      const task = key.startsWith("task-") ? tasks[Number(key.slice(5))] : null;
      return h("td", {}, key === "mad" ? percent(mad) : task ? of(task) : "");
    }));
  const lines = [
    line("chance", "what guessing scores", mean("chance"), (task) => percent(task.chance)),
    line("ceiling", "what the data allow", mean("ceiling"), (task) => percent(task.ceiling)),
  ];
  if (tasks.some((task) => task.sigma !== null)) {
    lines.push(line("\u03c3 between seeds", "standard deviation between seeds, pooled over architectures", board().sigma, (task) => percent(task.sigma)));
  }
  if (tasks.some((task) => task.signal !== null && task.signal !== undefined)) {
    lines.push(line("signal to noise", "spread between architectures over that between seeds; below 2 a task separates little", undefined, (task) => (task.signal ?? null) === null ? "\u2013" : task.signal.toFixed(1)));
  }
  return h("tfoot", {}, lines);
}

function bodyRow(row, all) {
  return h("tr", { class: state.picked.includes(row.key) ? "picked" : "", "data-row": row.key }, all.map((column) => column.cell(row)));
}

function publishedBody() {
  const rows = data.published.filter((row) => state.find.toLowerCase().split(/\s+/).every((part) => `${row.model} ${row.source}`.toLowerCase().includes(part)));
  if (!rows.length || !state.origins.has("published")) return null;
  const all = columns();
  const cell = (row, { key }) => {
    if (key === "rank") return h("td", { class: "rank" }, "");
    if (key === "name") return h("th", { scope: "row", class: "name" }, row.model, h("div", { class: "under" }, h("span", { class: "mark", title: row.notes }, row.source)));
    const task = key.startsWith("task-") ? board().tasks[Number(key.slice(5))] : null;
    if (task) return h("td", {}, task.name in row.scores ? percent(row.scores[task.name]) : "");
    return h("td", {}, "");
  };
  return h("tbody", { class: "published" },
    h("tr", {}, h("td", { class: "band left", colspan: all.length }, h("span", {}, "Published elsewhere: other settings, budgets and grids; not comparable with the rows above, and not ranked"))),
    rows.map((row) => h("tr", {}, all.map((column) => cell(row, column)))));
}

function renderTable(rows) {
  const body = h("tbody", {});
  const all = columns();
  for (const row of rows) {
    body.append(bodyRow(row, all));
    if (state.open.has(row.key)) body.append(detailRow(row));
  }
  if (!rows.length) body.append(h("tr", {}, h("td", { class: "left", colspan: columns().length }, "No row passes these filters.")));
  $("table").replaceChildren(...[head(), body, publishedBody(), foot()].filter(Boolean));
}

function toggle(row, opener) {
  const line = opener.closest("tr");
  if (state.open.delete(row.key)) line.nextElementSibling.remove();
  else {
    state.open.add(row.key);
    line.after(detailRow(row));
  }
  opener.setAttribute("aria-expanded", String(state.open.has(row.key)));
}

function pick(key, on) {
  state.picked = on ? [...state.picked, key] : state.picked.filter((other) => other !== key);
  document.querySelector(`#table tr[data-row="${key}"]`)?.classList.toggle("picked", on);
  if (state.picked.length >= 2) state.pair = state.picked.slice(-2);
  else if (state.picked.length === 1) state.pair[0] = key;
  refresh({ table: false });
}
