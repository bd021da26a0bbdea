// Talking to the server: keys from this tab alone, errors as one kind of thing.

const API = "upshift.api-key", ADMIN = "upshift.admin-key";
const listeners = [];

export const keys = {
  get api() { return sessionStorage.getItem(API) || sessionStorage.getItem(ADMIN) || ""; },
  get apiOnly() { return sessionStorage.getItem(API) || ""; },
  get admin() { return sessionStorage.getItem(ADMIN) || ""; },
  set(api, admin) {
    for (const [name, value] of [[API, api], [ADMIN, admin]]) {
      if (value) sessionStorage.setItem(name, value);
      else sessionStorage.removeItem(name);
    }
    for (const listener of listeners) listener();
  },
  onChange(listener) { listeners.push(listener); },
};

/** What went wrong, in words a person can use. `status` 0: no answer at all. */
export class Failure extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }

  get needsKey() { return this.status === 401 || this.status === 403; }
}

async function send(path, key, options) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Is it still running?");
  }
  if (!answer.ok) throw await failureOf(answer);
  return answer;
}

async function failureOf(answer) {
  let told = {};
  try { told = (await answer.json()).error ?? {}; } catch { /* not ours: a proxy in between */ }
  const kind = {
    401: "A key is needed here, or the one given is not known.",
    403: "This key may not do that.",
    404: "The server does not know that address.",
    413: "That is too long for this server.",
    429: "Too many requests for this key just now.",
    503: "The server is too busy or not ready. Try again in a moment.",
  }[answer.status] ?? "The server could not do that.";
  return new Failure(told.message ? `${kind} It says: ${told.message}` : kind, answer.status, told.code ?? "");
}

/** Figures and changes, with the admin key. */
export async function admin(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" },
  };
  return (await send(`admin/${path}`, keys.admin, options)).json();
}

/** The page's own facts, for anyone. */
export async function about() {
  return (await send("console/page.json", "", {})).json();
}

/** The API as clients use it. `base`: `v1/`, or `admin/` on the admin port. */
export async function api(base, path, body, signal) {
  const key = base === "admin/" ? keys.admin : keys.api;
  const options = body === undefined ? { signal } : {
    method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal,
  };
  return send(base + path, key, options);
}

/** The data of a server-sent event stream, decoded; ends at `[DONE]`. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value;
    const blocks = waiting.split(/\r?\n\r?\n/);
    waiting = blocks.pop();
    for (const block of blocks) {
      const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}
