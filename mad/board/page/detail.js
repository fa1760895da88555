// What stands behind a row: its layers by name, its settings, every run with where it was made, the command.

const INTERVALS = { seeds: "bootstrap over seeds", rows: "binomial over the test rows of one seed" };
const KINDS = { attention: "attention", recurrence: "recurrence", convolution: "convolution", mlp: "MLP", experts: "experts, lookups", wrapper: "wrapper", branches: "branches", branch: "branch", other: "other" };

function detailRow(row) {
  const facts = [
    ["spec", row.spec],
    ...(row.given !== row.spec && row.given !== row.label ? [["typed", row.given]] : []),
    ["interval", row.mad ? `${range(row.mad)} (${INTERVALS[row.interval]})` : "none yet"],
    ["parameters", `${(row.params ?? 0).toLocaleString("en")}, ${short(row.core)} of them without embedding and readout`],
    ["state", `${(row.state ?? 0).toLocaleString("en")} elements (${Object.entries(row.states).filter(([, n]) => n).map(([kind, n]) => `${kind} ${short(n)}`).join(", ") || "none"}); nominal ${short(row.nominal)}`],
    ["versions", Object.entries(row.versions).map(([name, version]) => `${name}@${version}`).join(", ")],
    ...(Object.keys(row.sources).length ? [["code", Object.entries(row.sources).map(([name, hash]) => `${name} ${hash.slice(0, 12)}`).join(", ")]] : []),
    ["runs", `${counted(row.runs, "run")}, ${row.packaged} with the package, ${row.imported} imported; newest ${row.created}`],
    ["arithmetic", `${row.arithmetic[0]}, ${row.arithmetic[1]}${row.arithmetic[2] ? ", torch.compile" : ""}`],
  ];
  const said = [...row.missing.map((text) => `missing: ${text}`), ...row.notes];
  const inner = h("div", { class: "inner" },
    h("div", {}, h("h3", {}, "Layers"), layerList(row.stripe)),
    h("div", {}, h("h3", {}, "The command that makes this row again"), commandLine(row)),
    said.length ? h("div", {}, h("h3", {}, "To know before trusting it"), h("ul", {}, said.map((text) => h("li", {}, text)))) : null,
    h("div", { class: "columns" }, h("div", {}, h("h3", {}, "Facts"), h("dl", {}, facts.map(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]))), h("div", {}, h("h3", {}, "Settings"), settingTable(row))),
    h("div", {}, h("h3", {}, "Runs"), runTable(row)),
  );
  return h("tr", { class: "detail" }, h("td", { colspan: columns().length }, inner));
}

function layerList(blocks) {
  return h("ul", { class: "layers" }, blocks.map(([name, kind, inside]) =>
    h("li", { class: tone(kind) }, name || "branch", h("span", { class: "kind" }, KINDS[kind] ?? kind), inside ? layerList(inside) : null)));
}

function commandLine(row) {
  if (!row.command) return h("p", { class: "note" }, "None: what was typed cannot be shown as it is.");
  const own = Object.keys(row.sources).length;
  const first = row.settings.find(Boolean)?.groups[0];
  return [
    first ? h("p", { class: "note" }, "To check one of its runs: ", h("code", {}, `mad verify ${first[3][first[2]][0]}`)) : null,
    h("div", { class: "shell" }, h("code", {}, row.command), h("button", { type: "button", onclick: () => copyText(row.command, "The command is copied.") }, "Copy")),
    own ? h("p", { class: "note" }, `It needs ${listed(Object.keys(row.sources).map((name) => name.split(":")[0]))} where Python can import it.`) : null,
  ];
}

function settingTable(row) {
  const labels = board().tasks.flatMap((task) => task.settings.map((setting) => setting.label));
  const lines = row.settings.map((found, i) => {
    if (!found) return h("tr", {}, h("th", { scope: "row" }, labels[i]), h("td", { colspan: 4, class: "left muted" }, "not run"));
    const rates = [...new Set(found.groups.map(([, , chosen, runs]) => runs[chosen][1]))];
    const doubt = [...found.edges.map((edge) => `edge ${edge}`), ...(found.diverged ? [`${found.diverged} diverged`] : []), ...(found.apart ? ["test above validation"] : [])];
    return h("tr", {}, h("th", { scope: "row" }, labels[i]), h("td", {}, percent(found.score[0])), h("td", {}, range(found.score)), h("td", {}, percent(found.macro)), h("td", { class: "left" }, [`lr ${rates.join(", ")}`, ...doubt].join("; ")));
  });
  return inside("Settings of this row", ["setting", "score", "95 % interval", "macro", "chosen"], lines, "wraps");
}

function runTable(row) {
  const labels = board().tasks.flatMap((task) => task.settings.map((setting) => setting.label));
  const lines = row.settings.flatMap((found, i) => (found?.groups ?? []).flatMap(([seed, value, chosen, runs]) =>
    runs.map(([id, lr, decay, status, took, where], place) =>
      h("tr", {}, h("th", { scope: "row" }, h("code", {}, id)), h("td", { class: "left" }, clipped(labels[i], 60)), h("td", {}, seed), h("td", {}, String(lr)), h("td", {}, String(decay)), h("td", { class: "left" }, status), h("td", {}, place === chosen ? percent(value) : ""), h("td", {}, seconds(took)), h("td", { class: "left" }, madeBy(where))))));
  const names = ["id (mad show ID)", "setting", "seed", "lr", "decay", "status", "score", "time", "made by"];
  return inside("Runs of this row", names, lines);
}

// A table inside a row, which scrolls by itself.
function inside(label, heads, lines, look = "") {
  const left = ["setting", "chosen", "status", "made by"];
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": label }, h("table", { class: look }, h("thead", {}, h("tr", {}, heads.map((name) => h("th", { scope: "col", class: left.includes(name) ? "left" : "" }, name)))), h("tbody", {}, lines)));
}

function madeBy(place) {
  const found = data.environments[place] ?? {};
  const device = found.device_name ? `${found.device} (${found.device_name})` : found.device;
  return [found.mad_suite && `mad-suite ${found.mad_suite}`, found.torch && `torch ${found.torch}`, device, found.threads && counted(found.threads, "thread")].filter(Boolean).join(", ") || "unknown";
}
