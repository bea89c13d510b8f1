// Pictures: the map, the curves along one axis, an x as image or as a table, and what was tried. Nothing is asked here.
export const $ = (query, root = document) => root.querySelector(query);
export const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && name !== "list") element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};
export const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
export const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
export const short = v => v === null ? "–" : Math.abs(v) >= 1e5 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(1) : `${+v.toPrecision(3)}`.replace("-", "−");

// A canvas as sharp as the screen; the pen draws in its pixels on the page.
export function pen(canvas) {
  const box = canvas.getBoundingClientRect(), dense = devicePixelRatio || 1, border = 2;
  const w = Math.max(1, box.width - border), h = Math.max(1, box.height - border);
  canvas.width = Math.round(w * dense); canvas.height = Math.round(h * dense);
  const p = canvas.getContext("2d");
  p.setTransform(dense, 0, 0, dense, 0, 0);
  p.fillStyle = colour("paper"); p.fillRect(0, 0, w, h);
  return { p, w, h };
}

// The plane of two axes: where z lies in it, and z moved so that it lies at a place in it.
export function plane(directions, across, up) {
  const u = directions[across], v = directions[up], c = dot(u, v), det = 1 - c * c;
  return {
    across, up, c,
    of: z => [dot(z, u), dot(z, v)],
    move: (z, [x, y]) => {
      const dx = x - dot(z, u), dy = y - dot(z, v);
      const [a, b] = det > 1e-9 ? [(dx - c * dy) / det, (dy - c * dx) / det] : [dx, 0];
      return z.map((value, i) => value + a * u[i] + b * v[i]);
    },
    flat: g => ({ mean: [g.mean[across], g.mean[up]],
      cov: [[g.covariance[across][across], g.covariance[across][up]], [g.covariance[up][across], g.covariance[up][up]]] }),
  };
}

function ellipse(p, to, { mean, cov }, times) {
  const [[a, b], [, d]] = cov, half = (a + d) / 2, gap = Math.hypot((a - d) / 2, b), angle = Math.atan2(2 * b, a - d) / 2;
  const long = times * Math.sqrt(half + gap), narrow = times * Math.sqrt(Math.max(0, half - gap));
  p.beginPath();
  for (let i = 0; i <= 72; i++) {
    const t = i / 36 * Math.PI, x = long * Math.cos(t), y = narrow * Math.sin(t);
    p.lineTo(...to([mean[0] + x * Math.cos(angle) - y * Math.sin(angle), mean[1] + x * Math.sin(angle) + y * Math.cos(angle)]));
  }
  p.closePath();
}
const HALF = 1.1774, NINE = 2.1460; // standard deviations around half and nine tenths of a Gaussian in two dimensions

export function drawMap(canvas, s) {
  const { p, w, h } = pen(canvas), to = ([x, y]) => [(x / s.reach + 1) / 2 * w, (1 - y / s.reach) / 2 * h];
  const points = (list, name, size, alpha) => {
    p.fillStyle = colour(name); p.globalAlpha = alpha;
    for (const at of list) { const [x, y] = to(at); p.beginPath(); p.arc(x, y, size, 0, 7); p.fill(); }
    p.globalAlpha = 1;
  };
  p.strokeStyle = colour("line"); p.lineWidth = 1;
  p.beginPath(); p.moveTo(w / 2, 0); p.lineTo(w / 2, h); p.moveTo(0, h / 2); p.lineTo(w, h / 2); p.stroke();
  if (!s.standard) points(s.prior, "second", 2, 0.35);
  const both = [[s.codes, "data", 2.4, 0.6], [s.draws, "mark", 2.4, 0.55]].sort((a, b) => b[0].length - a[0].length);
  both.forEach(each => points(...each)); // the fewer on top
  if (s.standard) for (const times of [HALF, NINE]) {
    p.strokeStyle = colour("second"); p.lineWidth = 1.6;
    ellipse(p, to, { mean: [0, 0], cov: [[1, s.plane.c], [s.plane.c, 1]] }, times); p.stroke();
  }
  for (const way of s.ways) {
    p.strokeStyle = colour(way.name); p.lineWidth = 2; p.setLineDash(way.dash);
    p.beginPath(); way.points.forEach(at => p.lineTo(...to(at))); p.stroke(); p.setLineDash([]);
  }
  for (const at of s.picked) {
    const [x, y] = to(at);
    p.strokeStyle = colour("ink"); p.lineWidth = 1.6; p.beginPath(); p.arc(x, y, 5, 0, 7); p.stroke();
  }
  for (const [g, wide, width] of s.gaussians) for (const times of [HALF, NINE]) {
    p.strokeStyle = colour("third"); p.lineWidth = width; p.setLineDash(wide);
    ellipse(p, to, s.plane.flat(g), times); p.stroke(); p.setLineDash([]);
  }
  const [x, y] = to(s.at);
  for (const [name, size] of [["paper", 5], ["ink", 2.2]]) {
    p.strokeStyle = colour(name); p.lineWidth = size;
    p.beginPath(); p.moveTo(x - 10, y); p.lineTo(x + 10, y); p.moveTo(x, y - 10); p.lineTo(x, y + 10); p.stroke();
  }
}

