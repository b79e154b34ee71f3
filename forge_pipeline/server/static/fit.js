// Whether a training would start and fit: POST /api/validate, asked again shortly after each change of the form.
import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { call } from "./api.js";
import { duration, gibibytes, number } from "./format.js";
import { update } from "./store.js";
import { lineErrors } from "./datasets.js";

const WAIT = 400; // milliseconds after the last change
const BUSY = 2000; // milliseconds until a server that computes another estimate is asked again

export const fit = { answer: null, problem: null, asking: false };
let timer = null;
let wanted = null; // the body to ask about
let running = false; // one question at a time: the server computes one estimate at a time

export function ask(body) {
  wanted = body;
  if (!body) Object.assign(fit, { answer: null, problem: null, asking: false });
  else wait(WAIT);
}

function wait(milliseconds) {
  clearTimeout(timer);
  fit.asking = true;
  timer = setTimeout(() => running || put(), milliseconds);
}

async function put() {
  const body = wanted;
  if (!body) return;
  running = true;
  let answer = null, problem = null;
  try {
    answer = await call("POST", "/api/validate", body);
  } catch (error) {
    problem = error.message;
  }
  running = false;
  const outdated = body !== wanted;
  if (!outdated || answer) Object.assign(fit, { answer, problem, asking: outdated });
  if (outdated) wait(0);
  else if (answer?.notes?.some((words) => words.includes("another one is being computed"))) wait(BUSY);
  update();
}

export const errorOf = (field) => fit.answer?.errors.find((error) => error.field === field)?.message;

export function fitView() {
  const { answer, problem } = fit;
  if (problem) return html`<p class="note bad" role="alert">No estimate: ${problem}</p>`;
  if (!answer) return html`<p class="empty">${fit.asking ? "Estimating…" : "Choose a dataset and a base model to see whether it fits."}</p>`;
  return html`
    ${fit.asking ? html`<p class="help">Estimating anew…</p>` : nothing}
    <p class=${answer.valid ? "good" : "bad"} role="status">${answer.valid ? "Ready to start." : "This cannot start yet:"}</p>
    ${answer.valid ? nothing : html`<ul class="bad">${answer.errors.map((error) => html`<li>${error.field ? html`<b>${error.field}</b>: ` : nothing}${error.message}</li>`)}</ul>`}
    ${answer.dataset?.errors?.length ? lineErrors({ errors: answer.dataset.errors, error_count: answer.dataset.errors.length }) : nothing}
    ${answer.estimate ? estimate(answer.estimate) : nothing}
    ${(answer.notes ?? []).map((words) => html`<p class="help">${words}</p>`)}
    ${answer.dataset ? html`<p class="help">${number(answer.dataset.num_examples)} rows of (${answer.dataset.schema ?? "no known kind"})</p>` : nothing}`;
}

function estimate(found) {
  const { training_gib: needs, available_gib: has } = found;
  const share = has ? Math.min(needs / has, 1) : 1;
  return html`
    <div class="memory ${found.fits ? "" : "over"}">
      <p><b>${gibibytes(needs)}</b> of ${gibibytes(has)} memory while training</p>
      <meter min="0" max="1" high="0.9" .value=${share} aria-label="Memory for training">${Math.round(100 * share)} %</meter>
      <p class=${found.fits ? "good" : "bad"}>${found.fits ? "It fits." : "It does not fit in this machine's memory."}</p>
    </div>
    <dl class="facts">
      <div><dt>Afterwards, to answer</dt><dd>${gibibytes(found.serving_gib)}</dd></div>
      <div><dt>Time</dt><dd>${found.seconds === null ? "not known before the first runs" : `about ${duration(found.seconds)}`}</dd></div>
    </dl>
    ${(found.notes ?? []).map((words) => html`<p class="help">${words}</p>`)}
    ${found.advice.length ? html`<ul class="advice">${found.advice.map((words) => html`<li>${words}</li>`)}</ul>` : nothing}`;
}
