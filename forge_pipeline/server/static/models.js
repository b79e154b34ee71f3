// Models: what was measured, release gates, downloads and their making, push to the Hub, delete.
import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { call, download, get } from "./api.js";
import { digest, known, megabytes, moment, number } from "./format.js";
import { onEnd } from "./live.js";
import { METRICS, TASKS } from "./methods.js";
import { attempt, go, note, state, update } from "./store.js";
import { address, badge, button, card, facts, heading, link, noteView, table } from "./widgets.js";
import { gateTable } from "./approvals.js";

export const title = "Models";
export const models = { list: null };

const KINDS = {
  model: "The model as it was trained",
  gguf: "For llama.cpp, Ollama and LM Studio",
  card: "What it is for, what it was trained on, how it did",
  bundle: "Technical documentation with its evidence",
  audit_report: "What was found in the dataset",
};
const EVERY = 1500; // milliseconds
const OPEN = ["queued", "running"];
let details = null;
let artifacts = null;
let requests = null; // releases that were asked for, with their gates
let pushing = false;
let exporting = null; // the job that makes GGUF and bundle of the model shown, while it is open
let entered = {};

onEnd(() => attempt("models", loadModels));

export async function loadModels() {
  models.list = (await get("/api/models")).models;
  update();
}

export async function enter([id]) {
  details = artifacts = requests = exporting = null;
  const mine = (entered = {});
  note("push", "");
  note("export", "");
  if (!id) return attempt("models", loadModels);
  const path = `/api/models/${encodeURIComponent(id)}`;
  await attempt("model", async () => {
    details = await get(path);
    update();
  });
  if (!details) return undefined;
  return Promise.all([
    attempt("artifacts", async () => {
      await loadArtifacts();
      // One that was asked for before, here or elsewhere, is followed too.
      const open = (await get("/api/jobs?limit=100")).jobs.find((job) => job.kind === "export" && job.model_id === details.id && OPEN.includes(job.status));
      if (open && mine === entered) follow(open, mine);
    }),
    attempt("gates", async () => {
      requests = (await get("/api/approvals?state=all")).approvals.filter((request) => request.model === details.uid);
      update();
    }),
  ]);
}

export function leave() {
  entered = {};
}

async function loadArtifacts() {
  const shown = details;
  const found = (await get(`/api/models/${shown.id}/artifacts`)).artifacts;
  if (shown !== details) return;
  artifacts = found;
  update();
}

// Whether a job of this server made the model, and something that it can make is not there.
const isMakeable = (item) => !item.available && (item.why ?? "").includes("/export");

async function make() {
  const mine = entered;
  exporting = { status: "queued" };
  note("export", "Asking…");
  const done = await attempt("export", () => call("POST", `/api/models/${details.id}/export`, {}));
  exporting = null;
  if (done && mine === entered) await follow({ job_id: done.job_id, status: "queued" }, mine);
  else update();
}

async function follow(job, mine) {
  exporting = job;
  note("export", "");
  while (mine === entered && OPEN.includes(exporting.status)) {
    await new Promise((resolve) => setTimeout(resolve, EVERY));
    const now = await attempt("export", () => get(`/api/jobs/${encodeURIComponent(job.job_id)}`));
    if (mine !== entered) return;
    if (now) exporting = now;
    update();
  }
  if (mine !== entered) return;
  const { status, error } = exporting;
  exporting = null;
  if (status === "completed") note("export", "Made. The files are in the list above.", "good");
  else note("export", error ?? `The job was ${status}.`, "bad");
  await attempt("artifacts", loadArtifacts);
}

export const view = ([id]) => (id ? one() : overview());

function overview() {
  const rows = (models.list ?? []).map((item) => [
    link(address("models", item.id), item.name), item.base_model, TASKS[item.task]?.name ?? item.task, best(item.metrics), megabytes(item.size_mb), moment(item.created_at),
    html`${link(`chat?model=${item.id}`, "Chat")}`,
  ]).reverse();
  return html`${heading("Models", "What was trained here, newest first.")}
    ${card("All models", html`${noteView("models")}${models.list === null ? html`<p class="empty">Loading…</p>` : table(["Name", "Base model", "Task", "Measured", "Size", "Made", ""], rows, { empty: "No model yet. Train one." })}`, { wide: true, id: "models" })}`;
}

// The task's own measurement, else the loss.
function best(metrics) {
  const name = ["f1", "rougeL", "reward_accuracy", "mean_reward", "perplexity", "final_loss"].find((each) => known(metrics[each]));
  return name ? `${METRICS[name].name} ${number(metrics[name], 3)}` : "–";
}

