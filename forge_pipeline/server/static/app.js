// The page: its head, its sections by address, and the server's state.
import { html, nothing, render } from "./vendor/lit-html/lit-html.js";
import { get, hasKey, useKey } from "./api.js";
import * as approvals from "./approvals.js";
import * as chat from "./chat.js";
import * as datasets from "./datasets.js";
import * as jobs from "./jobs.js";
import { live, start } from "./live.js";
import * as models from "./models.js";
import { pill } from "./now.js";
import { attempt, drawWith, readRoute, state, update } from "./store.js";
import { theme, toggleTheme } from "./theme.js";
import * as training from "./training.js";
import { noteView } from "./widgets.js";

const SECTIONS = { datasets, training, jobs, models, chat, approvals };
const ICONS = {
  datasets: "M4 6c0-1.7 3.6-3 8-3s8 1.3 8 3v12c0 1.7-3.6 3-8 3s-8-1.3-8-3zm0 0c0 1.7 3.6 3 8 3s8-1.3 8-3M4 12c0 1.7 3.6 3 8 3s8-1.3 8-3",
  training: "M3 19h18M6 15l4-5 4 3 5-8",
  jobs: "M8 6h12M8 12h12M8 18h12M4 6h.01M4 12h.01M4 18h.01",
  models: "M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
  chat: "M4 5h16v11H10l-5 4v-4H4z",
  approvals: "M4 12.5l5 5L20 6.5",
};
const EVERY = 3000; // milliseconds
let section = null;

async function enter() {
  const route = readRoute();
  if (!SECTIONS[route.name]) return location.replace("#/datasets");
  const before = state.route;
  section?.leave?.();
  section = SECTIONS[route.name];
  update({ route });
  document.title = `${section.title}: Forge studio`;
  if (before.name && (before.name !== route.name || before.args[0] !== route.args[0])) arrive();
  return section.enter(route.args, route.query);
}

// A screen reader goes on from the head of the new section, as after loading a page.
function arrive() {
  queueMicrotask(() => {
    document.querySelector("main h1")?.focus({ preventScroll: true });
    scrollTo(0, 0);
  });
}

async function watchHealth() {
  try {
    state.health = await get("/api/health");
    if (!state.info) await offers();
  } catch (error) {
    state.health = { launcher: error.status === 401 ? "needs an API key" : "the server does not answer" };
  }
  update();
  setTimeout(watchHealth, EVERY);
}

const offers = () => attempt("page", async () => {
  update({ info: await get("/api/info") });
});

async function keyed(event) {
  useKey(event.target.value);
  await offers();
  await section?.enter(state.route.args, state.route.query);
}

function keyField() {
  if (!state.keyNeeded) return nothing;
  return html`<label class="key">API key <input id="key" type="password" autocomplete="off" aria-describedby="key-help" @change=${keyed}>
    <span class="help" id="key-help">Kept in this page alone, until it is closed.${hasKey() ? "" : " This server asks for one."}</span></label>`;
}

function serverState() {
  const { health } = state;
  const ready = health?.launcher === "ready";
  const words = !health ? "connecting…" : ready ? `ready, version ${health.version}` : health.launcher;
  return html`<span id="health" class="health ${ready && live.connected ? "ok" : ""}" role="status">${words}</span>`;
}

function shell() {
  const here = state.route.name;
  return html`
    <a class="skip" href="#main" @click=${skip}>Skip to the content</a>
    <header class="top">
      <a class="brand" href="#/datasets"><svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="7"></rect><path d="M6 11h20v3c-4 0-6 2-7 5h3v3H10v-3h3c-1-3-3-5-7-5z"></path></svg>Forge studio</a>
      ${pill()}${serverState()}
      <a class="api" href="/openapi.json">API</a>
      <button class="theme" @click=${toggleTheme} aria-label="Colors: ${theme()}. Change">${theme() === "dark" ? "☾" : theme() === "light" ? "☀" : "◐"}</button>
    </header>
    <nav aria-label="Sections">${Object.entries(SECTIONS).map(([name, { title }]) => html`
      <a href="#/${name}" aria-current=${name === here ? "page" : nothing}><svg viewBox="0 0 24 24" aria-hidden="true"><path d=${ICONS[name]}></path></svg>${title}</a>`)}</nav>
    <main id="main" tabindex="-1">${keyField()}${noteView("page")}${section ? section.view(state.route.args) : nothing}</main>`;
}

// Not by the link's own address, which would be taken for a section.
function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

drawWith(() => render(shell(), document.body));
addEventListener("hashchange", enter);
start();
await offers();
watchHealth();
enter();
