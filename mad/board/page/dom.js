// Elements and numbers as text. What comes out of records only ever becomes a text node or an attribute's value.

const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// An element of HTML, or of SVG: h("td", {class: "heat"}, "97.1").
const h = (tag, props = {}, ...children) => fill(document.createElement(tag), props, children);
const s = (tag, props = {}, ...children) => fill(document.createElementNS(SVG, tag), props, children);

const MINUS = "\u2212";
const signed = (text) => text.replace("-", MINUS);

// A fraction in percent with one decimal.
const percent = (value) => (value === null || value === undefined ? "\u2013" : signed((100 * value).toFixed(1)));
const points = (value) => (value > 0 ? "+" : "") + percent(value);
const range = ([, low, high]) => `${percent(low)} to ${percent(high)}`;
const half = ([, low, high]) => percent((high - low) / 2);

// Three digits or so: 950, 4.1k, 412k, 1.2M; as the command line writes them.
function short(number) {
  if (number === null || number === undefined) return "\u2013";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (number >= size) return (number / size).toFixed(number >= 99.95 * size ? 0 : 1) + unit;
  }
  return number < 10 && number % 1 ? number.toFixed(1) : number.toFixed(0);
}

function seconds(value) {
  if (value === null || value === undefined) return "\u2013";
  if (value < 100) return `${value.toFixed(0)} s`;
  return value < 6000 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
}

function probability(p) {
  if (p === null || p === undefined) return "\u2013";
  return p < 0.0001 ? "< 0.0001" : p < 0.01 ? p.toFixed(4) : p.toFixed(2);
}

const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const listed = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);
const clipped = (text, longest) => (text.length > longest ? `${text.slice(0, longest - 1)}\u2026` : text);
const tone = (kind) => (["attention", "recurrence", "convolution", "hybrid", "own", "mlp", "experts", "wrapper", "branches", "branch"].includes(kind) ? `k-${kind}` : "k-other");
