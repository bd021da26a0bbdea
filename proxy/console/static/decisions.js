// Live decisions: the last ones of all workers, as they come.

import { admin } from "./api.js";
import { byId, fill, h } from "./dom.js";
import { clockTime, duration, money, moneyInFull, score } from "./format.js";
import { decision, reason, term } from "./words.js";

const KEPT = 200, OVERLAP_S = 1;
let rows = [], seen = new Set(), firstTier = "", paused = false, fresh = new Set();

export function startDecisions() {
  byId("filter").addEventListener("change", render);
  byId("search").addEventListener("input", render);
  byId("pause").addEventListener("click", () => {
    paused = !paused;
    byId("pause").setAttribute("aria-pressed", String(paused));
    byId("pause").textContent = paused ? "Go on" : "Pause";
    showState(paused ? "Paused by you" : "Live");
  });
}

export const isPaused = () => paused;
export const setFirstTier = (name) => { firstTier = name; };

/** One look at what is new; gives the newest. */
export async function pollDecisions() {
  const since = rows.length ? Math.max(0, rows[0].at - OVERLAP_S) : 0;
  const told = await admin(`decisions?since=${since}&limit=${rows.length ? 256 : 100}`);
  const arrived = told.decisions.filter((row) => !seen.has(keyOf(row)));
  fresh = new Set(rows.length ? arrived.map(keyOf) : []);
  rows = [...arrived, ...rows].sort((a, b) => b.at - a.at).slice(0, KEPT);
  seen = new Set(rows.map(keyOf));
  render();
  return rows[0];
}

export function showState(text) {
  if (byId("live-state").textContent !== text) byId("live-state").textContent = text;
}

const keyOf = (row) => `${row.id}@${row.at}`;

function matches(row) {
  const wanted = byId("filter").value, words = byId("search").value.trim().toLowerCase();
  if (wanted === "failed" ? row.outcome === "ok" : wanted && row.decision !== wanted) return false;
  return !words || [row.tier, row.decision, row.reason, reason(row.reason), row.strategy, row.request_id, row.api, row.outcome, row.prompt ?? ""]
    .some((text) => text.toLowerCase().includes(words));
}

function render() {
  const found = rows.filter(matches);
  if (!found.length) {
    fill(byId("decisions"), h("p", { class: "empty", text: rows.length
      ? `None of the last ${rows.length} decisions fits. Choose “all” to see them.`
      : "No decisions yet. Ask something above or send a request to this server: each answer shows up here within two seconds, without its text." }));
    return;
  }
  fill(byId("decisions"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Decisions, newest first" },
    h("table", {},
      h("thead", {}, h("tr", {},
        h("th", { scope: "col", text: "Time" }), h("th", { scope: "col", text: "Answered by" }),
        h("th", { scope: "col", text: "Why" }),
        h("th", { scope: "col", class: "n" }, term("hard", "Hard", "live")),
        h("th", { scope: "col", class: "n" }, term("adequate", "Good", "live")),
        h("th", { scope: "col", class: "n" }, term("micro", "Cost", "live")),
        h("th", { scope: "col", class: "n", text: "Took" }))),
      h("tbody", {}, found.map(line)))));
}

function line(row) {
  const failed = row.outcome !== "ok";
  return h("tr", { class: fresh.has(keyOf(row)) ? "new" : null },
    cell("Time", { title: row.request_id }, clockTime(row.at)),
    cell("Answered by", {}, h("span", {}, h("span", { class: `badge ${row.tier === firstTier ? "weak" : "strong"}`, text: row.tier }), " ",
      h("span", { class: `badge ${row.decision}`, text: decision(row.decision) }),
      failed ? [" ", h("span", { class: "badge failed", text: row.outcome.replace("_", " ") })] : null)),
    cell("Why", {}, h("span", {}, reason(row.reason), row.prompt ? [h("br"), h("span", { class: "quote", text: `“${row.prompt}”` })] : null)),
    cell("Hard", { class: "n", title: "P(strong should answer)" }, score(row.route_score)),
    cell("Good", { class: "n", title: "P(adequate) of the first answer" }, score(row.answer_score)),
    cell("Cost", { class: "n", title: moneyInFull(row.cost_usd) }, money(row.cost_usd)),
    cell("Took", { class: "n" }, duration(row.total_s)));
}

const cell = (label, props, ...children) => h("td", { ...props, "data-label": label }, children);
