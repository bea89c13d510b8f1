// The page: what is looked at, and what each control changes. `model.js` decodes: by the server, or in the browser.
import { ask, decode, open } from "./model.js";
import { $, colour, dot, drawCurves, drawMap, drawTried, make, plane, short, showX } from "./draw.js";

const state = { z: [], source: null, picked: [], shared: null, ways: null, stop: null, tried: [], now: null, next: 0, ratio: null, known: new Map() };
let scene, view, sources, working = 0;

const fail = error => { $("#error").hidden = !error; $("#error").textContent = error ? error.message : ""; };

const begin = () => { document.documentElement.dataset.busy = ++working; };
const end = () => { if (!--working) delete document.documentElement.dataset.busy; };

// One request at a time: while one is on its way, only the newest of those that come is kept.
function latest(work) {
  let busy = false, waiting = null;
  return async (...given) => {
    waiting = given;
    if (busy) return;
    busy = true;
    begin();
    while (waiting) {
      const now = waiting;
      waiting = null;
      try { await work(...now); fail(null); } catch (error) { fail(error); }
    }
    busy = false;
    end();
  };
}

const decodeNow = latest(async z => {
  const source = state.source.name, { x, log_ratio } = await decode(z, source);
  $("#made").replaceChildren(showX(x, scene, "x′"));
  state.ratio = log_ratio;
  told();
});

function told() {
  const [a, b] = view.of(state.z), radius = Math.sqrt(dot(state.z, state.z));
  const ratio = state.ratio === null || state.source.name === "prior" ? "" : `, log r(z′) − log p(z′) = ${short(state.ratio)} nats`;
  $("#where").textContent = `z′ at ${short(a)} across and ${short(b)} up, ${short(radius)} from 0${ratio}`;
}

function moved(z, stop = null) {
  state.z = z;
  state.stop = stop;
  document.querySelectorAll(".stop").forEach(b => b.setAttribute("aria-pressed", b === stop));
  told();
  redraw();
  decodeNow(z);
}

const on = list => list.map(view.of);
let frame = 0;
// A frame that is to be painted is work too: whoever waits until nothing is busy sees the newest state.
function redraw() {
  if (frame) return;
  begin();
  frame = requestAnimationFrame(() => { frame = 0; try { paint(); } finally { end(); } });
}
function paint() {
  const rows = scene.rows ? scene.rows.z : [], prior = sources[0].draws, last = state.picked.at(-1), q = last === undefined ? null : state.known.get(last);
  const gaussians = [];
  if (q && q.posterior) gaussians.push([q.posterior, [5, 4], 1.4]);
  if (state.shared && state.shared.ok) gaussians.push([state.shared.posterior, [], 2.2]);
  const ways = state.ways ? [["straight", "ink", [3, 4]], ["through", "mark", []]].map(([way, name, dash]) => ({ name, dash, points: on(state.ways[way].map(s => s.z)) })) : [];
  const codes = on(rows), draws = on(state.source.draws);
  const reach = 1.12 * Math.max(2.6, ...[...codes, ...draws, ...(scene.standard ? [] : on(prior))].flat().map(Math.abs));
  state.reach = reach;
  drawMap($("#map"), { reach, codes, draws, prior: scene.standard ? [] : on(prior), standard: scene.standard, plane: view, ways, gaussians,
    picked: state.picked.map(i => view.of(scene.rows.z[i])), at: view.of(state.z) });
  const names = scene.axes.names, across = view.across, along = z => dot(z, scene.axes.directions[across]);
  drawCurves($("#curve"), { reach, standard: scene.standard, prior: prior.map(along), draws: state.source.draws.map(along), at: along(state.z),
    gaussians: gaussians.map(([g, dash, width]) => [g.mean[across], Math.sqrt(g.covariance[across][across]), dash, width]) });
  $("#map").setAttribute("aria-label", `${names[across]} across, ${names[view.up]} up; z′ from ${state.source.label}`);
  $("#curve").setAttribute("aria-label", `Densities of z along ${names[across]}`);
  $("#axis").textContent = names[across];
  legend(q);
  if (state.tried.length) drawTried($("#tried-map"), state.tried, state.now);
}

