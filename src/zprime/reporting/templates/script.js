"use strict";
// Sorting, explanations, the contents, the lens over the sample grids, the latent map, the theme. No library, no request.
const $ = (query, root = document) => root.querySelector(query);
const all = (query, root = document) => [...root.querySelectorAll(query)];
const place = (box, x, y) => { // beside a point, inside the window
  box.hidden = false;
  const w = box.offsetWidth, h = box.offsetHeight, left = scrollX + 8, right = scrollX + document.documentElement.clientWidth - 8;
  box.style.left = `${Math.max(left, Math.min(x, right - w))}px`;
  box.style.top = `${y + h > scrollY + innerHeight && y - h - 32 > scrollY ? y - h - 32 : y}px`;
};

$("#theme").onclick = () => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
  drawMaps();
};

const why = $("#why");
let asked = null;
document.addEventListener("click", event => {
  const number = event.target.closest(".n");
  if (!number || number === asked) { why.hidden = true; asked = null; return; }
  asked = number;
  why.textContent = number.dataset.why;
  const at = number.getBoundingClientRect();
  place(why, scrollX + at.left, scrollY + at.bottom + 6);
});
document.addEventListener("keydown", event => { if (event.key === "Escape") { why.hidden = true; asked = null; } });

for (const table of all("table.sort")) all("thead th", table).forEach((head, column) => {
  const button = $("button", head);
  if (button) button.onclick = () => {
    const up = head.getAttribute("aria-sort") === "descending";
    all("thead th", table).forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => { const k = row.children[column].dataset.key; return k === undefined ? null : isNaN(k) ? k : +k; };
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null); // what was not measured comes last
      return (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(y)) * (up ? 1 : -1);
    };
    $("tbody", table).append(...all("tbody tr", table).sort(order));
  };
});

const lens = $("#lens");
const cell = (image, url, column, row, text) => {
  const side = 112, scale = side * image.dataset.columns / image.naturalWidth, i = document.createElement("i");
  const box = document.createElement("span"), w = image.naturalWidth * scale, h = image.naturalHeight * scale;
  i.style.backgroundImage = `url("${url}")`;
  i.style.backgroundSize = `${w}px ${h}px`;
  i.style.backgroundPosition = `${-column * w / image.dataset.columns}px ${-row * h / image.dataset.rows}px`;
  i.style.height = `${h / image.dataset.rows}px`;
  box.append(i, text);
  return box;
};
for (const image of all(".sheets img")) {
  const show = event => {
    const at = image.getBoundingClientRect(), d = image.dataset;
    const column = Math.floor((event.clientX - at.left) / at.width * d.columns);
    const row = Math.floor((event.clientY - at.top) / at.height * d.rows);
    if (column < 0 || row < 0 || column >= d.columns || row * d.columns + column >= d.count) { lens.hidden = true; return; }
    lens.replaceChildren(cell(image, image.src, column, row, d.near ? "this" : ""));
    if (d.near) lens.append(cell(image, d.near, column, row, "nearest training image"));
    place(lens, event.pageX + 14, event.pageY + 14);
  };
  image.addEventListener("pointermove", show);
  image.addEventListener("pointerdown", show);
  image.addEventListener("pointerleave", () => { lens.hidden = true; });
}

