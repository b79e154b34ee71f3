// A new training: dataset, base model, task, strategy, settings; whether it fits; start or queue.
import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { repeat } from "./vendor/lit-html/directives/repeat.js";
import { live as bound } from "./vendor/lit-html/directives/live.js";
import { call, get } from "./api.js";
import { datasets, loadDatasets } from "./datasets.js";
import { CHOSEN, GROUPS, HELP, SIMPLE, control } from "./fields.js";
import { ask, errorOf, fit, fitView } from "./fit.js";
import { isActive } from "./live.js";
import { STRATEGIES, TASKS } from "./methods.js";
import { nowView } from "./now.js";
import { attempt, note, state, update } from "./store.js";
import { address, button, card, heading, link, noteView } from "./widgets.js";

export const title = "Train";

const DRAFT = "forge-draft"; // in sessionStorage: the form as it was left, so that a reload keeps it
let schema = null; // field -> control, from the server's description of the start body
let draft = { task: "text-generation", strategy: "sft", priority: 0, all: false, values: {}, ...stored() };
let sending = false;
let queued = null; // the job that was queued last

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(DRAFT)) ?? {};
  } catch {
    return {};
  }
}

function change(patch) {
  draft = { ...draft, ...patch };
  sessionStorage.setItem(DRAFT, JSON.stringify(draft));
  ask(body());
  update();
}

export async function enter(_, query) {
  await attempt("start", async () => {
    const [, description] = await Promise.all([loadDatasets(), schema ? null : get("/openapi.json")]);
    if (description) {
      const { schemas } = description.components;
      schema = Object.entries(schemas.StartTraining.properties).map(([name, property]) => ({ name, ...control(property, schemas) }));
    }
    const names = datasets.list.map((item) => item.filename), wanted = query.get("dataset") ?? draft.dataset;
    change({
      dataset: names.includes(wanted) ? wanted : names.at(-1),
      model_name: draft.model_name ?? state.info?.package_models[0] ?? "",
    });
  });
}

// What is sent: what was chosen, and of the settings those that were changed and are shown.
function body() {
  if (!schema || !draft.dataset || !draft.model_name?.trim()) return null;
  const sent = { task: draft.task, strategy: draft.strategy, dataset: draft.dataset, model_name: draft.model_name };
  for (const field of shownFields()) {
    const value = draft.values[field.name];
    if (value !== undefined && value !== "") sent[field.name] = field.kind === "number" ? Number(value) : value;
  }
  return sent;
}

const shownFields = () => (schema ?? []).filter(({ name }) => !CHOSEN.includes(name) && (draft.all || SIMPLE.includes(name)));

async function submit(event) {
  event.preventDefault();
  const queue = event.submitter?.value === "queue";
  sending = true;
  queued = null;
  note("start", queue ? "Queueing…" : "Starting…");
  const done = await attempt("start", () => call("POST", queue ? "/api/jobs" : "/api/start_training", queue ? { ...body(), priority: Number(draft.priority) || 0 } : body()));
  sending = false;
  if (!done) return update();
  const words = queue ? `Queued${done.position ? ` at place ${done.position}` : ""}.` : done.message;
  queued = done.job_id;
  note("start", [words, ...(done.warnings ?? [])].join("\n"), "good");
}

function offers(kind, name, table) {
  const offered = state.info?.availability[kind] ?? {};
  return html`<div class="choices" role="radiogroup" aria-label=${name === "task" ? "Task" : "Strategy"}>
    ${Object.entries(offered).map(([value, { available, reason }]) => {
      const { name: title, about, rows } = table[value] ?? { name: value, about: "" };
      const fits = name === "task" || draft.task === "text-generation" || ["sft", "qlora"].includes(value);
      const why = available ? (fits ? null : "For the task “Write text” only.") : reason;
      return html`<label class="choice ${why ? "off" : ""}">
        <input type="radio" name=${name} value=${value} .checked=${bound(draft[name] === value)} ?disabled=${why !== null}
          @change=${() => change(name === "task" && value !== "text-generation" && !["sft", "qlora"].includes(draft.strategy) ? { task: value, strategy: "sft" } : { [name]: value })}>
        <span><b>${title}</b> <code>${value}</code><span class="help">${about}${rows ? html` Rows: ${rows}.` : nothing}</span>
        ${why ? html`<span class="help why">${why}</span>` : nothing}</span>
      </label>`;
    })}</div>`;
}