function legend(q) {
  const parts = [["mark", "", `draws from ${state.source.label}`], ["second", scene.standard ? "line" : "", scene.standard ? "prior: around half and nine tenths" : "draws from the prior"]];
  if (scene.rows) parts.splice(1, 0, ["data", "", `codes of ${scene.rows.z.length} training rows`]);
  if (q && q.posterior) parts.push(["third", "line", "posterior of the last one picked (broken)"]);
  if (state.shared && state.shared.ok) parts.push(["third", "line", "p(z|D) of those picked (solid)"]);
  $("#key").replaceChildren(...parts.map(([name, form, text]) => {
    const mark = make("i", { className: form });
    mark.style.background = colour(name);
    return make("li", {}, mark, text);
  }));
  const curves = `Densities along this axis: ${scene.standard ? "the prior" : "the prior (smoothed draws)"} grey, r (smoothed draws) blue`;
  $("#curve-note").textContent = `${curves}${q && q.posterior ? ", posterior and p(z|D) green (narrow ones are cut at the top)" : ""}. The tick is z′.`;
}

function axes() {
  view = plane(scene.axes.directions, +$("#across").value, +$("#up").value);
  told();
  sharedSays();
  redraw();
}

function choose(name) {
  state.source = sources.find(s => s.name === name) || sources[0];
  $("#source").value = state.source.name;
  state.next = 0;
  state.ways = null;
  drawAnother();
  way();
}
function drawAnother() {
  const draws = state.source.draws;
  moved(draws[state.next++ % draws.length]);
}

// -- data ---------------------------------------------------------------------------------------------------------------

const title = i => `row ${scene.rows.ids[i]}${scene.rows.labels ? ` · label ${scene.rows.labels[i]}` : ""}`;
function toggle(i) {
  const at = state.picked.indexOf(i);
  if (at >= 0) state.picked.splice(at, 1);
  else if (state.picked.length < scene.most.shared) state.picked.push(i);
  changed();
}
function changed() {
  const n = state.picked.length, first = $("#first");
  $("#picked").replaceChildren(...state.picked.map(i => {
    const button = make("button", { type: "button", ariaLabel: `${title(i)}: take it out` }, `${title(i)} ✕`);
    button.onclick = () => toggle(i);
    return make("li", {}, button);
  }));
  first.max = Math.max(1, n);
  first.value = n;
  first.disabled = n < 2;
  state.shared = state.ways = null;
  $("#like").hidden = !scene.rows.labels;
  for (const id of ["#datum", "#shared", "#ways"]) $(id).replaceChildren();
  for (const id of ["#datum-says", "#shared-says"]) $(id).textContent = "";
  $("#first-n").textContent = n;
  $("#ways-says").textContent = n < 2 ? "Pick two data." : "";
  datum();
  share();
  way();
  redraw();
}

const datum = latest(async () => {
  const i = state.picked.at(-1);
  if (i === undefined) return;
  if (!state.known.has(i)) state.known.set(i, await ask("row", { rows: i }));
  if (state.picked.at(-1) !== i) return;
  const found = state.known.get(i), figure = (x, words) => make("figure", {}, showX(x, scene, words), make("figcaption", {}, words));
  $("#datum").replaceChildren(...(found.x ? [figure(found.x, `x, ${title(i)}`)] : []), figure(found.made, found.posterior ? "decoded from the mean of its posterior" : "decoded from its code"));
  $("#datum-says").textContent = found.posterior ? "Its posterior is drawn on the map and along the axis, beside r." : "There is a code only: this encoder gives no posterior.";
  redraw();
});

const share = latest(async () => {
  const rows = state.picked.slice(0, +$("#first").value);
  if (!rows.length || !state.picked.length) return;
  const key = rows.join(",");
  if (!state.known.has(`shared ${key}`)) state.known.set(`shared ${key}`, await ask("shared", { rows: key }));
  if (state.picked.slice(0, +$("#first").value).join(",") !== key) return;
  state.shared = state.known.get(`shared ${key}`);
  $("#first-n").textContent = rows.length;
  $("#shared").replaceChildren(...(state.shared.ok ? [make("figure", {}, showX(state.shared.made, scene, "decoded from its mean"), make("figcaption", {}, "decoded from its mean"))] : []));
  sharedSays();
  redraw();
});
function sharedSays() {
  const s = state.shared;
  if (!s) return;
  const sd = s.ok ? Math.sqrt(s.posterior.covariance[view.across][view.across]) : 0;
  $("#shared-says").textContent = s.ok ? `Standard deviation along ${scene.axes.names[view.across]}: ${short(sd)}. The more data share one latent, the narrower p(z|D) is: its draws make one average datum over and over.` : s.says;
}