// Lines around half and nine tenths of the points: counts on a grid, smoothed, cut at the density that so many exceed.
function contours(x, y, reach) {
  const n = 72, grid = new Float64Array(n * n), bin = v => Math.floor((v + reach) / (2 * reach) * n), inside = [];
  x.forEach((v, i) => {
    const a = bin(v), b = bin(y[i]);
    if (a >= 0 && b >= 0 && a < n && b < n) { grid[b * n + a] += 1; inside.push(b * n + a); }
  });
  const kernel = [...Array(13).keys()].map(k => Math.exp(-(((k - 6) / 2.6) ** 2) / 2));
  const smooth = (from, step, stride) => Float64Array.from(from, (_, i) => kernel.reduce((sum, k, j) => {
    const at = Math.floor(i / stride) % n + j - 6;
    return at < 0 || at >= n ? sum : sum + k * from[i + (j - 6) * step];
  }, 0));
  const f = smooth(smooth(grid, 1, 1), n, n);
  const ranked = inside.map(i => f[i]).sort((a, b) => b - a), lines = [];
  for (const share of [0.5, 0.9]) {
    const level = ranked[Math.floor(share * (ranked.length - 1))];
    for (let b = 0; b < n - 1; b++) for (let a = 0; a < n - 1; a++) {
      const corner = [[a, b], [a + 1, b], [a + 1, b + 1], [a, b + 1]], value = corner.map(([p, q]) => f[q * n + p] - level), cut = [];
      for (let k = 0; k < 4; k++) {
        const m = (k + 1) % 4;
        if (value[k] > 0 === value[m] > 0) continue;
        const t = value[k] / (value[k] - value[m]);
        cut.push(corner[k].map((c, j) => ((c + t * (corner[m][j] - c) + 0.5) / n * 2 - 1) * reach));
      }
      for (let k = 0; k + 1 < cut.length; k += 2) lines.push([cut[k], cut[k + 1], share]);
    }
  }
  return lines;
}

// The contents follow: the last heading above the middle of the window is the current one.
const links = all("#contents a"), headings = links.map(a => $(a.getAttribute("href")));
const follow = () => {
  const at = headings.findLastIndex(h => h.getBoundingClientRect().top < innerHeight / 3), now = links[Math.max(0, at)];
  if (!now || now.ariaCurrent) return;
  links.forEach(a => a.removeAttribute("aria-current"));
  now.setAttribute("aria-current", "true");
  const list = now.closest("ul");
  list.scrollTo({ left: now.offsetLeft - 40 });
};
addEventListener("scroll", follow, { passive: true });
addEventListener("resize", follow);
follow();

addEventListener("beforeprint", () => all("details").forEach(d => { d.open = true; }));

const latent = $("#latent") && JSON.parse($("#latent").textContent), axes = $("#axes");
const PAPER = { "--paper": "#fff", "--line": "#bbb", "--data": "#777", "--mark": "#1f5fa8", "--ink": "#000" };
function drawMaps(printed = false) {
  if (!latent) return;
  const style = getComputedStyle(document.documentElement);
  const colour = name => printed ? PAPER[name] : style.getPropertyValue(name).trim();
  const x = +axes.x.value, y = +axes.y.value, sets = [...(latent.codes ? [latent.codes] : latent.draws.map(d => d.z))];
  const reach = 1.15 * Math.max(...sets.flatMap(s => [...s[x], ...s[y]].map(Math.abs)));
  all(".maps canvas").forEach((canvas, i) => {
    const side = canvas.width, pen = canvas.getContext("2d"), to = v => (v / reach + 1) / 2 * side;
    const draws = latent.draws[i].z;
    pen.fillStyle = colour("--paper");
    pen.fillRect(0, 0, side, side);
    pen.strokeStyle = colour("--line");
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(to(0), 0); pen.lineTo(to(0), side); pen.moveTo(0, to(0)); pen.lineTo(side, to(0));
    pen.stroke();
    for (const [points, name] of [[latent.codes, "--data"], [draws, "--mark"]]) {
      if (!points) continue;
      pen.fillStyle = colour(name);
      pen.globalAlpha = 0.5;
      points[x].forEach((v, k) => { pen.beginPath(); pen.arc(to(v), side - to(points[y][k]), 3.2, 0, 7); pen.fill(); });
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = colour("--ink");
    for (const [from, end, share] of contours(draws[x], draws[y], reach)) {
      pen.lineWidth = share === 0.5 ? 3 : 1.6;
      pen.beginPath();
      pen.moveTo(to(from[0]), side - to(from[1])); pen.lineTo(to(end[0]), side - to(end[1]));
      pen.stroke();
    }
    canvas.setAttribute("aria-label", `${canvas.getAttribute("aria-label").split(":")[0]}: ${latent.axes[x]} across, ${latent.axes[y]} up`);
  });
}
if (axes) {
  axes.onchange = () => drawMaps();
  axes.onsubmit = event => event.preventDefault();
  drawMaps();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawMaps());
  addEventListener("beforeprint", () => drawMaps(true));
  addEventListener("afterprint", () => drawMaps());
}
