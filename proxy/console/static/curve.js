// The bundle's cost-quality curve, and the operating point on it to move.

import { admin, Failure } from "./api.js";
import { byId, fill, h, svg } from "./dom.js";
import { percent } from "./format.js";
import { tryPoint } from "./playground.js";
import { term } from "./words.js";

let curve = null, point = null, chosen = 0, built = "", message = null;
let onKeyNeeded = () => {}, onMoved = () => {};

export function startCurve(keyNeeded, moved) {
  onKeyNeeded = keyNeeded;
  onMoved = moved;
  new ResizeObserver(() => drawChart()).observe(byId("curve"));
}

/** Fetch it again when the policy or its point has changed. */
export async function followPoint(next) {
  point = next;
  const mark = JSON.stringify([next.version, next.strategy, next.threshold]);
  if (mark === built) return;
  curve = await admin("curve");
  built = mark;
  chosen = Math.max(0, curve.points.findIndex((one) => one.in_force));
  build();
}

export function forgetCurve() {
  built = "";
  curve = null;
  byId("point-sub").textContent = "";
  fill(byId("curve"), h("p", { class: "empty", text: "The curve needs the admin key." }));
}

function build() {
  byId("point-sub").textContent = curve.points.length
    ? `Strategy “${curve.strategy}” of bundle ${curve.version}, on its ${curve.prompts} calibration prompts.` : "";
  if (!curve.points.length) {
    fill(byId("curve"), h("p", { class: "empty", text: curve.missing }), promiseBox());
    return;
  }
  byId("curve").replaceChildren(h("div", { class: "curve" },
    h("div", {},
      h("div", { id: "chart" }), legend(),
      h("label", { for: "slider", text: "Move the operating point" }),
      h("input", { id: "slider", type: "range", min: 0, max: curve.points.length - 1, step: 1, oninput: (event) => choose(Number(event.target.value)) }),
      h("div", { class: "ends" }, h("span", { text: "safe: always strong" }), h("span", { text: "cheap: never strong" }))),
    h("div", { id: "point-facts" })));
  byId("slider").value = String(chosen);
  choose(chosen);
}

function choose(index) {
  chosen = index;
  const one = curve.points[chosen];
  byId("slider").setAttribute("aria-valuetext",
    `${percent(one.strong_share)} answered by strong, cost ${percent(one.cost)}, quality ${percent(one.quality, 1)} of always-strong${one.certified ? ", certified" : ""}`);
  drawChart();
  showFacts();
}

function showFacts() {
  const one = curve.points[chosen];
  const marks = [one.in_force ? h("span", { class: "badge", text: "in force" }) : null, one.calibrated ? h("span", { class: "badge", text: "calibrated" }) : null,
    one.certified ? h("span", { class: "badge weak", text: "certified" }) : null];
  fill(byId("point-facts"),
    h("p", { class: "verdict" }, h("strong", { text: `Threshold ${one.threshold.toFixed(3)}` }), marks),
    h("dl", { class: "list" },
      fact("strong", term("strong_share", "Answered by strong", "curve"), percent(one.strong_share, 1)),
      fact("cost", "Cost, of always-strong’s", one.cost === null ? "not known" : percent(one.cost, 1)),
      fact("quality", "Quality, of always-strong’s", one.quality === null ? "not known" : percent(one.quality, 1)),
      fact("interval", term("interval", "… its 95 % interval", "curve"), one.low === null ? "not known" : `${percent(one.low, 1)} to ${percent(one.high, 1)}`)),
    promiseBox(one),
    h("div", { class: "actions" },
      h("button", { type: "button", id: "try-point", text: "Try it in the playground", onclick: () => tryPoint(curve.strategy, Math.min(1, curve.points[chosen].threshold)) }),
      h("button", { type: "button", id: "apply-point", class: "primary", disabled: one.in_force || !one.allowed,
        "aria-describedby": "apply-note", text: "Put it in force for all", onclick: apply }),
      point?.moved_at ? h("button", { type: "button", id: "reset-point", text: `Back to the calibrated point (${point.calibrated.toFixed(3)})`, onclick: () => move(null) }) : null,
      h("p", { class: "small", id: "apply-note", text: applyNote(one) }),
      message ? h("p", { class: message.bad ? "error" : "small", role: "status", id: "point-message", text: message.text }) : null));
}

