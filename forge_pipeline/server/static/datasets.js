// Datasets: upload with what is wrong in each line, the list, and one dataset with its audit.
import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { call, get, upload } from "./api.js";
import { openAudit, auditView, pollAudit, stopAudit } from "./audit.js";
import { megabytes, moment, number, plural } from "./format.js";
import { attempt, go, note, update } from "./store.js";
import { address, button, card, facts, heading, link, noteView, table } from "./widgets.js";

export const title = "Datasets";
export const datasets = { list: null };

let sending = null; // { name, share } of the upload under way
let over = false; // a file is held over the field
let last = null; // the reply to the last upload
let details = null; // GET /api/datasets/{filename}

export async function loadDatasets() {
  datasets.list = (await get("/api/datasets")).datasets;
  update();
}

export function enter([name]) {
  details = null;
  if (!name) return attempt("data", loadDatasets);
  pollAudit(name);
  return attempt("dataset", async () => {
    details = await get(`/api/datasets/${encodeURIComponent(name)}`);
    update();
  });
}

export const leave = stopAudit;

export function view([name]) {
  return name ? one(name) : overview();
}

async function send(file) {
  sending = { name: file.name, share: 0 };
  last = null;
  update();
  try {
    last = await upload(file, (share) => {
      sending.share = share;
      update();
    });
    if (last.validation.valid) note("data", `${last.filename}: ${plural(last.num_examples, "row")} of (${last.validation.dataset_schema})`, "good");
    else note("data", `${last.filename}: ${plural(last.validation.error_count, "line")} of ${number(last.num_examples)} cannot be used. Mend them and upload the file anew.`, "bad");
    await loadDatasets();
  } finally {
    sending = null;
    update();
  }
}

function dropped(event) {
  event.preventDefault();
  over = false;
  update();
  const file = event.dataTransfer.files[0];
  if (file) attempt("data", () => send(file));
}

function hover(event, now) {
  event.preventDefault();
  if (over !== now) {
    over = now;
    update();
  }
}

function chosen(event) {
  const [file] = event.target.files;
  if (file) attempt("data", () => send(file)).then(() => { event.target.value = ""; });
}

function field() {
  return html`<div class="drop ${over ? "over" : ""}" @dragover=${(event) => hover(event, true)} @dragleave=${(event) => hover(event, false)} @drop=${dropped}>
    <label for="file">Choose a JSONL file, or drop one here</label>
    <input id="file" type="file" accept=".jsonl" aria-describedby="file-help" ?disabled=${sending !== null} @change=${chosen}>
    <p id="file-help" class="help">One row a line, each a JSON object such as
      <code>{"prompt": "…", "completion": "…"}</code>. At least 10 rows. The file stays on this server.</p>
    ${sending ? html`<progress max="1" .value=${sending.share} aria-label="Upload of ${sending.name}"></progress>
      <p class="help">${sending.share < 1 ? `Uploading ${sending.name}: ${Math.round(100 * sending.share)} %` : `Reading every line of ${sending.name}…`}</p>` : nothing}
  </div>`;
}

// The server's errors are sentences that begin with "line 7: ".
export function lineErrors({ errors, error_count: count }) {
  if (!errors.length) return nothing;
  const found = errors.map((error) => /^line (\d+): (.*?)(?:\. (Rows need one of: .*))?$/s.exec(error) ?? [null, "", error]);
  const rows = found.map(([, line, words]) => [line, words]);
  const kinds = found.map(([, , , needed]) => needed).find(Boolean);
  const more = count > errors.length ? html`<p class="help">These are the first ${errors.length} of ${number(count)}.</p>` : nothing;
  return html`<div class="errors" id="line-errors">${table(["Line", "What is wrong"], rows)}${more}${kinds ? html`<p class="help">${kinds}</p>` : nothing}</div>`;
}

function overview() {
  const rows = (datasets.list ?? []).map((item) => [
    link(address("datasets", item.filename), item.filename), number(item.num_examples), megabytes(item.size_mb), moment(item.uploaded_at),
    link(`training?dataset=${encodeURIComponent(item.filename)}`, "Train with it"),
  ]);
  return html`${heading("Datasets", "What a model learns from: examples of what it should do.")}
    <div class="cards">
      ${card("Upload", html`${field()}${noteView("data")}${last ? lineErrors(last.validation) : nothing}
        ${last?.validation.valid ? html`<p>${link(address("datasets", last.filename), "Look at it")} · ${link(`training?dataset=${encodeURIComponent(last.filename)}`, "Train with it", "strong")}</p>` : nothing}`, { wide: true })}
      ${card("On this server", datasets.list === null ? html`<p class="empty">Loading…</p>` : table(["File", "Rows", "Size", "Uploaded", ""], rows, { empty: "No dataset yet. Upload one above." }), { wide: true, id: "datasets" })}
    </div>`;
}

function remove(name) {
  if (!confirm(`Delete ${name} from this server?`)) return;
  attempt("dataset", async () => {
    note("data", (await call("DELETE", `/api/datasets/${encodeURIComponent(name)}`)).message);
    go("datasets");
  });
}

function preview(rows) {
  return html`<div class="preview">${rows.map((row) => html`<dl>${Object.entries(row).map(([name, value]) => html`<div><dt>${name}</dt><dd>${shown(value)}</dd></div>`)}</dl>`)}</div>`;
}

// Messages as a conversation, any other value as its JSON; long text is cut, the file has it whole.
function shown(value) {
  if (Array.isArray(value) && value.every((each) => each?.role && typeof each.content === "string"))
    return value.map(({ role, content }) => html`<p><b>${role}:</b> ${cut(content)}</p>`);
  return cut(typeof value === "string" ? value : JSON.stringify(value));
}

const cut = (text) => (text.length > 600 ? `${text.slice(0, 600)}…` : text);

function one(name) {
  const found = details;
  return html`${heading(name, html`${link("datasets", "All datasets")}`)}
    ${noteView("dataset")}
    ${found ? html`<div class="cards">
      ${card("The file", html`${facts([
        ["Rows", number(found.num_examples)], ["Size", megabytes(found.size_mb)], ["Uploaded", moment(found.uploaded_at)],
        ["Kind of rows", found.dataset_schema ?? "not known"], ["Digest", html`<code class="digest">${found.digest}</code>`],
      ])}
      ${found.validation.valid ? html`<p class="good">Every line can be used.</p>` : lineErrors(found.validation)}
      <div class="actions">${link(`training?dataset=${encodeURIComponent(name)}`, "Train with it", "button primary")}${button("Delete", () => remove(name))}</div>`, { wide: true })}
      ${card("First rows", preview(found.preview), { wide: true })}
    </div>` : nothing}
    ${auditView(openAudit)}`;
}