function setting(field) {
  const [label, about] = HELP[field.name] ?? [field.name, field.about];
  const value = draft.values[field.name] ?? "", error = beyond(field, value) ?? errorOf(field.name), id = `field-${field.name}`;
  const put = (event) => change({ values: { ...draft.values, [field.name]: field.kind === "choice" ? picked(field, event.target.value) : event.target.value } });
  const unset = field.default === undefined || field.default === null ? "automatic" : `${field.default}`;
  const input = field.kind === "choice"
    ? html`<select id=${id} name=${field.name} aria-describedby="${id}-help" aria-invalid=${error ? "true" : "false"} @change=${put}>
        <option value="" ?selected=${value === ""}>${unset === "true" ? "yes" : unset === "false" ? "no" : unset} (default)</option>
        ${field.choices.map((choice) => html`<option value=${String(choice)} ?selected=${value === choice}>${choice === true ? "yes" : choice === false ? "no" : choice}</option>`)}</select>`
    : html`<input id=${id} name=${field.name} type=${field.kind} min=${field.min ?? nothing} max=${field.max ?? nothing} step=${field.step ?? nothing}
        placeholder=${unset} .value=${bound(String(value))} aria-describedby="${id}-help" aria-invalid=${error ? "true" : "false"} @input=${put}>`;
  return html`<div class="field"><label for=${id}>${label}</label>${input}
    <p class="help" id="${id}-help">${about}</p>${error ? html`<p class="bad">${error}</p>` : nothing}</div>`;
}

// Said at once; the server's own check follows a moment later.
function beyond({ kind, min = -Infinity, max = Infinity }, value) {
  if (kind !== "number" || value === "" || (Number(value) >= min && Number(value) <= max)) return undefined;
  return max === Infinity ? `At least ${min}.` : min === -Infinity ? `At most ${max}.` : `Between ${min} and ${max}.`;
}

const picked = (field, text) => field.choices.find((choice) => String(choice) === text) ?? "";

function settings() {
  const shown = shownFields(), grouped = Object.values(GROUPS).flat();
  const groups = draft.all ? { ...GROUPS, Other: shown.map(({ name }) => name).filter((name) => !grouped.includes(name)) } : { "": SIMPLE };
  return html`<div class="modes" role="radiogroup" aria-label="Which settings are shown">
      ${[["Simple", false], ["All fields", true]].map(([label, all]) => html`<label><input type="radio" name="mode" .checked=${bound(draft.all === all)} @change=${() => change({ all })}> ${label}</label>`)}
    </div>
    ${repeat(Object.entries(groups).filter(([, names]) => names.length), ([group]) => group, ([group, names]) => html`
      ${group ? html`<h3>${group}</h3>` : nothing}
      <div class="fields">${repeat(names.map((name) => shown.find((field) => field.name === name)).filter(Boolean), (field) => field.name, setting)}</div>`)}
    ${Object.keys(draft.values).length ? button("Back to the defaults", () => change({ values: {} })) : nothing}`;
}

function form() {
  const list = datasets.list ?? [];
  const ready = body() !== null && !sending;
  return html`<form id="start" @submit=${submit} novalidate>
    ${card("1. Dataset", html`<div class="field"><label for="dataset">What it learns from</label>
      <select id="dataset" name="dataset" @change=${(event) => change({ dataset: event.target.value })}>
        ${list.map((item) => html`<option value=${item.filename} ?selected=${item.filename === draft.dataset}>${item.filename} (${item.num_examples} rows)</option>`)}</select>
      ${list.length ? nothing : html`<p class="help">There is none yet. ${link("datasets", "Upload one")}.</p>`}${fieldError("dataset")}</div>`)}
    ${card("2. Base model", html`<div class="field"><label for="model_name">The model that goes on learning</label>
      <input id="model_name" name="model_name" list="base-models" autocomplete="off" spellcheck="false" .value=${bound(draft.model_name ?? "")} aria-describedby="model-help" @input=${(event) => change({ model_name: event.target.value })}>
      <datalist id="base-models">${(state.info?.package_models ?? []).map((name) => html`<option value=${name}></option>`)}</datalist>
      <p class="help" id="model-help">A name from the Hugging Face Hub such as <code>HuggingFaceTB/SmolLM2-135M</code>, or one that lies on this server.</p>${fieldError("model_name")}</div>`)}
    ${card("3. Task", html`${offers("tasks", "task", TASKS)}${fieldError("task")}`)}
    ${card("4. Strategy", html`${offers("strategies", "strategy", STRATEGIES)}${fieldError("strategy")}`)}
    ${card("5. Settings", settings())}
    ${card("6. Go", html`${noteView("start")}
      ${queued ? html`<p>${link(address("jobs", queued), "Follow the job", "strong")}</p>` : nothing}
      <div class="actions">
        <button class="primary" value="start" ?disabled=${!ready || isActive()} title=${isActive() ? "One training runs at a time; queue this one" : nothing}>Start training</button>
        <button class="plain" value="queue" ?disabled=${!ready}>Add to the queue</button>
        <label class="inline">Priority <input type="number" min="-100" max="100" .value=${bound(String(draft.priority))} @input=${(event) => change({ priority: event.target.value })} aria-label="Priority in the queue, -100 to 100; higher goes first"></label>
      </div>`)}
  </form>`;
}

const fieldError = (name) => (errorOf(name) ? html`<p class="bad">${errorOf(name)}</p>` : nothing);

export function view() {
  return html`${heading("Train", "Choose what to learn from and how. Nothing starts before you say so.")}
    ${nowView()}
    <div class="two">
      ${form()}
      <aside>${card("Will it fit?", html`<div id="fit" aria-busy=${fit.asking}>${fitView()}</div>`)}</aside>
    </div>`;
}
