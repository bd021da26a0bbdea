// Numbers for people: always with their unit, never more digits than they mean.

const NARROW_SPACE = "\u202f";

/** A share in [0, 1] as a percentage. */
export function percent(share, digits = 0) {
  if (share === null || share === undefined) return "–";
  return `${(share * 100).toFixed(digits).replace("-", "−")}${NARROW_SPACE}%`;
}

/** US dollars; small amounts in thousandths (m$) or millionths (µ$). */
export function money(usd) {
  if (usd === null || usd === undefined) return "–";
  const size = Math.abs(usd), sign = usd < 0 ? "−" : "";
  if (size === 0) return "$0";
  if (size >= 1) return `${sign}$${size.toFixed(2)}`;
  if (size >= 0.01) return `${sign}$${size.toFixed(3)}`;
  if (size >= 1e-4) return `${sign}${digits3(size * 1e3)}${NARROW_SPACE}m$`;
  return `${sign}${digits3(size * 1e6)}${NARROW_SPACE}µ$`;
}

/** The same in full, for a tooltip. */
export function moneyInFull(usd) {
  if (usd === null || usd === undefined) return "not known";
  return `${usd.toFixed(usd && Math.abs(usd) < 0.01 ? 10 : 4)} US dollars`;
}

/** Seconds as ms or s. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.0095) return `${(seconds * 1e3).toFixed(1)}${NARROW_SPACE}ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1e3)}${NARROW_SPACE}ms`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 2 : 0)}${NARROW_SPACE}s`;
  return span(seconds);
}

/** A length of time in words. */
export function span(seconds) {
  const units = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];
  for (const [length, name] of units) {
    if (seconds >= length) {
      const count = Math.floor(seconds / length);
      return `${count} ${name}${count === 1 ? "" : "s"}`;
    }
  }
  return "a moment";
}

export const count = (number) => (number ?? 0).toLocaleString("en");
export const score = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
export const clockTime = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
export const day = (at) => new Date(at * 1000).toISOString().slice(0, 10);

function digits3(number) {
  return number >= 100 ? number.toFixed(0) : number >= 10 ? number.toFixed(1) : number >= 1 ? number.toFixed(2) : number.toFixed(3);
}
