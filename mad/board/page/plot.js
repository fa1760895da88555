// What plots share: scales, axes, marks, the box that names what is under the pointer or has the focus.

const linear = ([a, b], [c, d]) => Object.assign((v) => c + ((d - c) * (v - a)) / (b - a || 1), { domain: [a, b] });
const logarithmic = ([a, b], to) => {
  const scale = linear([Math.log10(a), Math.log10(b)], to);
  return Object.assign((v) => scale(Math.log10(v)), { domain: [a, b], log: true });
};

// About `count` round numbers between the ends.
function roundTicks(low, high, count = 5) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9; i++) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high) {
  for (const steps of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const step of steps) if (step * 10 ** power >= low * 0.999 && step * 10 ** power <= high * 1.001) ticks.push(step * 10 ** power);
    }
    if (ticks.length >= 3) return ticks.length > 7 ? ticks.filter((_, i) => i % 2 === 0) : ticks;
  }
  return [low, high];
}

// The axes of a plot as SVG parts; `x` and `y` are scales in the plot's pixels.
function axes({ x, y, box, xTicks, yTicks, xLabel, yLabel, xText = (v) => short(v).replace(/\.0(?=[kMG])/, ""), yText = (v) => (100 * v).toFixed(0) }) {
  const { left, right, top, bottom } = box;
  return [
    yTicks.map((v) => [s("line", { class: "grid", x1: left, x2: right, y1: y(v), y2: y(v) }), s("text", { x: left - 7, y: y(v) + 4, "text-anchor": "end" }, yText(v))]),
    s("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
    xTicks.map((v) => [s("line", { class: "axis", x1: x(v), x2: x(v), y1: bottom, y2: bottom + 4 }), s("text", { x: x(v), y: bottom + 17, "text-anchor": "middle" }, xText(v))]),
    xLabel ? s("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, xLabel) : null,
    yLabel ? s("text", { x: 0, y: top - 9 }, yLabel) : null,
  ];
}

// A mark of its family's shape and colour, so that shape alone tells them apart.
function mark(family, x, y, size = 5, hollow = false) {
  const look = { class: `mark-shape ${hollow ? "hollow" : "fill"} ${tone(family)}` };
  const path = (points) => s("path", { ...look, d: `M${points.map(([a, b]) => `${(x + a * size).toFixed(1)},${(y + b * size).toFixed(1)}`).join("L")}Z` });
  switch (family) {
    case "attention": return s("circle", { ...look, cx: x, cy: y, r: size });
    case "recurrence": return s("rect", { ...look, x: x - 0.88 * size, y: y - 0.88 * size, width: 1.76 * size, height: 1.76 * size });
    case "convolution": return path([[0, -1.2], [1.1, 0.8], [-1.1, 0.8]]);
    case "hybrid": return path([[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]]);
    default: return path([[-0.4, -1.1], [0.4, -1.1], [0.4, -0.4], [1.1, -0.4], [1.1, 0.4], [0.4, 0.4], [0.4, 1.1], [-0.4, 1.1], [-0.4, 0.4], [-1.1, 0.4], [-1.1, -0.4], [-0.4, -0.4]]);
  }
}

function svg(width, height, label, ...children) {
  return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label }, children);
}

// Points that say what they are; of all of them one takes the focus by Tab, the arrow keys go on from there.
function pointed(points) {
  points.forEach(({ element, title, lines }, i) => {
    element.setAttribute("tabindex", i === 0 ? 0 : -1);
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", clipped(`${title}: ${lines.join("; ")}`, 400));
    element.classList.add("point");
    const say = () => showTip(element, title, lines);
    element.addEventListener("pointerenter", say);
    element.addEventListener("focus", say);
    element.addEventListener("pointerleave", hideTip);
    element.addEventListener("blur", hideTip);
    element.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = points[(i + step + points.length) % points.length].element;
      element.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
  });
}

function showTip(element, title, lines) {
  const tip = $("tip");
  tip.replaceChildren(h("b", {}, clipped(title, 160)), ...lines.map((line) => h("div", {}, line)));
  tip.hidden = false;
  const at = element.getBoundingClientRect();
  const width = tip.offsetWidth;
  const left = Math.min(Math.max(8, at.left + at.width / 2 - width / 2), document.documentElement.clientWidth - width - 8);
  const above = at.top - tip.offsetHeight - 8;
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${(above > 4 ? above : at.bottom + 8) + scrollY}px`;
}
const hideTip = () => ($("tip").hidden = true);

const polyline = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}`;
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];

// The names of lines, above their panels.
function lineNames(rows) {
  return h("ul", { class: "lines" }, rows.map((row, i) =>
    h("li", {}, s("svg", { width: 30, height: 10, class: `l${i}`, "aria-hidden": "true" }, s("line", { class: "line", x1: 1, x2: 29, y1: 5, y2: 5, "stroke-width": 2.5, "stroke-dasharray": DASHES[i % 4] })), h("span", { title: clipped(row.label, 300) }, clipped(row.label, 60)))));
}

// The width of small plots side by side, as many as fit.
function panelWidth(holder) {
  const room = Math.max(280, holder.clientWidth);
  const columns = Math.max(1, Math.floor((room + 26) / 330));
  return Math.floor((room - 26 * (columns - 1)) / columns);
}

// A small plot of lines with bands: `lines` are {place, points: [[x, y, low, high]]} of rows in `lineRows`.
function panel({ title, lines, x, xTicks, xText, xLabel, low = 0, width, guides = [] }) {
  const box = { left: 34, right: width - 8, top: 30, bottom: 168 };
  const across = x([box.left, box.right]);
  const up = linear([low, 1], [box.bottom, box.top]);
  const drawn = lines.map(({ place, points }) => [
    points.some(([, , a, b]) => b > a) ? s("path", { class: `area l${place}`, d: `${polyline([...points.map(([at, , , b]) => [across(at), up(b)]), ...points.map(([at, , a]) => [across(at), up(a)]).reverse()])}Z` }) : null,
    s("path", { class: `line l${place}`, "stroke-width": 1.9, "stroke-dasharray": DASHES[place % 4], d: polyline(points.map(([at, value]) => [across(at), up(value)])) }),
    points.length < 8 ? points.map(([at, value]) => s("circle", { class: `fill l${place}`, cx: across(at), cy: up(value), r: 2.6 })) : null,
  ]);
  const levels = guides.filter(({ value }) => value !== null && value > low).map(({ value, text }) => [s("line", { class: "front", x1: box.left, x2: box.right, y1: up(value), y2: up(value) }), s("text", { class: "halo", x: box.right, y: up(value) - 4, "text-anchor": "end" }, text)]);
  return s("svg", { width, height: 208, viewBox: `0 0 ${width} 208`, role: "img", "aria-label": `${title}: lines of ${lines.length} architectures` },
    axes({ x: across, y: up, box, xTicks, yTicks: roundTicks(low, 1, 4), xText, xLabel }),
    s("text", { class: "title", x: 0, y: 13 }, clipped(title, 44)), levels, drawn);
}