// Density of some numbers: Gaussians around them, as wide as Silverman's rule says.
function smooth(values) {
  const n = values.length, mean = values.reduce((a, b) => a + b, 0) / n;
  const sorted = [...values].sort((a, b) => a - b), between = (sorted[Math.floor(0.75 * (n - 1))] - sorted[Math.floor(0.25 * (n - 1))]) / 1.34;
  const sd = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / n), h = 0.9 * Math.min(sd, between || sd) * n ** -0.2 || 1e-3;
  return x => values.reduce((sum, v) => sum + bell(x, v, h), 0) / n;
}
const bell = (x, m, s) => Math.exp(-0.5 * ((x - m) / s) ** 2) / (s * Math.sqrt(2 * Math.PI));

// Curves of densities along one axis; a narrow one is cut at thrice the height of the wide ones.
export function drawCurves(canvas, { reach, standard, prior, draws, gaussians, at }) {
  const { p, w, h } = pen(canvas), base = h - 20, n = 320, grid = [...Array(n + 1).keys()].map(i => (2 * i / n - 1) * reach);
  const lines = [[standard ? x => bell(x, 0, 1) : smooth(prior), "second", [], 2], [smooth(draws), "mark", [], 2]];
  const wide = Math.max(...lines.flatMap(([f]) => grid.map(f)));
  for (const [mean, sd, dash, width] of gaussians) lines.push([x => bell(x, mean, sd), "third", dash, width]);
  const top = 1.05 * Math.min(3 * wide, Math.max(wide, ...gaussians.map(([, sd]) => bell(0, 0, sd))));
  const to = (x, y) => [(x / reach + 1) / 2 * w, base - Math.min(1, y / top) * (base - 8)];
  p.strokeStyle = colour("line"); p.lineWidth = 1; p.beginPath(); p.moveTo(0, base + 0.5); p.lineTo(w, base + 0.5); p.stroke();
  for (const [f, name, dash, width] of lines) {
    p.strokeStyle = colour(name); p.lineWidth = width; p.setLineDash(dash);
    p.beginPath(); grid.forEach(x => p.lineTo(...to(x, f(x)))); p.stroke(); p.setLineDash([]);
  }
  p.strokeStyle = colour("ink"); p.lineWidth = 2; p.beginPath(); p.moveTo(to(at, 0)[0], base - 9); p.lineTo(to(at, 0)[0], base + 5); p.stroke();
  p.fillStyle = colour("soft"); p.font = "12px system-ui, sans-serif"; p.textAlign = "center";
  const step = reach > 6 ? 4 : reach > 3 ? 2 : 1;
  for (let x = -Math.floor(reach / step) * step; x < reach; x += step) if (Math.abs(x) < 0.95 * reach) p.fillText(short(x), to(x, 0)[0], h - 5);
}

