// The playground: one question, who answered it and why, and what the other model would have said.

import { api, events, Failure } from "./api.js";
import { byId, fill, h, place } from "./dom.js";
import { duration, money, moneyInFull, score } from "./format.js";
import { decision, reason, STRATEGIES, term } from "./words.js";

let base = "v1/";
let tiers = [];
let running = null; // AbortController of the question under way
let shown = null; // what the result is about
let onKeyNeeded = () => {};

export function startPlayground(about, keyNeeded) {
  base = about.api;
  onKeyNeeded = keyNeeded;
  fill(byId("samples"), about.samples.map((text) => h("button", { type: "button", text, onclick: () => {
    byId("prompt").value = text;
    ask();
  } })));
  byId("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  byId("ask").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); }
  });
  byId("stop").addEventListener("click", () => running?.abort());
  showStrategies([]);
  showNothingYet();
}

/** What the server says of itself: tiers' names and prices, strategies, the point in force. */
export function describeServer(overview) {
  tiers = overview.tiers;
  showStrategies(overview.strategies, overview.point);
  if (shown?.overview === undefined && shown !== null && shown.done) shown.overview = overview;
}

/** A point to try: it stays in the playground, nobody else is affected. */
export function tryPoint(strategy, threshold) {
  byId("strategy").value = strategy;
  byId("threshold").value = String(threshold);
  byId("options").open = true;
  byId("try").scrollIntoView();
  byId("prompt").focus({ preventScroll: true });
}

/** Before anything was asked here: the last request that anyone had answered. */
export function showLast(last) {
  if (shown !== null || !last) return;
  fill(byId("result"),
    h("h3", { text: "The last request that was answered" }),
    verdict({ tier: last.tier, decision: last.decision, reason: last.reason }),
    last.prompt ? h("p", { class: "quote", text: `“${last.prompt}”` }) : null,
    facts([["Cost", money(last.cost_usd), moneyInFull(last.cost_usd)], ["Whole answer", duration(last.total_s)],
      last.first_byte_s ? ["First token", duration(last.first_byte_s)] : null]),
    h("p", { class: "small", text: "Questions and answers are not kept, so only how it was decided is shown. Ask one yourself to see all of it." }));
}

function showNothingYet() {
  fill(byId("result"), h("p", { class: "empty" },
    "Nothing asked yet. Click one of the questions: the answer appears here, with who gave it, why, both scores and what it cost."));
}

function showStrategies(names, point) {
  const chosen = byId("strategy").value;
  const inForce = point ? `In force: ${point.strategy}` : "What is in force";
  fill(byId("strategy"), h("option", { value: "", text: inForce }),
    names.map((name) => h("option", { value: name, text: `${name}: ${STRATEGIES[name] ?? ""}` })));
  byId("strategy").value = names.includes(chosen) ? chosen : "";
  if (point) byId("threshold").placeholder = `In force: ${point.threshold.toFixed(3)}`;
}

function readForm() {
  const text = byId("prompt").value.trim(), system = byId("system").value.trim();
  const messages = [{ role: "user", content: text }];
  if (system) messages.unshift({ role: "system", content: system });
  const options = {};
  if (byId("strategy").value) options.strategy = byId("strategy").value;
  const threshold = byId("threshold").value;
  if (threshold !== "") options.threshold = Number(threshold);
  const mode = byId("mode").value, stream = mode !== "plain";
  const body = { model: "upshift", messages, upshift: options };
  if (stream) {
    options.stream_mode = mode;
    Object.assign(body, { stream: true, stream_options: { include_usage: true } });
  }
  return { text, messages, body, stream };
}

async function ask() {
  const form = readForm();
  if (!byId("ask").reportValidity() || !form.text) return;
  running?.abort();
  const mine = running = new AbortController();
  const view = shown = { form, text: "", told: {}, started: performance.now(), done: false, note: "", others: {} };
  setBusy(true);
  render(view);
  const route = askRoute(form, mine.signal).then((found) => { view.route = found; });
  try {
    await answerInto(view, mine.signal);
    await Promise.race([route, new Promise((resolve) => setTimeout(resolve, 3000))]);
  } catch (error) {
    if (error.name === "AbortError") view.note = "Stopped.";
    else fail(view, error);
  }
  view.done = true;
  if (shown !== view) return;
  running = null;
  setBusy(false);
  render(view);
}

