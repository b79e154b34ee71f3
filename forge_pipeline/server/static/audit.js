// The audit of one dataset as charts: asked for once, then polled until it is ready.
import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { download, get, hasKey } from "./api.js";
import { bars, histogram } from "./charts.js";
import { number, words } from "./format.js";
import { attempt, update } from "./store.js";
import { badge, button, card, facts, noteView } from "./widgets.js";

const EVERY = 1500; // milliseconds

let audit = null;
let refused = false; // the note says why
let asked = ""; // the dataset
let asking = {}; // whose answers are still wanted

export function pollAudit(name) {
  stopAudit();
  audit = null;
  refused = false;
  asked = name;
  ask(name, asking);
}

export function stopAudit() {
  asking = {};
}

async function ask(name, mine, again = false) {
  const found = await attempt("audit", () => get(`/api/datasets/${encodeURIComponent(name)}/audit${again ? "?again=true" : ""}`));
  if (mine !== asking) return;
  refused = found === undefined;
  audit = found ?? audit;
  update();
  if (found?.state === "running") setTimeout(() => mine === asking && ask(name, mine), EVERY);
}

// The whole report is a page of its own; a link cannot carry an API key, so with one it is saved instead.
export function openAudit(url) {
  if (hasKey()) return html`<button class="plain" @click=${() => attempt("audit", () => download(url, "dataset-audit.html"))}>Download the whole report</button>`;
  return html`<a href=${url} target="_blank" rel="noopener">Open the whole report</a>`;
}

export function auditView(open) {
  const body = audit === null ? html`<p class="empty">Asking for the audit…</p>`
    : audit.state === "running" ? html`<progress aria-label="Audit"></progress><p class="help">Every row is being read: languages, lengths, personal data, secrets, repeats.</p>`
    : audit.state === "failed" ? html`<p class="bad" role="alert">The audit failed: ${audit.error}</p>${button("Audit again", () => ask(asked, asking, true))}`
    : report(audit.report);
  return html`<div class="audit" id="audit" data-state=${audit?.state ?? "asked"}>
    ${card("What is in it", html`${noteView("audit")}${refused ? nothing : body}`, { wide: true, aside: audit?.report?.url ? open(audit.report.url) : nothing })}
  </div>`;
}

function finding(title, about, body) {
  return html`<section class="finding"><h3>${title}</h3><p class="help">${about}</p>${body}</section>`;
}

function report(found) {
  return html`
    ${facts([
      ["Rows read", number(found.num_rows)],
      ["Exact repeats", number(found.exact_duplicates)],
      ["Near repeats", number(found.near_duplicates)],
      ["Personal data", number(total(found.pii))],
      ["Secrets", number(total(found.secrets))],
    ])}
    ${(found.notes ?? []).map((note) => html`<p class="help">${note}</p>`)}
    <div class="findings">
      ${finding("Lengths", "Characters a row. Rows that are far longer than the rest get cut.", found.lengths.length ? histogram(found.lengths, { caption: "Lengths of rows", unit: "characters" }) : html`<p class="empty">No rows.</p>`)}
      ${finding("Languages", "What each row is written in, as far as can be told.", bars(found.languages, { caption: "Rows by language" }))}
      ${finding("Personal data", "Names what a model might repeat about people. Mask it or leave those rows out.", bars(found.pii.map((item) => ({ ...item, detail: badge(item.severity) })), { caption: "Personal data by kind" }))}
      ${finding("Secrets", "Keys and passwords. Whoever uses the model might get to see them.", bars(found.secrets, { caption: "Secrets by kind" }))}
      ${finding("Quality", "Rows that a rule found wanting, by rule.", bars(found.quality.map((item) => ({ ...item, name: words(item.name) })), { caption: "Rows by quality finding" }))}
    </div>`;
}

const total = (items) => items.reduce((sum, item) => sum + item.count, 0);