const fact = (id, name, value) => h("div", {}, h("dt", {}, name), h("dd", { id: `point-${id}`, text: value }));

function applyNote(one) {
  if (one.in_force) return "This point decides now. Trying one affects the playground alone.";
  if (one.allowed) return "For all requests to this server that name no threshold themselves, until a reload or restart. Needs the admin key and is logged.";
  return curve.promise.state === "valid" ? "Not allowed: the certificate does not hold here. It can be tried in the playground." : "This point can only be tried.";
}

function promiseBox(one) {
  const p = curve.promise, name = term("certificate", "certificate", "curve");
  if (p.state !== "valid") return h("div", { class: "promise" }, p.reason, " What a ", name, " is.");
  if (one && !one.certified) return h("div", { class: "promise" }, "The ", name, " does not hold at this point: nothing is promised.");
  return h("div", { class: "promise holds" },
    `Promised with ${percent(p.confidence)} confidence: at least ${percent(p.quality)} of strong’s mean quality`,
    p.max_worse ? `, and at most ${percent(p.max_worse, 1)} of answers kept although worse` : "",
    ` (`, name, `, proved on ${p.prompts} prompts).`);
}

function legend() {
  const mark = (child, text) => h("li", {}, svg("svg", { width: 22, height: 12, viewBox: "0 0 22 12", class: "key", "aria-hidden": "true" }, child), text);
  const certified = curve.points.some((one) => one.certified);
  return h("ul", { class: "legend" },
    mark(svg("line", { class: "path", x1: 1, x2: 21, y1: 6, y2: 6 }), "the policy"),
    mark(svg("rect", { class: "band", x: 1, width: 20, y: 1, height: 10 }), "its 95 % interval"),
    h("li", {}, svg("svg", { width: 22, height: 12, viewBox: "0 0 22 12", class: "key", "aria-hidden": "true" }, svg("line", { class: "coin", x1: 1, x2: 21, y1: 6, y2: 6 })), term("coin", "a coin", "legend")),
    certified ? mark(svg("circle", { class: "dot certified", cx: 11, cy: 6, r: 4 }), "certified") : null,
    mark(svg("path", { class: "force", d: "M11 1l5 10h-10z" }), "in force"),
    mark(svg("circle", { class: "chosen", cx: 11, cy: 6, r: 4.5 }), "chosen"));
}