function fail(view, error) {
  view.failed = error instanceof Failure ? error : new Failure(`The answer broke off: ${error.message}`);
  if (view.failed.needsKey) onKeyNeeded(view.failed, base === "admin/" ? "admin-key" : "api-key");
}

/** Scores and lines for this question, without an answer; the playground does without where it fails. */
async function askRoute(form, signal) {
  try {
    const { model, messages, upshift } = form.body;
    const { stream_mode: _, ...options } = upshift;
    return await (await api(base, "route", { model, messages, upshift: options }, signal)).json();
  } catch {
    return null;
  }
}

async function answerInto(view, signal) {
  const answer = await api(base, "chat/completions", view.form.body, signal);
  Object.assign(view.told, toldByHeaders(answer.headers));
  render(view);
  if (!view.form.stream) {
    const body = await answer.json();
    view.text = textOf(body.choices[0].message);
    view.usage = body.usage;
    Object.assign(view.told, body.upshift);
    view.total = (performance.now() - view.started) / 1e3;
    return;
  }
  for await (const event of events(answer)) {
    if (event.error) throw new Failure(event.error.message ?? "The answer broke off.");
    const piece = event.choices?.[0]?.delta ? textOf(event.choices[0].delta) : "";
    if (piece) {
      view.first ??= (performance.now() - view.started) / 1e3;
      view.text += piece;
    }
    if (event.usage) view.usage = event.usage;
    if (event.upshift) Object.assign(view.told, event.upshift);
    if (shown === view) render(view);
  }
  view.total = (performance.now() - view.started) / 1e3;
}

const textOf = (message) => message.content ?? message.refusal ?? "";

function toldByHeaders(headers) {
  const number = (name) => (headers.has(name) ? Number(headers.get(name)) : null);
  const told = {
    tier: headers.get("x-upshift-tier"), model: headers.get("x-upshift-model"),
    decision: headers.get("x-upshift-decision"), reason: headers.get("x-upshift-reason"),
    policy: headers.get("x-upshift-policy"), request_id: headers.get("x-request-id"),
  };
  told.route_score = number("x-upshift-route-score");
  told.evaluator_score = number("x-upshift-evaluator-score");
  told.cost_usd = number("x-upshift-cost-usd");
  return told;
}

function setBusy(busy) {
  byId("send").disabled = busy;
  byId("stop").hidden = !busy;
  byId("result").setAttribute("aria-busy", String(busy));
}

function render(view) {
  if (shown !== view) return;
  const { told } = view;
  const waiting = view.form.stream ? "The first model writes; nothing is shown before it is checked …" : "Waiting for the answer …";
  fill(byId("result"),
    h("p", { class: "quote", text: `“${view.form.text}”` }),
    told.tier ? verdict(told) : null,
    view.failed
      ? h("p", { class: "notice", role: "alert", text: view.failed.message })
      : h("p", { class: view.text ? "answer" : "answer waiting", id: "answer", text: view.text || (view.done ? view.note || "(an empty answer)" : waiting) }),
    view.note && view.text ? h("p", { class: "small", text: view.note }) : null,
    told.tier ? scores(view) : null,
    view.done && told.tier ? facts([
      ["Cost", money(told.cost_usd), moneyInFull(told.cost_usd), term("micro", "Cost", "ask")],
      ["Whole answer", duration(view.total)],
      view.first !== undefined ? ["First token", duration(view.first), null, term("ttft", "First token", "ask")] : null,
      view.usage ? ["Answer’s length", `${view.usage.completion_tokens} tokens`] : null,
      ["Policy", told.policy ?? "–", null, term("bundle", "Policy", "ask")],
    ]) : null,
    view.done && told.tier && !view.failed ? others(view) : null);
}

