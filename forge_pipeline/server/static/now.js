// The job that has its turn: how far it is, its curve, how to stop it.
import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { call } from "./api.js";
import { curve } from "./charts.js";
import { duration, number } from "./format.js";
import { ACTIVE, isActive, live, livePoints, remaining } from "./live.js";
import { stageName, steps } from "./stages.js";
import { attempt, note, update } from "./store.js";
import { address, badge, button, card, facts, link, noteView } from "./widgets.js";

let stopping = false;
let chosen = null;

async function stop() {
  stopping = true;
  note("now", "Stopping: this takes until the process is gone.");
  const done = await attempt("now", () => call("POST", "/api/stop_training"));
  stopping = false;
  if (done) note("now", done.message);
}

export function figures(status, seconds) {
  return facts([
    ["Done", `${status.progress} %`],
    ["Epoch", `${number(status.current_epoch)} of ${number(status.total_epochs)}`],
    ["Step", `${number(status.current_step)} of ${number(status.total_steps)}`],
    ["Loss", number(status.loss)],
    ["Learning rate", number(status.learning_rate, 3)],
    seconds === undefined ? null : ["Time left", seconds === null ? "–" : duration(seconds)],
  ]);
}

export function nowView() {
  const { status } = live;
  if (!status || status.status === "idle") return nothing;
  const active = isActive();
  const words = active && status.stage ? `${stageName(status.stage)}${status.message ? `: ${status.message}` : ""}` : "";
  return card(active ? "Training now" : "Last training", html`
    ${steps(status)}
    <progress id="bar" max="100" .value=${status.progress} aria-label="Progress of the training"></progress>
    ${figures(status, active ? remaining() : undefined)}
    ${livePoints().length > 1 ? curve(livePoints(), chosen, (point) => { chosen = point; update(); }) : nothing}
    ${words ? html`<p class="help" id="stage">${words}</p>` : nothing}
    ${status.error ? html`<p class="bad" role="alert">${status.error}</p>` : nothing}
    ${noteView("now")}
    <div class="actions">
      ${active ? button("Stop", stop, { disabled: stopping }) : nothing}
      ${status.job_id ? link(address("jobs", status.job_id), "Log and details of the job") : nothing}
      ${live.dagsterUrl ? html`<a class="dagster" href=${live.dagsterUrl} target="_blank" rel="noopener">Run in Dagster</a>` : nothing}
      ${status.status === "completed" ? link("models", "See the model", "strong") : nothing}
    </div>`, { wide: true, id: "now", aside: html`<span id="state" role="status">${badge(status.status)}</span>` });
}

// In the head of every page: that something runs, and how far it is.
export function pill() {
  const { status } = live;
  if (!status || !ACTIVE.includes(status.status)) return nothing;
  return html`<a class="pill" href="#/training">${status.status} ${status.progress} %</a>`;
}
