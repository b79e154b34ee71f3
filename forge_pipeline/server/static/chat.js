// Chat with a tuned model, its base model beside it; summaries, answers and scores for models of other tasks.
import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { live as bound } from "./vendor/lit-html/directives/live.js";
import { call, stream } from "./api.js";
import { known, number, plural } from "./format.js";
import { loadModels, models } from "./models.js";
import { TASKS } from "./methods.js";
import { attempt, state, update } from "./store.js";
import { button, heading, noteView } from "./widgets.js";

export const title = "Chat";

const FIELDS = {
  max_new_tokens: ["Longest answer, in tokens", "A token is about three quarters of a word.", { min: 1, max: 4096, step: 1 }],
  temperature: ["Temperature", "0 always takes the likeliest word; higher is freer.", { min: 0, max: 2, step: "any" }],
  top_p: ["Top p", "Leaves out the least likely words; 1 keeps them all.", { min: 0.01, max: 1, step: "any" }],
  seed: ["Seed", "The same number gives the same answer again.", { min: 0, max: 2147483647, step: 1 }],
};
const settings = { max_new_tokens: "100", temperature: "0.7", top_p: "0.9", seed: "", system: "", stop: "", compare: true };
const ask = { prompt: "", context: "", completion: "" };
let turns = []; // { prompt, context, completion, answers: { tuned, base } }
let running = null; // an AbortController while somebody answers

export async function enter(_, query) {
  await attempt("chat", loadModels);
  if (!query.get("model") && models.list?.length) location.replace(`#/chat?model=${models.list.at(-1).id}`);
}

export function leave() {
  running?.abort();
}

const chosen = () => models.list?.find((model) => String(model.id) === state.route.query.get("model"));
const isChat = (model) => model.task === "text-generation";
const sides = (model) => (settings.compare && ["text-generation", "summarization"].includes(model.task) ? ["base", "tuned"] : ["tuned"]);

function pick(event) {
  turns = [];
  running?.abort();
  location.hash = `#/chat?model=${event.target.value}`;
}

function submit(event) {
  event.preventDefault();
  const model = chosen();
  if (!model || running || !ask.prompt.trim()) return;
  const turn = { ...ask, answers: Object.fromEntries(sides(model).map((side) => [side, { text: "", state: "waiting" }])) };
  turns = [...turns, turn];
  ask.prompt = "";
  running = new AbortController();
  const { signal } = running;
  // One after the other would show no more: the server lets one request at a time compute.
  Promise.all(Object.entries(turn.answers).map(([side, answer]) => answerOf(model, side, turn, answer, signal))).finally(() => {
    running = null;
    update();
  });
  update();
}

async function answerOf(model, side, turn, answer, signal) {
  const began = performance.now();
  try {
    if (isChat(model)) await converse(model, side, turn, answer, signal);
    else await generate(model, side, turn, answer, signal);
    answer.state = "done";
  } catch (error) {
    answer.state = error.name === "AbortError" ? "stopped" : "failed";
    if (answer.state === "failed") answer.error = error.message;
  }
  answer.ms ??= performance.now() - began;
  update();
}

const numeric = (names) => Object.fromEntries(names.filter((name) => settings[name] !== "").map((name) => [name === "max_new_tokens" && names.includes("seed") ? "max_tokens" : name, Number(settings[name])]));

async function converse(model, side, turn, answer, signal) {
  const messages = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  for (const past of turns.slice(0, turns.indexOf(turn))) {
    const said = past.answers[side];
    if (said?.state === "done") messages.push({ role: "user", content: past.prompt }, { role: "assistant", content: said.text });
  }
  messages.push({ role: "user", content: turn.prompt });
  const body = { model: side === "base" ? `${model.id}:base` : String(model.id), messages, stream: true, stream_options: { include_usage: true }, ...numeric(["max_new_tokens", "temperature", "top_p", "seed"]) };
  const stop = settings.stop.split("\n").filter(Boolean);
  if (stop.length) body.stop = stop;
  for await (const { event, data } of stream("/v1/chat/completions", body, signal)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (event === "error" || chunk.error) throw new Error(chunk.detail ?? chunk.error?.message ?? chunk.error);
    const [choice] = chunk.choices ?? [];
    answer.text += choice?.delta?.content ?? "";
    answer.finish = choice?.finish_reason ?? answer.finish;
    answer.tokens = chunk.usage?.completion_tokens ?? answer.tokens;
    answer.state = "answering";
    update();
  }
}

async function generate(model, side, turn, answer, signal) {
  const body = { model_id: model.id, prompt: turn.prompt, ...numeric(["max_new_tokens", "temperature", "top_p"]) };
  if (side === "base") body.base = true;
  if (model.task === "extractive-question-answering") body.context = turn.context;
  if (model.task === "reward-modeling") body.completion = turn.completion;
  const done = await call("POST", "/api/playground/generate", body, signal);
  Object.assign(answer, { text: done.generated_text, tokens: done.tokens_generated, ms: done.generation_time_ms, score: done.score });
}

const NAMES = { tuned: "Tuned model", base: "Base model" };

