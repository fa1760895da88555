// Whether two rows differ: the statistic of mad/score/pairing.py, from the numbers that the page was given.

// ln Gamma by Lanczos' series, for x > 0.
function logGamma(x) {
  const c = [76.18009172947146, -86.50532032941677, 24.01409824083091, -1.231739572450155, 0.001208650973866179, -0.000005395239384953];
  const base = x + 5.5 - (x + 0.5) * Math.log(x + 5.5);
  const sum = c.reduce((total, value, i) => total + value / (x + 1 + i), 1.000000000190015);
  return -base + Math.log((2.5066282746310005 * sum) / x);
}

// The regularised incomplete beta function by its continued fraction (Lentz).
function incompleteBeta(a, b, x) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(b, a, 1 - x);
  const away = (value) => (Math.abs(value) < 1e-300 ? 1e-300 : value);
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(1 - x)) / a;
  let c = 1;
  let d = 1 / away(1 - ((a + b) * x) / (a + 1));
  let sum = d;
  for (let m = 1; m < 1000; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    for (const step of [even, odd]) {
      d = 1 / away(1 + step * d);
      c = away(1 + step / c);
      sum *= c * d;
    }
    if (Math.abs(c * d - 1) < 1e-14) break;
  }
  return front * sum;
}

// The probability that |t| is larger, with `df` degrees of freedom.
const twoSided = (t, df) => incompleteBeta(df / 2, 0.5, df / (df + t * t));