// One x: an image on a canvas, or the columns of a table with where each value lies between least and largest.
export function showX(x, scene, label) {
  if (!scene.image) {
    const box = make("div", { className: "bars", role: "group", ariaLabel: label, tabIndex: 0 });
    scene.columns.forEach((name, j) => {
      const [low, high] = scene.span[j], at = high > low ? 2 + 96 * Math.max(0, Math.min(1, (x.values[j] - low) / (high - low))) : 50;
      box.append(make("span", { title: name }, name), bar(at), make("output", {}, short(x.values[j])));
    });
    const more = x.values.length - scene.columns.length;
    if (more > 0) box.append(make("span", {}, `and ${more} more`));
    return box;
  }
  const [c, h, w] = scene.image, canvas = make("canvas", { width: w, height: h, ...(label ? { role: "img", ariaLabel: label } : { ariaHidden: "true" }) });
  const levels = x.pixels ? Uint8Array.from(atob(x.pixels), k => k.charCodeAt(0)) : Uint8ClampedArray.from(x.values, v => 255 * v);
  const image = new ImageData(w, h), size = w * h;
  for (let i = 0; i < size; i++) for (let k = 0; k < 4; k++) image.data[4 * i + k] = k === 3 ? 255 : levels[(c === 1 ? 0 : k) * size + i];
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
function bar(at) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 8"); svg.setAttribute("preserveAspectRatio", "none"); svg.setAttribute("aria-hidden", "true");
  for (const [tag, set] of [["rect", { x: 0, y: 2, width: 100, height: 4 }], ["line", { x1: at, x2: at, y1: 0, y2: 8 }]]) {
    const part = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(set)) part.setAttribute(name, value);
    svg.append(part);
  }
  return svg;
}

// What was tried: gain across, up the chance that a sample is nearer to training rows than unseen rows are.
export function drawTried(canvas, tried, now) {
  const { p, w, h } = pen(canvas), gains = tried.flatMap(t => [t.gain - (t.half || 0), t.gain + (t.half || 0), 0]);
  const low = Math.min(...gains), high = Math.max(...gains), gap = (high - low || 1) * 0.08;
  const to = (x, y) => [40 + (x - low + gap) / (high - low + 2 * gap) * (w - 50), h - 34 - (y - 0) * (h - 44)];
  p.font = "12px system-ui, sans-serif"; p.fillStyle = colour("soft"); p.strokeStyle = colour("line"); p.lineWidth = 1;
  for (const y of [0, 0.5, 1]) { const [, t] = to(low, y); p.beginPath(); p.moveTo(36, t); p.lineTo(w, t); p.stroke(); p.textAlign = "right"; p.fillText(y, 30, t + 4); }
  p.textAlign = "center"; p.fillText("gain over the prior, nats a row", w / 2 + 15, h - 4);
  const rough = (high - low || 1) / 4, ten = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].find(k => k * ten >= rough) * ten;
  for (let k = Math.ceil(low / step); k * step <= high; k++) p.fillText(short(k * step), to(k * step, 0)[0], h - 19);
  const labels = [];
  for (const t of [...tried].sort((a, b) => (b === now) - (a === now))) {
    const own = t === now, y = t.nearer ? t.nearer[0] : 0.5;
    p.strokeStyle = p.fillStyle = colour(t.copies ? "problem" : "mark"); p.lineWidth = own ? 2.4 : 1.2;
    p.beginPath(); p.moveTo(...to(t.gain - (t.half || 0), y)); p.lineTo(...to(t.gain + (t.half || 0), y)); p.stroke();
    if (t.nearer) { p.beginPath(); p.moveTo(...to(t.gain, t.nearer[1])); p.lineTo(...to(t.gain, t.nearer[2])); p.stroke(); }
    p.beginPath(); p.arc(...to(t.gain, y), own ? 6 : 4, 0, 7); p.fill();
    const [x, top] = to(t.gain, y); p.fillStyle = colour("ink"); p.textAlign = "left";
    if (!own && labels.some(([a, b]) => Math.abs(a - x) < 60 && Math.abs(b - top) < 14)) continue;
    labels.push([x, top]);
    p.fillText(t.tag, Math.min(x + 8, w - 52), top - 6);
  }
}
