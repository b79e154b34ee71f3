// Jobs: the queue and what has been; of one job its curve, events and log.
import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { call, get } from "./api.js";
import { curve } from "./charts.js";
import { moment, number, plural } from "./format.js";
import { ACTIVE, curveOf, onEnd } from "./live.js";
import { figures } from "./now.js";
import { steps } from "./stages.js";
import { attempt, go, note, state, update } from "./store.js";
import { address, badge, button, card, facts, heading, link, noteView, table } from "./widgets.js";

export const title = "Jobs";

const EVERY = 2500; // milliseconds
const PAGE = 50;
const STATES = ["queued", "starting", "training", "running", "completed", "failed", "stopped"];
const isOpen = (job) => ACTIVE.includes(job.status) || job.status === "running"; // a push or an export runs, a training trains
let jobs = null; // { jobs, has_more }
let wanted = ""; // a status, or all
let details = null; // { job, events, logs }
let entered = {};

onEnd(() => state.route.name === "jobs" && refresh(state.route.args));

export function enter(args) {
  details = null;
  note("jobs", "");
  follow(args, (entered = {}));
}

export function leave() {
  entered = {};
}

async function follow(args, mine) {
  await refresh(args);
  // What has ended changes no more, and is not asked for again.
  const again = args[0] ? details === null || isOpen(details.job) : true;
  if (mine === entered && again) setTimeout(() => mine === entered && follow(args, mine), EVERY);
}

// Says what is wrong at a place of its own: asked again and again, it would wipe out what an action has said.
function refresh([id]) {
  return attempt("jobs-load", async () => {
    if (id) details = await one(id);
    else if (!jobs || jobs.jobs.length <= PAGE) jobs = await page();
    update();
  });
}

const page = (after = "") => get(`/api/jobs?limit=${PAGE}${wanted ? `&status=${wanted}` : ""}${after ? `&after=${encodeURIComponent(after)}` : ""}`);

async function one(id) {
  const path = `/api/jobs/${encodeURIComponent(id)}`;
  const [job, { events }, logs] = await Promise.all([get(path), get(`${path}/events`), get(`${path}/logs`)]);
  return { job, events, logs };
}

function older() {
  return attempt("jobs", async () => {
    const more = await page(jobs.jobs.at(-1).job_id);
    jobs = { jobs: [...jobs.jobs, ...more.jobs], has_more: more.has_more };
    update();
  });
}

function filter(event) {
  wanted = event.target.value;
  jobs = null;
  refresh([]);
}

async function act(job, what) {
  note("jobs", what === "cancel" ? "Cancelling: this takes until the process is gone." : "Queueing once more…");
  await attempt("jobs", async () => {
    const done = await call("POST", `/api/jobs/${encodeURIComponent(job.job_id)}/${what}`);
    note("jobs", what === "cancel" ? `${job.job_id} is ${done.status}.` : `Queued once more as ${done.job_id}.`, "good");
    if (what === "retry") go(address("jobs", done.job_id));
    else await refresh(state.route.args);
  });
}

function actions(job) {
  if (isOpen(job)) return button("Cancel", () => act(job, "cancel"));
  if (["failed", "stopped"].includes(job.status)) return button("Retry", () => act(job, "retry"));
  return job.model_id !== null ? link(address("models", job.model_id), "Model") : nothing;
}

function what(job) {
  if (job.kind === "push") return `push to ${job.request.repo_id ?? "the Hub"}`;
  if (job.kind === "export") return `GGUF and bundle of ${job.request.name}`;
  return `${job.request.strategy} on ${job.request.dataset}`;
}

export function view([id]) {
  return id ? detail(id) : overview();
}

function overview() {
  const rows = (jobs?.jobs ?? []).map((job) => [
    html`${link(address("jobs", job.job_id), moment(job.created_at))}`,
    html`${badge(job.status)} ${job.position ? `place ${job.position}` : ACTIVE.includes(job.status) ? `${job.progress} %` : nothing}`,
    what(job), job.request.model_name ?? "–", number(job.loss), actions(job),
  ]);
  return html`${heading("Jobs", "What waits, what runs and what has been, newest first.")}
    ${card("All jobs", html`
      <div class="field narrow"><label for="status">Show</label><select id="status" @change=${filter}>
        <option value="">every job</option>${STATES.map((name) => html`<option ?selected=${wanted === name}>${name}</option>`)}</select></div>
      ${noteView("jobs")}${noteView("jobs-load")}
      ${jobs === null ? html`<p class="empty">Loading…</p>` : table(["Asked for", "State", "What", "Base model", "Loss", ""], rows, { empty: "No job yet." })}
      ${jobs?.has_more ? button("Older jobs", older) : nothing}`, { wide: true, id: "jobs" })}`;
}

function detail(id) {
  return html`${heading(`Job ${id}`, link("jobs", "All jobs"))}${noteView("jobs")}${noteView("jobs-load")}${details ? found(details) : html`<p class="empty">Loading…</p>`}`;
}

function found({ job, events, logs }) {
  const points = curveOf(logs.lines);
  return html`<div class="cards">
    ${card("How far", html`
      ${job.kind !== "train" ? nothing : html`${steps(job)}<progress max="100" .value=${job.progress} aria-label="Progress of the job"></progress>${figures(job)}`}
      ${points.length > 1 ? curve(points) : nothing}
      ${job.error ? html`<p class="bad" role="alert">${job.error}</p>` : nothing}
      ${facts([
        ["What", what(job)], ["Asked for", moment(job.created_at)], ["Began", moment(job.started_at)], ["Ended", moment(job.ended_at)],
        job.position ? ["Place in the queue", job.position] : null, job.retry_of ? ["Does again", link(address("jobs", job.retry_of), job.retry_of)] : null,
        job.run_id ? ["Dagster run", job.dagster_url ? html`<a href=${job.dagster_url} target="_blank" rel="noopener" class="dagster">${job.run_id.slice(0, 8)}</a>` : html`<code>${job.run_id.slice(0, 8)}</code>`] : null,
      ])}
      <div class="actions">${actions(job)}</div>`, { wide: true, aside: badge(job.status) })}
    ${card("What happened", table(["When", "State", "What"], events.map((event) => [moment(event.at), badge(event.status), event.message])))}
    ${card("What was asked for", html`<div class="scrolls" tabindex="0" role="group" aria-label="Settings">${table(["Setting", "Value"], Object.entries(job.request).filter(([, value]) => value !== null).map(([name, value]) => [name, String(value)]))}</div>`)}
    ${card("Log", html`${logs.warnings.map((warning) => html`<p class="bad">${warning}</p>`)}
      <p class="help">${plural(logs.lines.length, "line")}, oldest first.</p>
      <div class="log" tabindex="0" role="log" aria-label="Log of the job">${logs.lines.map((line) => html`<p class=${/error|critical/i.test(line.level) ? "bad" : ""}><time>${line.at.slice(11, 19)}</time> <b>${line.stage ?? line.source}</b> ${line.message}${measured(line.metrics)}</p>`)}</div>`, { wide: true })}
  </div>`;
}

const measured = (metrics) => Object.entries(metrics).filter(([name]) => ["loss", "eval_loss", "learning_rate"].includes(name)).map(([name, value]) => ` ${name} ${number(value)}`).join("");