function verdict(told) {
  const index = tiers.findIndex((tier) => tier.name === told.tier);
  const tone = index === 0 || (index < 0 && told.decision === "weak") ? "weak" : "strong";
  return h("p", { class: "verdict", id: "verdict" },
    h("span", { class: `badge ${tone}`, text: told.tier }),
    h("span", { class: `badge ${told.decision}`, text: decision(told.decision) }),
    h("span", {}, `${told.tier} answered: ${reason(told.reason)}.`));
}

function scores(view) {
  const { told, route } = view;
  const hard = told.route_score ?? route?.route_score ?? null;
  const line = route?.route_cut ?? null, kept = route?.answer_cut ?? null;
  const good = told.evaluator_score;
  const hardNote = hard === null ? "not known: there is no scorer for it"
    : line === null ? `${route?.strategy ?? "this strategy"} does not decide by it`
    : hard >= line ? "over the line: straight to strong" : "under the line: the first model may try";
  const goodNote = good === null || good === undefined ? "not judged: nobody was asked to check an answer"
    : kept === null ? "judged"
    : good > kept ? "over the line: kept" : "under the line: shifted up";
  return h("div", { class: "bars" },
    bar("hard-bar", "strong", term("hard", "How hard the question looks", "ask"), "How hard the question looks", hard, line, hardNote),
    bar("good-bar", "weak", term("adequate", "How good the first answer looks", "ask"), "How good the first answer looks", good ?? null, kept, goodNote));
}

function bar(id, tone, name, plain, value, cut, note) {
  const says = value === null ? "not known" : value.toFixed(2);
  const parts = cut === null ? says : `${says}, the line is at ${cut.toFixed(2)}`;
  return h("div", { id },
    h("div", { class: "bar-head" }, name, h("b", {}, value === null ? "–" : score(value))),
    place(h("div", { class: `bar ${tone}`, role: "img", "aria-label": `${plain}: ${parts}; ${note}` },
      value === null ? null : place(h("i"), { "--at": `${value * 100}%` }),
      cut === null ? null : place(h("s"), { "--cut": `${cut * 100}%` })), {}),
    h("div", { class: "bar-note", text: cut === null ? note : `${note} (line at ${cut.toFixed(2)})` }));
}

function facts(entries) {
  return h("dl", { class: "facts" }, entries.filter(Boolean).map(([name, value, title, label]) =>
    h("div", {}, h("dt", {}, label ?? name), h("dd", { title: title ?? null, text: value }))));
}

function others(view) {
  const rest = tiers.map((tier) => tier.name).filter((name) => name !== view.told.tier);
  if (!rest.length) return null;
  return h("div", { class: "other" }, rest.map((name) => {
    const other = view.others[name];
    if (!other) {
      return h("button", { type: "button", id: `other-${name}`, onclick: () => askOther(shown, name),
        text: `What would ${name} have said?` });
    }
    if (other.failed) return h("p", { class: "error", role: "alert", text: other.failed });
    if (!other.done) return h("p", { class: "small", text: `Asking ${name} …` });
    return [h("p", { class: "verdict" }, h("span", { class: `badge ${tiers[0].name === name ? "weak" : "strong"}`, text: name }),
      h("span", { text: `would have said this, for ${money(other.cost)}; it took ${duration(other.seconds)}.` })),
      h("p", { class: "answer", id: `answer-${name}`, text: other.text || "(an empty answer)" }),
      h("p", { class: "small", text: "This was a request of its own, pinned to that model, and is counted as one." })];
  }));
}

async function askOther(view, name) {
  const other = view.others[name] = { done: false };
  render(view);
  const started = performance.now();
  try {
    const answer = await api(base, "chat/completions", { model: name, messages: view.form.messages });
    const body = await answer.json();
    other.text = textOf(body.choices[0].message);
    other.cost = toldByHeaders(answer.headers).cost_usd ?? price(name, body.usage);
    other.seconds = (performance.now() - started) / 1e3;
    other.done = true;
  } catch (error) {
    other.failed = error.message;
  }
  render(view);
}

function price(name, usage) {
  const tier = tiers.find((one) => one.name === name);
  if (!tier || !usage) return null;
  return (usage.prompt_tokens * tier.input_usd_per_mtok + usage.completion_tokens * tier.output_usd_per_mtok) / 1e6;
}
