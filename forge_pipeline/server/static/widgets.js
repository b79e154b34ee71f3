// Pieces that every section is made of.
import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { words } from "./format.js";
import { noted } from "./store.js";

// What attempt() and note() said. An error interrupts a screen reader, everything else waits for its turn.
export function noteView(place) {
  const { words: said, kind } = noted(place);
  return html`<p id="${place}-note" class="note ${kind}" role=${kind === "bad" ? "alert" : "status"}>${said}</p>`;
}

export function heading(title, lead) {
  return html`<div class="heading"><h1 tabindex="-1">${title}</h1>${lead ? html`<p class="lead">${lead}</p>` : nothing}</div>`;
}

export function card(title, body, { wide = false, id = undefined, aside = nothing } = {}) {
  return html`<section class="card ${wide ? "wide" : ""}" id=${id ?? nothing}>
    <header class="card-head"><h2>${title}</h2>${aside}</header>
    ${body}
  </section>`;
}

// Rows of cells under heads. On a narrow screen each row becomes a block of its own, its cells named by the heads.
export function table(heads, rows, { caption = nothing, empty = "Nothing yet." } = {}) {
  if (!rows.length) return html`<p class="empty">${empty}</p>`;
  return html`<table>
    ${caption === nothing ? nothing : html`<caption>${caption}</caption>`}
    <thead><tr>${heads.map((head) => html`<th scope="col">${head}</th>`)}</tr></thead>
    <tbody>${rows.map((cells) => html`<tr>${cells.map((cell, place) => html`<td data-label=${heads[place]}>${cell}</td>`)}</tr>`)}</tbody>
  </table>`;
}

const TONES = {
  completed: "good", ready: "good", passed: "good", granted: "good", approved: "good", released: "good",
  failed: "bad", rejected: "bad", unreadable: "bad", revoked: "bad", high: "bad", critical: "bad",
  training: "busy", starting: "busy", running: "busy", open: "busy",
};

export const badge = (word) => html`<span class="badge ${TONES[word] ?? ""}">${words(word)}</span>`;

export function facts(pairs) {
  const shown = pairs.filter(Boolean);
  return html`<dl class="facts">${shown.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

export const button = (label, action, { kind = "plain", disabled = false, type = "button", title = undefined } = {}) =>
  html`<button type=${type} class=${kind} ?disabled=${disabled} title=${title ?? nothing} @click=${action}>${label}</button>`;

export const link = (path, label, kind = "") => html`<a class=${kind} href="#/${path}">${label}</a>`;

export const address = (...parts) => parts.map(encodeURIComponent).join("/");