const way = latest(async () => {
  const [a, b] = state.picked, source = state.source.name;
  if (b === undefined) return;
  const found = await ask("between", { rows: `${a},${b}`, source });
  if (state.picked[0] !== a || state.picked[1] !== b || state.source.name !== source) return;
  state.ways = found;
  const lowest = stops => stops.some(s => s.log_ratio === null) ? "" : `, lowest log r − log p ${short(Math.min(...stops.map(s => s.log_ratio)))} nats`;
  const strip = (way, words) => [make("p", { className: "note" }, `${words}${lowest(found[way])}`), make("div", { className: "way" }, ...found[way].map((s, k) => {
    const button = make("button", { type: "button", className: "stop", ariaLabel: `${words}, stop ${k + 1}` }, scene.image ? showX(s.x, scene, "") : `${k + 1}`);
    button.setAttribute("aria-pressed", "false");
    button.onclick = () => moved(s.z, button);
    return button;
  }))];
  $("#ways").replaceChildren(...strip("straight", "Straight (dotted)"), ...strip("through", `Through draws of ${state.source.label} (blue)`));
  $("#ways-says").textContent = "A click on a stop moves z′ there.";
  redraw();
});

// -- other settings -----------------------------------------------------------------------------------------------------

const trying = latest(async (setting, value) => {
  $("#try-says").textContent = `Fitting ${setting} = ${value} …`;
  try {
    const found = state.tried.find(t => t.tag === tag(setting, value)) || { ...await ask("try", { setting, value }), tag: tag(setting, value) };
    if (!state.tried.includes(found)) {
      state.tried.push(found);
      sources.push(found.source);
      $("#source").append(make("option", { value: found.source.name }, `${found.source.label} (tried: ${found.tag})`));
    }
    state.now = found;
    table();
    choose(found.source.name);
    $("#try-says").textContent = `${found.tag}: gain ${gain(found)} nats${found.copies === null ? "" : found.copies ? "; its samples copy training rows" : "; no copying was found"}. It is what z′ is drawn from now.`;
  } catch (error) { $("#try-says").textContent = ""; throw error; }
});
const gain = t => `${t.gain.toFixed(2)}${t.half === null ? "" : ` ± ${t.half.toFixed(2)}`}`.replace("-", "−");
const tag = (setting, value) => `${setting === "components" ? "K" : "h"} = ${value}`;
function table() {
  $("#tried").hidden = $("#tried-figure").hidden = false;
  $("#tried tbody").replaceChildren(...state.tried.map(t => make("tr", { className: t === state.now ? "now" : "" },
    make("th", { scope: "row" }, t.tag), make("td", {}, gain(t)), make("td", {}, t.stored),
    make("td", {}, t.nearer ? `${t.nearer[0].toFixed(2)} (${t.nearer[1].toFixed(2)} to ${t.nearer[2].toFixed(2)})` : "–"),
    make("td", {}, t.copies === null ? "–" : t.copies ? "yes" : "not found"))));
  $("#tried-map").setAttribute("aria-label", "Gain of what was tried against the chance that a sample is nearer to a training row than a reconstruction of an unseen row");
}
function sliders() {
  const { tries } = scene;
  $(".tries").hidden = !Object.keys(tries).length;
  for (const setting of ["components", "bandwidth"]) {
    const slide = $(`#${setting}`), values = tries[setting] || [];
    $(`#s-${setting}`).hidden = !values.length;
    if (!values.length) continue;
    slide.max = values.length - 1;
    slide.value = Math.floor(values.length / 2);
    const say = () => { $(`#${setting}-n`).textContent = values[+slide.value]; slide.setAttribute("aria-valuetext", values[+slide.value]); };
    say();
    slide.oninput = say;
    slide.onchange = () => trying(setting, values[+slide.value]);
  }
}

