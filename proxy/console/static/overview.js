// Savings, quality and health: the server's own metrics beside what the policy foresaw.

import { byId, fill, h } from "./dom.js";
import { count, day, duration, money, moneyInFull, percent, span } from "./format.js";
import { term } from "./words.js";

export function showOverview(o) {
  fill(byId("glance"), saved(o), strong(o), quality(o), promise(o), tiersUp(o));
  byId("since").textContent = `${span(Math.max(0, o.at - o.since))} ago`;
  fill(byId("figures"), h("div", { class: "groups" }, moneyGroup(o), driftGroup(o), answersGroup(o), qualityGroup(o)), tiersTable(o));
}

export function forgetOverview() {
  fill(byId("glance"));
  fill(byId("figures"), h("p", { class: "empty", text: "Savings, quality and health need the admin key." }));
}

const tile = (id, name, value, note, known = true) => h("div", { class: "tile", id: `tile-${id}` },
  h("div", { class: "name" }, name), h("div", { class: known ? "value" : "value unknown" }, value), h("div", { class: "note" }, note));

const priced = (o) => o.tiers.some((tier) => tier.input_usd_per_mtok || tier.output_usd_per_mtok);

function saved(o) {
  const name = term("saved", "Saved so far", "tile");
  if (!priced(o)) return tile("saved", name, "no prices", "set the tiers’ input_usd_per_mtok and output_usd_per_mtok", false);
  if (!o.money.baseline_usd) return tile("saved", name, "nothing yet", "ask something, and see", false);
  return tile("saved", name, [percent(o.money.saved_share), " "],
    h("span", { title: moneyInFull(o.money.saved_usd) }, `${money(o.money.saved_usd)} of ${money(o.money.baseline_usd)}`));
}

function strong(o) {
  const name = term("strong_share", "Answered by strong", "tile"), plan = o.planned_strong_share;
  const said = plan ? `plan: ${percent(plan.expected)} (${percent(plan.low)} to ${percent(plan.high)})` : "no plan: the bundle carries none";
  if (o.strong_share === null) return tile("strong", name, "nothing yet", said, false);
  return tile("strong", name, percent(o.strong_share), said);
}

function planVerdict(o) {
  const plan = o.planned_strong_share;
  if (!plan) return "no plan to compare with";
  if (o.routed < 300) return `too early: ${count(o.routed)} of 300`;
  if (o.strong_share >= plan.low && o.strong_share <= plan.high) return "as planned";
  return "outside (own thresholds count too)";
}

const shadowSetting = () => ["loop.", h("wbr"), "shadow.", h("wbr"), "share"]; // may break there alone

function quality(o) {
  const name = term("quality", "Quality kept", "tile"), q = o.loop.quality;
  if (q.estimate === null) {
    const why = o.loop.shadow.share > 0
      ? `${count(q.waiting)} samples wait for a judge` : ["turn shadow sampling on: ", shadowSetting()];
    return tile("quality", name, "not measured yet", why, false);
  }
  return tile("quality", name, percent(q.estimate, 1), `${percent(q.low, 1)} to ${percent(q.high, 1)}, ${count(q.judged)} judged`);
}

function promise(o) {
  const name = term("certificate", "Promise", "tile"), p = o.promise;
  if (p.state !== "valid") return tile("promise", name, { none: "none", refused: "refused", ended: "ended", other: "none" }[p.state], "see the operating point below", false);
  if (o.loop.certificate.state === "ended") return tile("promise", name, "ended", `by ${o.loop.certificate.ended_by.join(", ")}`, false);
  if (!o.point.certified) return tile("promise", name, "not here", "the operating point is outside of it", false);
  return tile("promise", name, `≥ ${percent(p.quality)}`, `of strong’s quality, until ${day(p.valid_until)}`);
}

function tiersUp(o) {
  const up = o.tiers.filter((tier) => tier.up).length;
  const open = o.tiers.reduce((sum, tier) => sum + tier.open_circuits, 0);
  return tile("tiers", "Models", `${up} of ${o.tiers.length} up`, [`${count(o.in_flight)} requests in flight`, open ? `; ${open} circuits open` : ""]);
}

const list = (title, entries) => h("div", {}, h("h3", { text: title }),
  h("dl", { class: "list" }, entries.filter(Boolean).map(([id, name, value, hint]) =>
    h("div", {}, h("dt", {}, name), h("dd", { id: `f-${id}`, title: hint ?? null }, value)))));

function moneyGroup(o) {
  const m = o.money, usd = (value) => [money(value), moneyInFull(value)];
  return list("Money", [
    ["cost", "Paid, rejected answers included", ...usd(m.cost_usd)],
    ["baseline", term("baseline", "Always-strong instead", "list"), ...usd(m.baseline_usd)],
    ["estimated", "… of that estimated", ...usd(m.estimated_usd)],
    ["saved", term("saved", "Saved", "list"), ...usd(m.saved_usd)],
    o.loop.savings.shadow_usd ? ["shadow", "Spent on shadow samples", ...usd(o.loop.savings.shadow_usd)] : null,
  ]);
}

