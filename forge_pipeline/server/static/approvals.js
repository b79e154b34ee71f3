// Releases that wait for people: gates, digests, decisions, the bundle, and the command for a signed decision.
import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { call, download, get } from "./api.js";
import { moment, number } from "./format.js";
import { attempt, note, update } from "./store.js";
import { badge, button, card, heading, noteView, table } from "./widgets.js";

export const title = "Approvals";

let found = null; // { approvals, may_decide }
let all = false;

const load = async () => {
  found = await get(`/api/approvals${all ? "?state=all" : ""}`);
  update();
};

export const enter = () => attempt("approval", load);

export const gateTable = (gates) => table(
  ["Gate", "Verdict", "Observed", "Threshold", "n", "Why"],
  gates.map((gate) => [gate.gate, badge(gate.verdict), number(gate.observed), number(gate.threshold), number(gate.n), gate.reason]),
  { empty: "No gate was asked." },
);

function decide(item, kind, form) {
  if (!form.reportValidity()) return;
  const reason = form.elements.reason.value;
  attempt("approval", async () => {
    const done = await call("POST", `/api/approvals/${encodeURIComponent(item.request_id)}`, { decision: kind, reason, model: item.model });
    await load();
    note("approval", `${item.request_id}: ${kind}; now ${done.state}`, kind === "granted" ? "good" : "");
  });
}

function decision(item) {
  if (!found.may_decide || item.signed_only || item.state !== "open") return nothing;
  const act = (kind) => (event) => decide(item, kind, event.target.form);
  return html`<form @submit=${(event) => event.preventDefault()}>
    <label class="field">Reason <input name="reason" required minlength="3" placeholder="Why, in words" aria-label="Reason of a decision about ${item.request_id}"></label>
    <div class="actions">${button("Approve", act("granted"), { kind: "primary" })}${button("Reject", act("rejected"))}</div>
  </form>`;
}

function request(item) {
  const asks = [`${item.needed} approvals`, ...(item.four_eyes ? ["four eyes"] : []), ...item.missing_roles.map((role) => `one by ${role}`)];
  const path = `/api/approvals/${encodeURIComponent(item.request_id)}/bundle`;
  return html`<article class="card wide">
    <header class="card-head"><h2>${item.line} ${item.request_id}: ${item.state}, ${item.still_needed} more needed</h2></header>
    <p>${item.problem || `Asked by ${item.requested_by} at ${moment(item.created_at)}, until ${moment(item.expires_at)}; needs ${asks.join(", ")}.`}</p>
    ${gateTable(item.gates)}
    <h3>What is decided about</h3>
    ${table(["Shown", "Digest"], Object.entries(item.shown).map(([name, value]) => [name, html`<code class="digest">${value}</code>`]))}
    ${item.decisions.length ? html`<h3>Decisions</h3>${table(["Decision", "By", "Identity", "Reason", "Counts"], item.decisions.map((made) => [badge(made.decision), made.approver, made.identity.replace("_", " "), made.reason, made.not_counted || "yes"]))}` : nothing}
    <p>${item.signed_only ? "Only signed decisions count. Check the model's digest, then type:" : "To sign the decision, which is stronger, check the model's digest and type:"}</p>
    <pre>${item.command}</pre>
    ${item.has_bundle ? button("Download the bundle", () => attempt("approval", () => download(path, `annex-iv-${item.request_id}.zip`))) : nothing}
    ${decision(item)}
  </article>`;
}

export function view() {
  const items = found?.approvals ?? [];
  return html`${heading("Approvals", "Releases that wait for people. What is decided here stands in the tamper-evident log, with the name of the API key.")}
    <label class="inline"><input type="checkbox" .checked=${all} @change=${(event) => { all = event.target.checked; enter(); }}> also those that wait no more</label>
    ${noteView("approval")}
    <div class="cards" id="approvals">${items.map(request)}${found && !items.length ? card("Nothing waits for approval.", html`<p class="help">A line with <code>approvals</code> in its recipe asks here before it releases a model.</p>`, { wide: true }) : nothing}</div>`;
}
