// The page put together: choices, what they change, the parts that depend on the width of the window.

const PARTS = { board: "Table", compare: "Compare", tradeoff: "Costs", spread: "Spread", difficulty: "Difficulty", learning: "Learning" };

function tell(text) {
  $("status").textContent = text;
}

// Everything that depends on the choices; `table: false` leaves the table as it is.
function refresh({ table = true } = {}) {
  const rows = shownRows();
  if (table) renderTable(rows);
  const column = state.sort && columns().find((found) => found.key === state.sort.key);
  const order = column ? `sorted by ${column.label}, ${state.sort.down ? "largest" : "smallest"} first` : "as ranked";
  const picked = state.picked.filter(rowOf).length;
  tell(`${rows.length} of ${counted(board().rows.length, "architecture")}, ${order}${picked ? `; ${picked} picked` : ""}`);
  remember();
  // The table answers at once, what is below it with the next picture.
  if (!waiting) requestAnimationFrame(drawRest);
  waiting = true;
}

let waiting = false;

function drawRest() {
  waiting = false;
  drawPair();
  drawComparison();
  drawPlots();
}

function drawPlots() {
  drawTradeoff();
  drawSpread();
  drawDifficulty();
  drawLearning();
  const parts = Object.entries(PARTS).filter(([id]) => !$(id).hidden);
  const others = data.sections.map(({ name, title }) => [name, title]);
  $("parts").replaceChildren(...[...parts, ...others].map(([id, title]) => h("a", { href: `#${id}` }, title)));
}

function drawPair() {
  const rows = board().rows.filter((row) => row.mad);
  if (!rowOf(state.pair[0])) state.pair[0] = rows[0]?.key ?? null;
  if (!rowOf(state.pair[1]) || state.pair[1] === state.pair[0]) state.pair[1] = rows.find((row) => row.key !== state.pair[0])?.key ?? null;
  for (const [i, id] of ["first", "second"].entries()) {
    $(id).replaceChildren(...rows.map((row) => h("option", { value: row.key, selected: row.key === state.pair[i] }, clipped(row.label, 70))));
    $(id).value = state.pair[i];
  }
}

// The board's sentence, its key and the caption: what the numbers are, how they are ranked, how noisy they are.
function drawWords() {
  const { suite, protocol, about, rows, caption, sigma, tasks } = board();
  $("summary").textContent = `${counted(rows.length, "architecture")} on ${suite}: ${about}.`;
  const versions = data.boards.filter((other) => other.suite.split("@")[0] === suite.split("@")[0] && other.protocol === protocol).map((other) => other.suite);
  const words = [
    ...caption.map((text) => text.replaceAll("+-", "\u00b1")),
    sigma === null ? null : `By task, \u03c3 between seeds: ${listed(tasks.filter((task) => task.sigma !== null).map((task) => `${task.heading} ${percent(task.sigma)}`))}. A claim that one row beats another is accepted where the comparison below, paired on the same test rows and corrected for the number of settings, has p < 0.05.`,
    versions.length > 1 ? `Versions of a suite are boards of their own (${listed(versions)}): their scores are not comparable.` : null,
    data.published.length ? "Published scores are from other settings, budgets and grids: hollow, unranked, for orientation only." : null,
  ];
  $("caption").replaceChildren(...words.filter(Boolean).map((text) => h("p", {}, text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part)))));
  const kinds = ["attention", "recurrence", "convolution", "mlp", "experts", "wrapper", "other"];
  const present = new Set(rows.flatMap((row) => kindsIn(row.stripe)));
  $("key").replaceChildren(
    h("span", {}, "chance", h("span", { class: "ramp" }), "ceiling"),
    ...kinds.filter((kind) => present.has(kind)).map((kind) => h("span", {}, h("span", { class: `swatch ${tone(kind)}` }), KINDS[kind])));
  $("foot").replaceChildren(h("p", {}, `Made by mad-suite ${data.version} with \u201cmad leaderboard --html\u201d. The page holds all its data, loads nothing and tells nobody. `, "To doubt a row, open it: it has the ids of its runs and the command that makes it again."));
  document.title = `MAD leaderboard: ${suite}`;
}

const kindsIn = (blocks) => blocks.flatMap(([, kind, inside]) => [kind, ...(inside ? kindsIn(inside) : [])]);

function chip(set, name, label, figure) {
  const input = h("input", { type: "checkbox", onchange: () => (input.checked ? set.add(name) : set.delete(name), refresh()) });
  input.checked = set.has(name);
  return h("label", { class: `chip${set === state.views ? " plain" : ""}` }, input, figure, label);
}

