// The settings of a training: which are simple, how they are grouped, and what each does, in a line.
// Types, ranges, choices and defaults are the server's own, from its OpenAPI description.

export const SIMPLE = ["num_train_epochs", "learning_rate", "per_device_train_batch_size", "max_seq_length", "lora_r", "eval_split"];

// Chosen elsewhere in the form.
export const CHOSEN = ["task", "model_name", "dataset", "strategy"];

export const GROUPS = {
  "How long and how fast": [
    "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_ratio", "per_device_train_batch_size",
    "gradient_accumulation_steps", "optim", "weight_decay", "max_grad_norm",
  ],
  "What is trained": ["lora_r", "lora_alpha", "lora_dropout"],
  "Text": ["max_seq_length", "packing", "group_by_length", "use_chat_template"],
  "Memory and numbers": [
    "use_4bit", "bnb_4bit_quant_type", "bnb_4bit_compute_dtype", "use_nested_quant", "use_8bit", "fp16", "bf16", "gradient_checkpointing",
  ],
  "Measuring": ["eval_split", "eval_steps", "per_device_eval_batch_size"],
  "Where": ["provider", "device", "compute_specs"],
};

export const HELP = {
  num_train_epochs: ["Epochs", "How often the whole dataset is gone through. More learns more, until it learns by heart."],
  max_steps: ["Most updates", "Stop after so many updates, whatever the epochs say. -1: let the epochs decide."],
  learning_rate: ["Learning rate", "How much each update may change. Too high forgets, too low learns nothing."],
  lr_scheduler_type: ["Learning rate over time", "How the learning rate falls until the end."],
  warmup_ratio: ["Warm-up", "Share of the updates in which the learning rate rises to its full value."],
  per_device_train_batch_size: ["Rows at once", "More is faster and needs more memory."],
  gradient_accumulation_steps: ["Batches for one update", "Adds up several batches before each update: as larger batches, with the memory of small ones."],
  optim: ["Optimizer", "The rule that turns errors into changes."],
  weight_decay: ["Weight decay", "Pulls weights towards zero, against learning by heart."],
  max_grad_norm: ["Largest gradient", "Cuts off updates that are unusually large."],
  lora_r: ["Adapter rank", "How much can be learned: the size of the small adapter that is trained beside the frozen base model."],
  lora_alpha: ["Adapter weight", "How strongly the adapter counts, relative to its rank."],
  lora_dropout: ["Adapter dropout", "Share of the adapter that is left out at random while training, against learning by heart."],
  max_seq_length: ["Longest row, in tokens", "Longer rows are cut. A token is about three quarters of an English word."],
  packing: ["Pack rows together", "Several short rows in one sequence: faster where rows are short."],
  group_by_length: ["Group rows by length", "Rows of like length in one batch, so that less is padded."],
  use_chat_template: ["Use the chat template", "Writes rows in the form that the base model's chats have."],
  use_4bit: ["Base model in 4 bits", "Holds the frozen base model in a quarter of the memory."],
  bnb_4bit_quant_type: ["Kind of 4 bits", "nf4 fits the weights of language models better."],
  bnb_4bit_compute_dtype: ["Compute 4 bits in", "The number format that 4-bit weights are unpacked to."],
  use_nested_quant: ["Squeeze twice", "Squeezes the scale factors of the 4-bit weights, too."],
  use_8bit: ["Base model in 8 bits", "Half the memory for the base model; not in this version."],
  fp16: ["Compute in float16", "Half precision, for older GPUs."],
  bf16: ["Compute in bfloat16", "Half precision with a wide range, for newer GPUs."],
  gradient_checkpointing: ["Compute twice, store less", "Saves memory and takes longer."],
  eval_split: ["Held-out share", "Rows that are not learned from, but used to measure. 0.2 is every fifth row."],
  eval_steps: ["Measure every ... updates", "How often the held-out rows are measured while training."],
  per_device_eval_batch_size: ["Rows at once when measuring", "More is faster and needs more memory."],
  provider: ["Trained by", "The library that trains. What cannot run here is refused."],
  device: ["Device", "auto takes the GPU where there is one."],
  compute_specs: ["Label of the machine", "Kept with the job; changes nothing."],
};

// What a property of the OpenAPI schema means for a form: { kind, choices, min, max, step, default, optional, about }.
export function control(property, schemas) {
  const kinds = (property.anyOf ?? [property]).map((kind) => (kind.$ref ? schemas[kind.$ref.split("/").at(-1)] : kind));
  const real = kinds.filter((kind) => kind.type !== "null");
  const choices = real.find((kind) => kind.enum)?.enum;
  const types = real.map((kind) => kind.type);
  const bound = (name) => real.map((kind) => kind[name]).find((value) => value !== undefined);
  const common = { default: property.default, optional: real.length < kinds.length, about: property.description ?? "" };
  if (choices) return { ...common, kind: "choice", choices };
  if (types.includes("boolean")) return { ...common, kind: "choice", choices: [true, false] };
  if (types.includes("integer") || types.includes("number")) {
    const whole = !types.includes("number");
    return { ...common, kind: "number", min: property.minimum ?? bound("minimum") ?? property.exclusiveMinimum ?? bound("exclusiveMinimum"),
      max: property.maximum ?? bound("maximum") ?? property.exclusiveMaximum ?? bound("exclusiveMaximum"), step: whole ? 1 : "any" };
  }
  return { ...common, kind: "text" };
}
