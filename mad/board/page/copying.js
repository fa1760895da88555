// What the table shows as CSV, Markdown or LaTeX: its rows in their order, its columns, its intervals.

// The cells of the table as texts: a heading row, then one for each row that is shown.
function grid(exact = false) {
  const shown = columns();
  const split = shown.flatMap((column) => (column.half && (column.key === "mad" || state.views.has("intervals")) ? [column, { ...column, label: `${column.label} \u00b1`, copy: column.half }] : [column]));
  const number = (text) => (exact ? text.replace(MINUS, "-") : text);
  const rows = shownRows().map((row) => split.map((column) => number(column.copy(row))));
  if (state.origins.has("published")) {
    for (const row of data.published) {
      rows.push(split.map((column) => {
        if (column.key === "name") return `${row.model} (published: ${row.source})`;
        const task = column.key.startsWith("task-") && column.copy !== column.half ? board().tasks[Number(column.key.slice(5))] : null;
        return task && task.name in row.scores ? percent(row.scores[task.name]) : "";
      }));
    }
  }
  return [split.map((column) => column.label), ...rows];
}

// An apostrophe keeps a spreadsheet from running what begins as a formula.
function csvCell(text) {
  const safe = /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const asCsv = () => `${grid(true).map((row) => row.map(csvCell).join(",")).join("\n")}\n`;

function asMarkdown() {
  const cell = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll("|", "\\|");
  const [heads, ...rows] = grid().map((row) => `| ${row.map(cell).join(" | ")} |`);
  return `${heads}\n|${grid()[0].map((label) => (label === "architecture" ? ":--" : "--:")).join("|")}|\n${rows.join("\n")}\n\n${plainCaption()}\n`;
}

function asLatex() {
  const marks = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\u00b1": "$\\pm$", "\u03c3": "$\\sigma$", "\u2013": "--", [MINUS]: "$-$" };
  const cell = (text) => text.replace(/[\\~^\u00b1\u03c3\u2013\u2212]|[&%$#_{}]/g, (c) => marks[c] ?? `\\${c}`);
  const [heads, ...rows] = grid().map((row) => `${row.map(cell).join(" & ")} \\\\`);
  const align = grid()[0].map((label) => (label === "architecture" ? "l" : "r")).join("");
  return `% ${plainCaption()}\n\\begin{tabular}{${align}}\n\\toprule\n${heads}\n\\midrule\n${rows.join("\n")}\n\\bottomrule\n\\end{tabular}\n`;
}

const plainCaption = () => `${board().suite}, protocol ${board().protocol}: ${board().metric} accuracy in %; \u00b1 is half of the 95 % interval; mad-suite ${data.version}.`;

async function copyText(text, done) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without the permission, as on an insecure address: the old way, through a selection.
    const area = h("textarea", { readonly: true, "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    if (!copied) return tell("The browser does not let this page copy; use Download.");
  }
  tell(done);
}

function download(text, name) {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

function copyTable(format) {
  const rows = counted(grid().length - 1, "row");
  if (format === "file") return download(asCsv(), `mad-${board().suite.replace(/[^\w.-]/g, "-")}.csv`);
  const [text, name] = { csv: [asCsv, "CSV"], md: [asMarkdown, "Markdown"], tex: [asLatex, "LaTeX"] }[format];
  return copyText(text(), `${rows} copied as ${name}.`);
}
