// What a training job goes through, in order, in words.
import { html, nothing } from "./vendor/lit-html/lit-html.js";

const STAGES = [
  { name: "Read the dataset", stages: ["recipe", "ingest", "raw_dataset"] },
  { name: "Audit it", stages: ["dataset_audit", "clean"] },
  { name: "Cut into tokens", stages: ["tokenize"] },
  { name: "Train and measure", stages: ["fine_tune"] },
];

export const stageName = (stage) => STAGES.find((each) => each.stages.includes(stage))?.name ?? stage;

export function steps(status) {
  const here = STAGES.findIndex((each) => each.stages.includes(status.stage));
  const done = status.status === "completed" ? STAGES.length : here;
  return html`<ol class="steps" aria-label="Stages">${STAGES.map(({ name }, place) => {
    const state = place < done ? "done" : place === here && done === here ? "now" : "ahead";
    return html`<li class=${state} aria-current=${state === "now" ? "step" : nothing}>${name}</li>`;
  })}</ol>`;
}
