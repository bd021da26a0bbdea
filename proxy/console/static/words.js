// The server's closed lists in plain words, and what the terms mean.

import { h } from "./dom.js";

export const REASONS = {
  easy_prompt: "the question looked easy enough for the first model",
  hard_prompt: "the question looked hard, so the strong model was asked at once",
  adequate: "the evaluator found the first model's answer good enough",
  inadequate: "the evaluator doubted the first model's answer",
  early_commit: "the beginning of the answer already looked good enough",
  early_abandon: "the beginning of the answer already looked too weak",
  hedge: "two models were started, and this one was ready first",
  context_window: "the question is longer than the first model can read",
  capability: "the request needs something that only this model can do",
  hard_check: "the first answer failed a plain check: cut off, empty, broken or a refusal",
  out_of_distribution: "the question is unlike those the scorers were trained on",
  sticky: "an earlier turn of this conversation needed the stronger model",
  explore: "a small random share of requests goes another way, to keep learning",
  random: "a coin was thrown",
  canary: "a new bundle on trial decided",
  load: "the strong model is busy, so more was left to the first one, within the certificate",
  deadline: "time was running out",
  budget: "the budget was used up",
  pinned: "this model was asked for by name",
  weak_failed: "the first model failed, so the next one took over",
  strong_failed: "the strong model failed, so the answer kept in reserve was served",
  scorer_failed: "a scorer failed, so the request went the safe way",
};

export const DECISIONS = {
  weak: "kept",
  strong: "straight to strong",
  escalated: "shifted up",
  pinned: "by name",
  degraded: "degraded",
};

export const STRATEGIES = {
  cascade: "everything: prompt scores, then the evaluator",
  evaluator: "the evaluator alone, reading the answer",
  mf: "the prompt alone (matrix factorisation)",
  difficulty: "the prompt alone (difficulty classifier)",
  random: "a coin",
};

const TERMS = {
  baseline: "What the same requests would have cost had the strong model answered all of them. Where it did not run, its answer's length is estimated from answers it did give.",
  saved: "Always-strong's cost minus what was paid. Rejected answers are paid for and counted.",
  strong_share: "Of all routed answers, the share that the last, strongest model gave: straight away or after a first answer was rejected.",
  plan: "What the policy does on its calibration prompts, with a band for chance. Live traffic outside of it has changed, or a scorer has.",
  quality: "Quality of the answers given, as a share of what the strong model alone would have reached. It is measured on a small sample of live requests that the strong model answers too, in the background, and a judge compares.",
  hard: "P(strong should answer): how likely it is that the strong model's answer would be clearly better, judged from the question alone.",
  adequate: "P(adequate): how likely it is that the first model's answer is good enough, judged by the evaluator that read it.",
  threshold: "The line a score is compared with. A higher threshold means fewer calls of the strong model.",
  certificate: "A statistical promise about mean quality, proved on labelled prompts that nothing was fitted on. It speaks of prompts like those, this judge, these two models and this bundle.",
  operating_point: "The threshold at which the policy works: more calls of the strong model cost more and are better.",
  interval: "95 % interval on the calibration prompts. It says how sure these prompts make us; it is no promise.",
  coin: "Sending the same share of questions to the strong model at random. A router is worth what it lies above this line.",
  ttft: "Time to first token: from sending the question to the first piece of the answer.",
  drift: "How far scores and inputs of live traffic have moved from the calibration prompts (population stability index). Above the threshold the certificate speaks of other prompts than those that come.",
  circuit: "A replica that fails repeatedly is left alone for a while and then probed: its circuit is open.",
  bundle: "The trained scorers and the policy, as one versioned folder.",
  micro: "m$ is a thousandth of a US dollar, µ$ a millionth.",
};

/** A term that explains itself when it is clicked, by mouse or keyboard. `place` makes its id the page's only. */
export function term(key, text, place = "") {
  const id = `term-${key}${place && `-${place}`}`;
  return h("span", { class: "term-box" },
    h("button", { type: "button", class: "term", popovertarget: id, "aria-describedby": id }, text),
    h("span", { id, popover: "auto", class: "definition", role: "note", text: TERMS[key] }));
}

export const reason = (name) => REASONS[name] ?? name;
export const decision = (name) => DECISIONS[name] ?? name;