function answerView(side, answer) {
  const told = [known(answer.tokens) ? plural(answer.tokens, "token") : null, known(answer.ms) && answer.state === "done" ? `${number(Math.round(answer.ms))} ms` : null,
    known(answer.score) ? `score ${number(answer.score)}` : null, answer.finish === "length" ? "cut at the longest answer" : null, answer.state === "stopped" ? "stopped" : null];
  return html`<div class="answer ${side} ${answer.state}" aria-busy=${["waiting", "answering"].includes(answer.state)}>
    <h3>${NAMES[side]}</h3>
    <div class="said">${answer.text.trim() || (answer.state === "waiting" ? html`<span class="waiting">waiting…</span>` : answer.state === "done" && !known(answer.score) ? html`<span class="help">(no answer)</span>` : "")}</div>
    ${answer.error ? html`<p class="bad" role="alert">${answer.error}</p>` : nothing}
    <p class="help">${told.filter(Boolean).join(" · ")}</p>
  </div>`;
}

function turnView(turn) {
  return html`<div class="turn">
    <div class="asked"><h3 class="for-readers">You</h3>${turn.prompt}</div>
    <div class="answers" data-sides=${Object.keys(turn.answers).length}>${Object.entries(turn.answers).map(([side, answer]) => answerView(side, answer))}</div>
  </div>`;
}

function area(name, label, rows) {
  return html`<div class="field"><label for="ask-${name}">${label}</label>
    <textarea id="ask-${name}" rows=${rows} required .value=${bound(ask[name])} @input=${(event) => { ask[name] = event.target.value; }} @keydown=${enterSends}></textarea></div>`;
}

function enterSends(event) {
  if (event.key === "Enter" && !event.shiftKey && event.target.id === "ask-prompt" && !event.isComposing) {
    event.preventDefault();
    event.target.form.requestSubmit();
  }
}

const PROMPTS = { "text-generation": "Your message", summarization: "The document", "extractive-question-answering": "The question", "reward-modeling": "The prompt" };

function form(model) {
  return html`<form id="chat" class="ask" @submit=${submit}>
    ${model.task === "extractive-question-answering" ? area("context", "The text that holds the answer", 4) : nothing}
    ${area("prompt", PROMPTS[model.task] ?? "Your message", model.task === "summarization" ? 6 : 2)}
    ${model.task === "reward-modeling" ? area("completion", "The answer to score", 3) : nothing}
    <div class="actions">
      ${running ? button("Stop", () => running?.abort()) : html`<button class="primary">Send</button>`}
      ${turns.length && !running ? button("New chat", () => { turns = []; update(); }) : nothing}
      <span class="help">Enter sends, Shift+Enter is a new line.</span>
    </div>
  </form>`;
}

function panel(model) {
  const set = (name) => (event) => { settings[name] = event.target.type === "checkbox" ? event.target.checked : event.target.value; update(); };
  const names = isChat(model) ? Object.keys(FIELDS) : Object.keys(FIELDS).filter((name) => name !== "seed");
  return html`<details class="card settings" ?open=${matchMedia("(min-width: 60rem)").matches}><summary>Settings</summary>
    ${sides(model).length === 2 || !settings.compare ? html`<label class="check"><input type="checkbox" name="compare" .checked=${settings.compare} @change=${set("compare")}> Ask the base model, too</label>
      <p class="help">Shows side by side what the training changed.</p>` : nothing}
    ${isChat(model) ? html`<div class="field"><label for="system">System prompt</label><textarea id="system" rows="2" .value=${settings.system} @input=${set("system")} aria-describedby="system-help"></textarea>
      <p class="help" id="system-help">Who the model is to be; it reads this first.</p></div>` : nothing}
    ${names.map((name) => {
      const [label, about, range] = FIELDS[name];
      return html`<div class="field"><label for="set-${name}">${label}</label><input id="set-${name}" name=${name} type="number" min=${range.min} max=${range.max} step=${range.step} .value=${settings[name]} @input=${set(name)} aria-describedby="set-${name}-help">
        <p class="help" id="set-${name}-help">${about}</p></div>`;
    })}
    ${isChat(model) ? html`<div class="field"><label for="stop">Stop at</label><textarea id="stop" rows="1" .value=${settings.stop} @input=${set("stop")} aria-describedby="stop-help"></textarea><p class="help" id="stop-help">The answer ends before any of these, one a line, at most 4.</p></div>` : nothing}
  </details>`;
}

export function view() {
  const model = chosen();
  const list = models.list ?? [];
  return html`${heading("Chat", model ? TASKS[model.task]?.about : "Try what was trained.")}
    ${noteView("chat")}
    <div class="field narrow"><label for="model">Model</label><select id="model" @change=${pick}>${[...list].reverse().map((each) => html`<option value=${each.id} ?selected=${each === model}>${each.name}</option>`)}</select></div>
    ${model ? html`<div class="two chat"><div><div class="turns" role="log" aria-label="Conversation">${turns.map(turnView)}</div>${form(model)}</div><aside>${panel(model)}</aside></div>`
      : html`<p class="empty">${models.list ? "There is no such model. Train one first." : "Loading…"}</p>`}`;
}