function remove() {
  if (!confirm(`Delete ${details.name} and its files?`)) return;
  attempt("model", async () => {
    note("models", (await call("DELETE", `/api/models/${details.id}`)).message);
    go("models");
  });
}

async function push(event) {
  event.preventDefault();
  const form = new FormData(event.target);
  pushing = true;
  note("push", "Asking…");
  const done = await attempt("push", () => call("POST", `/api/models/${details.id}/push`, {
    repo_id: form.get("repo_id"), private: form.get("private") === "on", token_env: form.get("token_env"),
  }));
  pushing = false;
  if (done) note("push", `Queued as job ${done.job_id}; its page says how it went.`, "good");
  else update();
}

function one() {
  const model = details;
  if (!model) return html`${heading("Model", link("models", "All models"))}${noteView("model")}`;
  const measured = Object.entries(model.metrics).filter(([name, value]) => known(value) && METRICS[name]);
  return html`${heading(model.name, link("models", "All models"))}${noteView("model")}
    <div class="cards">
      ${card("What it is", html`${facts([
        ["Base model", model.base_model], ["Task", TASKS[model.task]?.name ?? model.task], ["Strategy", model.strategy ?? "–"], ["Made", moment(model.created_at)],
        ["Epochs", number(model.training_params.num_epochs)], ["Batch size", number(model.training_params.batch_size)], ["Learning rate", number(model.training_params.learning_rate)],
        ["Size", megabytes(model.size_mb)], ["Digest", html`<code class="digest">${model.uid}</code>`],
      ])}
      <div class="actions">${link(`chat?model=${model.id}`, "Chat with it", "button primary")}${model.job_id ? link(address("jobs", model.job_id), "Its job", "button plain") : nothing}${button("Delete", remove)}</div>`, { wide: true })}
      ${card("Measured", html`<p class="help">On held-out rows, where there were any.</p>${table(["What", "Value", "Better", "Meaning"], measured.map(([name, value]) => [METRICS[name].name, number(value), METRICS[name].better, METRICS[name].about]), { empty: "Nothing was measured." })}`, { wide: true, id: "metrics" })}
      ${card("Release gates", gates(), { wide: true, id: "gates" })}
      ${card("Download", html`${noteView("artifacts")}${artifacts ? html`${downloads()}${making()}` : nothing}`, { wide: true, id: "downloads" })}
      ${card("Push to the Hugging Face Hub", pushForm(), { wide: true })}
    </div>`;
}

function gates() {
  if (!requests) return noteView("gates");
  if (!requests.length) return html`<p class="empty">No release was asked for. Models of this page become releases through a line of the pipeline, where gates and people decide.</p>`;
  return requests.map((request) => html`<h3>${request.line} ${request.request_id}: ${request.state}</h3>${gateTable(request.gates)}`);
}

function downloads() {
  return table(["What", "File", "Size", "Digest", ""], artifacts.map((item) => [
    KINDS[item.kind] ?? item.kind, item.name, megabytes(item.size_mb), html`<code title=${item.digest ?? nothing}>${digest(item.digest)}</code>`,
    item.available ? button("Download", () => attempt("artifacts", () => download(item.url))) : html`<span class="help">Not there: ${item.why}</span>`,
  ]));
}

function making() {
  const offered = artifacts.some(isMakeable);
  return html`${offered && !exporting ? html`<div class="actions">${button(artifacts.some((item) => item.kind === "gguf" && isMakeable(item)) ? "Make GGUF and bundle" : "Make the bundle", make)}</div>
      <p class="help">A job of its own, beside any training. What it makes is labelled not released: no benchmark and no safety test was run.</p>` : nothing}
    ${exporting ? html`<p id="making" role="status">${badge(exporting.status)} ${exporting.stage ?? ""} ${exporting.job_id ? link(address("jobs", exporting.job_id), "Its job") : nothing}</p>` : nothing}
    ${noteView("export")}`;
}

function pushForm() {
  return html`<form class="fields" @submit=${push}>
    <div class="field"><label for="repo_id">Repository</label><input id="repo_id" name="repo_id" required placeholder="your-name/your-model"><p class="help">It is made if it is not there.</p></div>
    <div class="field"><label for="token_env">Environment variable with the token</label><input id="token_env" name="token_env" required value="HF_TOKEN"><p class="help">Of the server. The token itself is never typed here.</p></div>
    <div class="field"><label class="check"><input type="checkbox" name="private" checked> Private</label><p class="help">Only you see it.</p></div>
    <div class="actions"><button class="plain" ?disabled=${pushing}>Push</button></div>
  </form>${noteView("push")}`;
}
