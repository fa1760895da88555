// Student's t and Holm's correction: what the comparison of two rows needs, as mad/score/comparison.py has it.

// ln Gamma by Lanczos' series, good to 15 digits for x > 0.
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
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(1 - x)) / a;
  const tiny = 1e-300;
  let c = 1, d = 1 / Math.max(Math.abs(1 - ((a + b) * x) / (a + 1)), tiny) * Math.sign(1 - ((a + b) * x) / (a + 1)), sum = d;
  for (let m = 1; m < 500; m++) {
    for (const step of [(m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m)), (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1))]) {
      d = 1 + step * d;
      c = 1 + step / c;
      d = 1 / (Math.abs(d) < tiny ? tiny : d);
      c = Math.abs(c) < tiny ? tiny : c;
      sum *= c * d;
    }
    if (Math.abs(c * d - 1) < 1e-15) break;
  }
  return front * sum;
}

// The two-sided p of |t| with `df` degrees of freedom.
const twoSided = (t, df) => (df === Infinity ? erfc(Math.abs(t) / Math.SQRT2) : incompleteBeta(df / 2, 0.5, df / (df + t * t)));

function erfc(x) {
  // Through the incomplete gamma's relatives this is the t of very many degrees.
  return incompleteBeta(5e7, 0.5, 1e8 / (1e8 + 2 * x * x));
}

// The t that |t| exceeds with probability `p`, by bisection.
function criticalT(df, p = 0.05) {
  let low = 0, high = 1;
  while (twoSided(high, df) > p) high *= 2;
  for (let i = 0; i < 100; i++) {
    const middle = (low + high) / 2;
    if (twoSided(middle, df) > p) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

// Holm's step-down: p corrected for the number of questions, in the order given.
function holm(ps) {
  const order = ps.map((p, i) => [p, i]).sort((a, b) => a[0] - b[0]);
  const corrected = Array(ps.length);
  let most = 0;
  order.forEach(([p, i], place) => {
    most = Math.max(most, Math.min(1, p * (ps.length - place)));
    corrected[i] = most;
  });
  return corrected;
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
function variance(values) {
  const middle = mean(values);
  return values.reduce((total, value) => total + (value - middle) ** 2, 0) / (values.length - 1);
}