function answersGroup(o) {
  const requests = Object.values(o.requests).reduce((sum, value) => sum + value, 0);
  const d = o.decisions, plan = o.planned_strong_share;
  return list("Answers", [
    ["requests", "Requests", count(requests)],
    ["weak", "Kept at the first model", count(d.weak)],
    ["escalated", "Shifted up after a check", count(d.escalated)],
    ["strong", "Sent straight to strong", count(d.strong)],
    ["pinned", "Asked for by name", count(d.pinned)],
    d.degraded ? ["degraded", "Degraded", count(d.degraded)] : null,
    ["share", term("strong_share", "Share of strong", "list"), percent(o.strong_share, 1)],
    ["plan", term("plan", "Planned", "list"), plan ? `${percent(plan.expected, 1)} (${percent(plan.low)} to ${percent(plan.high)})` : "not known"],
    ["verdict", "Against plan", planVerdict(o)],
    ["latency", "Half are done within", duration(o.request_p50_s)],
    ["slow", "95 of 100 within", duration(o.request_p95_s)],
    ...Object.entries(o.requests).filter(([name, value]) => name !== "ok" && value)
      .map(([name, value]) => [`outcome-${name}`, `Outcome: ${name.replace("_", " ")}`, count(value)]),
    ...Object.entries(o.scorer_failures).map(([name, value]) => [`scorer-${name}`, `Scorer ${name} failed`, count(value)]),
  ]);
}

function qualityGroup(o) {
  const q = o.loop.quality, p = o.promise, c = o.loop.certificate;
  return list("Quality", [
    ["quality", term("quality", "Live quality", "list"), q.estimate === null ? "not measured yet" : `${percent(q.estimate, 1)} (${percent(q.low, 1)} to ${percent(q.high, 1)})`],
    q.estimate === null && !(o.loop.shadow.share > 0) ? ["how", "To measure it", ["set ", shadowSetting()]] : ["judged", "Judged, waiting", `${count(q.judged)}, ${count(q.waiting)}`],
    q.feedback ? ["feedback", "Clients’ feedback", `${q.feedback_mean?.toFixed(2) ?? "–"} from ${count(q.feedback)}`] : null,
    ["certificate", term("certificate", "Certificate", "list"), c.state === "ended" ? "ended" : { none: "none", refused: "refused", valid: "valid", ended: "ended", other: "of another strategy" }[p.state]],
    p.state === "valid" ? ["until", "Valid until", day(p.valid_until)] : null,
    ["policy", term("bundle", "Policy in force", "list"), o.point.version],
    ["strategy", "Strategy, threshold", `${o.point.strategy}, ${o.point.threshold.toFixed(3)}${o.point.moved_at ? " (moved)" : ""}`],
    o.loop.canary.state !== "none" ? ["canary", "Canary", `${o.loop.canary.state.replace("_", " ")}, ${percent(o.loop.canary.share)}`] : null,
  ]);
}

function driftGroup(o) {
  const signals = o.loop.drift.signals;
  if (!signals.length) {
    return h("div", {}, h("h3", {}, term("drift", "Drift", "list")), h("p", { class: "empty", text: "Not measured yet: it needs live traffic to compare with the calibration prompts." }));
  }
  return h("div", {}, h("h3", {}, term("drift", "Drift", "list")), h("dl", { class: "list" }, signals.map((signal) =>
    h("div", {}, h("dt", { text: signal.name.replaceAll("_", " ") }),
      h("dd", { id: `drift-${signal.name}` }, signal.value === null ? `too few yet (${count(signal.rows)})`
        : [`${signal.value.toFixed(2)} of ${signal.threshold.toFixed(2)} `, signal.alarmed ? h("span", { class: "badge failed", text: "alarm" }) : h("span", { class: "badge weak", text: "fine" })])))));
}

function tiersTable(o) {
  const cell = (label, value, more = {}) => h("td", { "data-label": label, ...more }, value);
  return h("div", { class: "tiers" }, h("h3", { text: "Models" }), h("table", {},
    h("thead", {}, h("tr", {}, ["Tier", "Model", "State"].map((name) => h("th", { scope: "col", text: name })),
      ["In flight", "Calls", "Failed", "Half within", "95 % within", "Paid"].map((name) => h("th", { scope: "col", class: "n", text: name })))),
    h("tbody", {}, o.tiers.map((tier, index) => h("tr", { id: `tier-${tier.name}` },
      cell("Tier", h("span", { class: `badge ${index === 0 ? "weak" : "strong"}`, text: tier.name })),
      cell("Model", tier.model),
      cell("State", tier.up ? (tier.open_circuits ? h("span", {}, "up, ", term("circuit", `${tier.open_circuits} circuit open`, `tier-${tier.name}`)) : "up") : h("span", { class: "badge failed", text: "down" })),
      cell("In flight", count(tier.in_flight), { class: "n" }), cell("Calls", count(tier.calls), { class: "n" }),
      cell("Failed", count(tier.failed), { class: "n" }), cell("Half within", duration(tier.p50_s), { class: "n" }),
      cell("95 % within", duration(tier.p95_s), { class: "n" }),
      cell("Paid", money(tier.cost_usd), { class: "n", title: moneyInFull(tier.cost_usd) }))))));
}