// -- the map ------------------------------------------------------------------------------------------------------------

function pointer() {
  const map = $("#map");
  const place = event => {
    const box = map.getBoundingClientRect(), put = v => Math.max(-1, Math.min(1, v)) * state.reach;
    return [put(2 * (event.clientX - box.left) / box.width - 1), put(1 - 2 * (event.clientY - box.top) / box.height)];
  };
  const picking = () => $("#mode").mode.value === "pick";
  const move = event => moved(view.move(state.z, place(event)));
  map.onpointerdown = event => {
    if (event.button) return;
    if (picking()) {
      const [x, y] = place(event), far = scene.rows.z.map(view.of).map(([a, b]) => Math.hypot(a - x, b - y));
      toggle(far.indexOf(Math.min(...far)));
      return;
    }
    map.setPointerCapture(event.pointerId);
    move(event);
  };
  map.onpointermove = event => { if (map.hasPointerCapture(event.pointerId)) move(event); };
  map.onkeydown = event => {
    const step = state.reach / (event.shiftKey ? 8 : 40), by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[event.key];
    if (!by) return;
    event.preventDefault();
    const [x, y] = view.of(state.z);
    moved(view.move(state.z, [x + by[0], y + by[1]]));
  };
}

function data() {
  document.querySelectorAll(".data").forEach(part => { part.hidden = !scene.rows; });
  if (!scene.rows) return;
  const free = only => scene.rows.z.map((_, i) => i).filter(i => !state.picked.includes(i) && only(i)), any = list => list[Math.floor(Math.random() * list.length)];
  $("#random").onclick = () => { const i = any(free(() => true)); if (i !== undefined) toggle(i); };
  $("#like").onclick = () => {
    const label = scene.rows.labels[state.picked[0] ?? any(free(() => true))];
    for (let k = 0; k < 5 && state.picked.length < scene.most.shared; k++) {
      const i = any(free(j => scene.rows.labels[j] === label));
      if (i !== undefined) state.picked.push(i);
    }
    changed();
  };
  $("#clear").onclick = () => { state.picked = []; changed(); };
  $("#add").onsubmit = event => {
    event.preventDefault();
    const i = scene.rows.ids.indexOf(+$("#id").value);
    if (i < 0 || !$("#id").value.trim()) return fail(new Error(`No row ${$("#id").value} on the map; it shows ${scene.rows.ids.length} training rows, such as ${scene.rows.ids.slice(0, 3).join(", ")}.`));
    if (!state.picked.includes(i)) toggle(i);
    return fail(null);
  };
  $("#first").oninput = () => { $("#first-n").textContent = $("#first").value; share(); };
  changed();
}

async function start() {
  scene = await ask("scene.json");
  await open(scene);
  sources = scene.sources;
  const names = scene.axes.names, list = select => { select.replaceChildren(...names.map((n, i) => make("option", { value: i }, n))); };
  list($("#across")); list($("#up"));
  $("#up").value = Math.min(1, names.length - 1);
  $("#source").replaceChildren(...sources.map(s => make("option", { value: s.name }, s.label)));
  $("#name").textContent = scene.name;
  $("#about").textContent = `Every point of the map is a latent z of ${scene.d} dimensions, seen along two axes. Which distribution should z′ be drawn from?`;
  state.source = sources.find(s => s.name === scene.choice) || sources[0];
  state.z = state.source.draws[0];
  $("#all").hidden = false;
  view = plane(scene.axes.directions, 0, +$("#up").value);
  data();
  sliders();
  pointer();
  $("#across").onchange = $("#up").onchange = axes;
  $("#source").onchange = () => choose($("#source").value);
  for (const id of ["#looks", "#mode"]) $(id).onsubmit = event => event.preventDefault();
  $("#draw").onclick = drawAnother;
  $("#centre").onclick = () => moved(Array(scene.d).fill(0));
  $("#theme").onclick = () => {
    const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches, now = root.dataset.theme || (dark ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    redraw();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", redraw);
  choose(state.source.name);
  document.documentElement.dataset.ready = "yes";
}
start().catch(fail);