// The choices that the board at hand has something for.
function drawChoices() {
  const { rows } = board();
  const families = FAMILIES.filter((name) => rows.some((row) => row.family === name));
  const origins = { own: rows.some((row) => !isReference(row)), reference: rows.some(isReference), incomplete: rows.some((row) => !row.complete), stale: rows.some((row) => row.stale), published: data.published.length > 0 };
  const set = (id, chips) => $(id).replaceChildren($(id).querySelector("legend"), ...chips);
  set("families", families.map((name) => chip(state.families, name, name, s("svg", { width: 13, height: 13, "aria-hidden": "true" }, mark(name, 6.5, 6.5, 4.5)))));
  set("origins", Object.keys(origins).filter((name) => origins[name]).map((name) => chip(state.origins, name, name)));
  set("views", [chip(state.views, "intervals", "\u00b1 of tasks"), chip(state.views, "more", "more columns")]);
  const names = [["mad", scoreName("mad")], ...board().tasks.map((task, i) => [String(i), task.heading])];
  choose("tradeoff-y", names, state.against);
  choose("tradeoff-x", Object.entries(COSTS).map(([name, { label }]) => [name, label]), state.cost);
  const unique = (of) => [...new Set(data.boards.map(of))].map((name) => [name, name]);
  choose("suite", unique((found) => found.suite), board().suite);
  choose("protocol", unique((found) => found.protocol).filter(([name]) => data.boards.some((found) => found.suite === board().suite && found.protocol === name)), board().protocol);
}

function choose(id, options, chosen) {
  $(id).replaceChildren(...options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  $(id).value = chosen;
}

function openBoard(suite, protocol) {
  const here = data.boards.findIndex((found) => found.suite === suite && found.protocol === protocol);
  state.board = here >= 0 ? here : data.boards.findIndex((found) => found.suite === suite);
  state.against = "mad";
  state.open.clear();
  drawAll();
}

function drawAll() {
  drawChoices();
  drawWords();
  refresh();
}

// The address keeps the choices, so that a link shows what its sender saw.
function remember() {
  const words = new URLSearchParams();
  if (state.board !== data.opened) words.set("board", `${board().suite}/${board().protocol}`);
  if (state.sort) words.set("sort", `${state.sort.key}${state.sort.down ? "-" : ""}`);
  if (state.find) words.set("find", state.find);
  if (state.picked.length) words.set("pick", state.picked.join("."));
  for (const [name, set, all] of [["families", state.families, FAMILIES], ["rows", state.origins, ORIGINS]]) {
    if (set.size < all.length) words.set(name, [...set].join("."));
  }
  const text = words.toString();
  if (text || location.hash.includes("=")) history.replaceState(null, "", `#${text}`);
}

function recall() {
  if (!location.hash.includes("=")) return;
  const words = new URLSearchParams(location.hash.slice(1));
  const place = data.boards.findIndex((found) => `${found.suite}/${found.protocol}` === words.get("board"));
  if (place >= 0) state.board = place;
  state.find = words.get("find") ?? "";
  $("find").value = state.find;
  const sort = words.get("sort");
  if (sort) state.sort = { key: sort.replace(/-$/, ""), down: sort.endsWith("-") };
  state.picked = (words.get("pick") ?? "").split(".").filter(rowOf);
  if (state.picked.length >= 2) state.pair = state.picked.slice(-2);
  for (const [name, set] of [["families", state.families], ["rows", state.origins]]) {
    if (!words.has(name)) continue;
    const kept = words.get(name).split(".");
    [...set].filter((value) => !kept.includes(value)).forEach((value) => set.delete(value));
  }
}

function paintTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").textContent = dark ? "Light" : "Dark";
  $("theme").setAttribute("aria-pressed", String(dark));
}

function wire() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  $("theme").textContent = dark.matches ? "Light" : "Dark";
  $("theme").onclick = () => paintTheme((document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "light");
  $("suite").onchange = () => openBoard($("suite").value, board().protocol);
  $("protocol").onchange = () => openBoard(board().suite, $("protocol").value);
  $("find").oninput = () => ((state.find = $("find").value.trim()), refresh());
  $("first").onchange = () => ((state.pair[0] = $("first").value), refresh({ table: false }));
  $("second").onchange = () => ((state.pair[1] = $("second").value), refresh({ table: false }));
  $("swap").onclick = () => (state.pair.reverse(), refresh({ table: false }));
  $("tradeoff-x").onchange = () => ((state.cost = $("tradeoff-x").value), drawTradeoff());
  $("tradeoff-y").onchange = () => ((state.against = $("tradeoff-y").value), drawTradeoff());
  document.querySelectorAll("[data-copy]").forEach((button) => (button.onclick = () => copyTable(button.dataset.copy)));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
    if (event.key !== "/" || /INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) return;
    event.preventDefault();
    $("find").focus();
  });
  let width = 0;
  new ResizeObserver(() => {
    $("scroll").style.setProperty("--view", `${$("scroll").clientWidth}px`);
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    requestAnimationFrame(drawPlots);
  }).observe(document.body);
  $("scroll").style.setProperty("--view", `${$("scroll").clientWidth}px`);
  for (const id of ["tradeoff-plot", "spread-plot"]) $(id).classList.add("plot");
}

if (!data.boards.length) {
  $("summary").textContent = `No run of ${data.asked[0]} under protocol ${data.asked[1]} is stored yet. Make some: mad bench "2*(hyena swiglu)" --suite ${data.asked[0].split("@")[0]}`;
  ["board", "compare", "tradeoff", "spread", "difficulty", "learning"].forEach((id) => ($(id).hidden = true));
  document.querySelector(".switches").hidden = true;
} else {
  recall();
  wire();
  drawAll();
}
