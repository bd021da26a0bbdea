// The page's life: keys, colours, and looking at the server while somebody looks at the page.

import { about, admin, Failure, keys } from "./api.js";
import { followPoint, forgetCurve, startCurve } from "./curve.js";
import { isPaused, pollDecisions, setFirstTier, showState, startDecisions } from "./decisions.js";
import { byId, fill, h } from "./dom.js";
import { forgetOverview, showOverview } from "./overview.js";
import { describeServer, showLast, startPlayground } from "./playground.js";

const DECISIONS_MS = 1500, OVERVIEW_MS = 4000, LONGEST_MS = 30000;
let locked = false;

/** Runs `look` again and again while the page is seen; waits longer after every failure. */
class Watch {
  constructor(look, everyMs) {
    this.look = look;
    this.everyMs = everyMs;
    this.waitMs = everyMs;
    this.running = false;
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.now(); });
  }

  now() {
    clearTimeout(this.timer);
    if (!this.running) this.run();
  }

  async run() {
    if (document.hidden || locked) {
      if (!locked) showState("Paused while this tab is hidden");
      return;
    }
    this.running = true;
    try {
      await this.look();
      this.waitMs = this.everyMs;
      if (!isPaused()) showState("Live");
      byId("locked").hidden = true;
    } catch (error) {
      this.waitMs = Math.min(this.waitMs * 2, LONGEST_MS);
      if (!(error instanceof Failure)) throw error;
      if (error.needsKey) lock(error);
      else showState(`${error.message} Trying again …`);
    } finally {
      this.running = false;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.run(), this.waitMs);
    }
  }
}

const overviewWatch = new Watch(async () => {
  const overview = await admin("overview");
  setFirstTier(overview.tiers[0].name);
  describeServer(overview);
  showOverview(overview);
  await followPoint(overview.point);
}, OVERVIEW_MS);

const decisionsWatch = new Watch(async () => {
  if (!isPaused()) showLast(await pollDecisions());
}, DECISIONS_MS);

function lock(error) {
  locked = true;
  forgetOverview();
  forgetCurve();
  showState("Needs the admin key");
  fill(byId("decisions"), h("p", { class: "empty", text: "Live decisions need the admin key." }));
  fill(byId("locked"), keys.admin ? `${error.message} ` : "Figures and decisions are for this server’s operators. The playground needs an API key alone. ",
    h("button", { type: "button", id: "unlock", text: "Give a key", onclick: () => openKeys("", "admin-key") }));
  byId("locked").hidden = false;
}

function openKeys(note, field) {
  byId("api-key").value = keys.apiOnly;
  byId("admin-key").value = keys.admin;
  byId("keys-note").textContent = note;
  if (!byId("keys").open) byId("keys").showModal();
  byId(field).focus();
}

const keyNeeded = (error, field) => openKeys(error.message, field);

function startKeys() {
  byId("open-keys").addEventListener("click", () => openKeys("", "api-key"));
  byId("close-keys").addEventListener("click", () => byId("keys").close());
  byId("forget-keys").addEventListener("click", () => { keys.set("", ""); byId("keys").close(); });
  byId("keys-form").addEventListener("submit", () => {
    keys.set(byId("api-key").value.trim(), byId("admin-key").value.trim());
  });
  keys.onChange(() => {
    locked = false;
    for (const watch of [overviewWatch, decisionsWatch]) watch.now();
  });
}

function startTheme() {
  const names = { "": "Auto", light: "Light", dark: "Dark" }, order = ["", "light", "dark"];
  const show = (theme) => {
    document.documentElement.dataset.theme = theme;
    byId("theme").textContent = names[theme];
    byId("theme").setAttribute("aria-label", theme ? `Colours: ${theme}` : "Colours: as the system");
  };
  let theme = sessionStorage.getItem("upshift.theme") ?? "";
  show(theme);
  byId("theme").addEventListener("click", () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    sessionStorage.setItem("upshift.theme", theme);
    show(theme);
  });
}

startTheme();
startKeys();
startDecisions();
startCurve(keyNeeded, () => overviewWatch.now());
startPlayground(await about(), keyNeeded);
overviewWatch.now();
decisionsWatch.now();