function drawChart() {
  const box = byId("chart");
  if (!box || !curve?.points.length) return;
  const width = Math.max(240, Math.round(box.clientWidth)), height = Math.round(Math.min(340, Math.max(220, width * 0.55)));
  const left = 46, right = 14, top = 14, bottom = 42;
  const known = curve.points.filter((one) => one.quality !== null);
  if (!known.length) { fill(box, h("p", { class: "empty", text: "Strong is never right on these prompts: there is no quality to draw." })); return; }
  const byCost = curve.points.every((one) => one.cost !== null);
  const at = (one) => (byCost ? one.cost : one.strong_share);
  const weak = { x: byCost ? curve.weak_cost : 0, y: curve.weak_quality };
  const lowX = 0, highX = Math.max(1, ...known.map(at)) + 0.02;
  const lowY = Math.floor((Math.min(weak.y, ...known.map((one) => one.low)) - 0.02) * 20) / 20;
  const highY = Math.max(1.02, ...known.map((one) => one.high)) + 0.01;
  const x = (value) => left + (value - lowX) / (highX - lowX) * (width - left - right);
  const y = (value) => height - bottom - (value - lowY) / (highY - lowY) * (height - top - bottom);
  const line = known.map((one) => `${x(at(one)).toFixed(1)},${y(one.quality).toFixed(1)}`);
  const band = [...known.map((one) => `${x(at(one)).toFixed(1)},${y(one.high).toFixed(1)}`),
    ...[...known].reverse().map((one) => `${x(at(one)).toFixed(1)},${y(one.low).toFixed(1)}`)];
  const ticksX = [0, 0.25, 0.5, 0.75, 1, 1.25].filter((value) => value <= highX);
  const stepY = highY - lowY > 0.4 ? 0.1 : 0.05;
  const ticksY = Array.from({ length: 30 }, (_, index) => Math.round((Math.ceil(lowY / stepY) + index) * stepY * 100) / 100).filter((value) => value <= highY);
  const force = known.find((one) => one.in_force), picked = curve.points[chosen];
  const label = `Quality against ${byCost ? "cost" : "share of strong calls"}, both as shares of always-strong. Use the slider below to move along the curve.`;
  const drawing = svg("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, onclick: (event) => pick(event, drawing, known, at, x, y) },
    ticksX.map((value) => [svg("line", { class: "grid", x1: x(value), x2: x(value), y1: top, y2: height - bottom }), svg("text", { x: x(value), y: height - bottom + 16, "text-anchor": "middle" }, percent(value))]),
    ticksY.map((value) => [svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }), svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, percent(value))]),
    svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, byCost ? "cost, of always-strong’s →" : "share answered by strong →"),
    svg("text", { x: left, y: 10, "text-anchor": "start" }, "↑ quality, of always-strong’s"),
    svg("polygon", { class: "band", points: band.join(" ") }),
    svg("line", { class: "coin", x1: x(weak.x), y1: y(weak.y), x2: x(1), y2: y(1) }),
    svg("polyline", { class: "path", points: line.join(" ") }),
    known.map((one) => svg("circle", { class: one.certified ? "dot certified" : "dot", cx: x(at(one)), cy: y(one.quality), r: one.certified ? 4 : 2.6 })),
    force ? svg("path", { class: "force", d: `M${x(at(force))} ${y(force.quality) + 5}l7 13h-14z` }) : null,
    picked.quality === null ? null : svg("circle", { class: "chosen", cx: x(at(picked)), cy: y(picked.quality), r: 8 }));
  box.replaceChildren(drawing);
}

function pick(event, drawing, known, at, x, y) {
  const area = drawing.getBoundingClientRect();
  const away = (one) => Math.hypot(x(at(one)) - (event.clientX - area.left), y(one.quality) - (event.clientY - area.top));
  const nearest = known.reduce((best, one) => (away(one) < away(best) ? one : best));
  byId("slider").value = String(curve.points.indexOf(nearest));
  choose(curve.points.indexOf(nearest));
}

function apply() {
  const one = curve.points[chosen];
  const promise = curve.promise.state === "valid" ? "The certificate holds for it." : "Nothing is promised there: this bundle has no certificate that holds.";
  fill(byId("confirm-text"),
    h("p", { text: `From now on strong answers about ${percent(one.strong_share)} of the requests, at ${percent(one.cost)} of always-strong’s cost and ${percent(one.quality, 1)} of its quality, if they are like the calibration prompts.` }),
    h("p", { text: promise }),
    h("p", { text: "It holds for every worker of this server until a reload or restart. To keep it, set routing.threshold in the configuration." }));
  const dialog = byId("confirm");
  dialog.returnValue = "";
  dialog.onclose = () => { if (dialog.returnValue === "yes") move(one.threshold); };
  dialog.showModal();
}

async function move(threshold) {
  try {
    const now = await admin("operating-point", { threshold, version: curve.version });
    message = { text: `Done: threshold ${now.threshold.toFixed(3)} decides from now on.` };
    onMoved(now);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    message = { bad: true, text: error.message };
    if (error.needsKey) onKeyNeeded(error, "admin-key");
    showFacts();
  }
}