// The t that |t| exceeds with probability `p`, by bisection.
function criticalT(df, p) {
  let low = 0;
  let high = 1;
  while (twoSided(high, df) > p) high *= 2;
  for (let i = 0; i < 80; i++) {
    const middle = (low + high) / 2;
    if (twoSided(middle, df) > p) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

// The normal distribution function, to 1e-7 (Numerical Recipes' erfcc).
function normal(x) {
  const z = Math.abs(x) / Math.SQRT2;
  const t = 1 / (1 + z / 2);
  const c = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277];
  const tail = (t * Math.exp(-z * z + c.reduceRight((sum, value) => value + t * sum, 0))) / 2;
  return x > 0 ? 1 - tail : tail;
}

// The probability that a noncentral t exceeds `t`: over the scale s of its denominator, by Simpson's rule.
function power(t, df, shift) {
  const width = 8 / Math.sqrt(2 * df);
  const [from, to, count] = [Math.max(1e-9, 1 - width), 1 + width, 400];
  const front = Math.log(2) + (df / 2) * Math.log(df / 2) - logGamma(df / 2);
  let below = 0;
  for (let i = 0; i <= count; i++) {
    const s = from + ((to - from) * i) / count;
    const density = Math.exp(front + (df - 1) * Math.log(s) - (df * s * s) / 2);
    below += (i === 0 || i === count ? 1 : i % 2 ? 4 : 2) * density * normal(t * s - shift);
  }
  return 1 - (below * (to - from)) / count / 3;
}

// Holm's correction for the number of questions, in the order given.
function holm(ps) {
  const corrected = Array(ps.length);
  let most = 0;
  ps.map((p, i) => [p, i]).sort((a, b) => a[0] - b[0]).forEach(([p, i], place) => {
    most = Math.max(most, Math.min(1, p * (ps.length - place)));
    corrected[i] = most;
  });
  return corrected;
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const sum = (values) => values.reduce((a, b) => a + b, 0);

const LEVEL = 0.05;
const MOST_SEEDS = 1000;

// The variance of a difference on one setting, as independent terms with their degrees of freedom, and how it
// would be with other numbers of seeds. `of` is what `pairs_of` gives for the setting; a and b are places in it.
function partsOf(of, a, b) {
  const weight = (i) => (of.values[i] * (1 - of.values[i])) ** 2;
  const others = of.keys.map((_, i) => i).filter((i) => i !== a && i !== b && weight(i) > 0 && of.seeds[i] > 1);
  const known = sum(others.map((i) => of.seeds[i] - 1));
  const scale = sum(others.map((i) => weight(i) * (of.seeds[i] - 1)));
  const pool = known ? sum(others.map((i) => of.spread[i] * (of.seeds[i] - 1))) / scale : 0;
  const pooled = Math.min(board().pool, known);
  const lucks = [a, b].map((i) => {
    const own = of.spread[i] * (of.seeds[i] - 1);
    const both = own + pool * weight(i) * pooled;
    const df = of.seeds[i] - 1 + pooled;
    return { spread: df ? Math.max(both / df, of.within[i]) : 0, own: both ? own / both : df ? (of.seeds[i] - 1) / df : 0, seeds: of.seeds[i] };
  });
  const [variance, basis] = rowsOf(of, a, b);
  return { lucks, pooled, rows: Math.max(variance, 1 / of.size ** 2), basis, size: of.size };
}

function rowsOf(of, a, b) {
  if (of.rows[a] !== null && of.rows[b] !== null) {
    const place = a > b ? (a * (a - 1)) / 2 + b : (b * (b - 1)) / 2 + a;
    const both = (of.correlations[place] / 1e5) * Math.sqrt(of.rows[a] * of.rows[b]);
    const whole = of.rows[a] + of.rows[b] - 2 * both;
    return [whole - of.within[a] / of.seeds[a] - of.within[b] / of.seeds[b], "paired"];
  }
  if (Math.min(of.seeds[a], of.seeds[b]) > 1) return [0, "none"];
  return [sum([a, b].map((i) => (of.values[i] * (1 - of.values[i])) / of.size)), "unpaired"];
}

const termsOf = ({ lucks, pooled, rows, size }, weight = 1) =>
  [
    ...lucks.map((luck) => [(luck.spread * luck.own) / luck.seeds, luck.seeds - 1]),
    [sum(lucks.map((luck) => (luck.spread * (1 - luck.own)) / luck.seeds)), pooled],
    [rows, Math.max(size - 1, 1)],
  ].filter(([variance, df]) => variance && df).map(([variance, df]) => [weight ** 2 * variance, df]);

function errorOf(terms) {
  const total = sum(terms.map(([variance]) => variance));
  return [Math.sqrt(total), total ** 2 / sum(terms.map(([variance, df]) => variance ** 2 / df))];
}

function tested(value, terms) {
  const [error, df] = errorOf(terms);
  const half = criticalT(df, LEVEL) * error;
  return { value, low: Math.max(-1, value - half), high: Math.min(1, value + half), p: value === 0 ? 1 : twoSided(value / error, df) };
}

// How many seeds of each would show the difference at this level with a power of 80 %; null where none does.
function seedsToSeparate(parts, value, level) {
  const shown = (seeds) => {
    const own = (seeds - 1) / (seeds - 1 + parts.pooled);
    const [error, df] = errorOf(termsOf({ ...parts, lucks: parts.lucks.map((luck) => ({ ...luck, seeds, own })) }));
    return power(criticalT(df, level), df, Math.abs(value) / error) >= 0.8;
  };
  let low = Math.max(...parts.lucks.map((luck) => luck.seeds), 2);
  let high = MOST_SEEDS;
  if (!shown(high)) return null;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (shown(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

// Two rows on the settings that both have, and in the mean of the tasks that these make.
function compared(keyA, keyB) {
  const found = board().tasks.flatMap((task) => task.settings.flatMap((setting) => {
    const of = board().pairs[setting.label];
    const [a, b] = of ? [of.keys.indexOf(keyA), of.keys.indexOf(keyB)] : [-1, -1];
    if (a < 0 || b < 0) return [];
    const parts = partsOf(of, a, b);
    const value = of.values[a] - of.values[b];
    return [{ task, setting, parts, a: of.values[a], b: of.values[b], ...tested(value, termsOf(parts)), luck: parts.lucks.every((luck) => luck.seeds > 1 || parts.pooled) }];
  }));
  if (!found.length) return null;
  holm(found.map((one) => one.p)).forEach((p, i) => {
    const one = Object.assign(found[i], { adjusted: p, separated: p < LEVEL });
    one.needs = one.separated || one.value === 0 ? null : one.luck ? seedsToSeparate(one.parts, one.value, LEVEL / found.length) ?? Infinity : 2;
  });
  const tasks = [...new Set(found.map((one) => one.task))];
  const weight = (one) => 1 / tasks.length / found.filter((other) => other.task === one.task).length;
  const terms = found.flatMap((one) => termsOf(one.parts, weight(one)));
  const total = (of) => sum(found.map((one) => weight(one) * of(one)));
  return { settings: found, tasks: tasks.length, mean: { a: total((one) => one.a), b: total((one) => one.b), ...tested(total((one) => one.value), terms) } };
}
