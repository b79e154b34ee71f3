// Tasks and strategies in plain words: what each learns, from which rows.

export const TASKS = {
  "text-generation": { name: "Write text", about: "Answers, chats and continues text. Most models are trained for this." },
  summarization: { name: "Summarize", about: "Shortens a document to a summary. Rows hold a document and its summary." },
  "extractive-question-answering": {
    name: "Find the answer in a text",
    about: "Marks the words of a given text that answer a question. It never makes up words. Rows hold context, question and answer.",
  },
  "reward-modeling": { name: "Score answers", about: "Says how good an answer is, as a number." },
};

export const STRATEGIES = {
  sft: { name: "Learn from examples", about: "Shows the model good answers until it answers like them. Start here.", rows: "prompts with answers" },
  qlora: {
    name: "Learn from examples, less memory",
    about: "The same, with the base model squeezed to 4 bits a number. Fits large models on small machines; a little less exact.",
    rows: "prompts with answers",
  },
  dpo: {
    name: "Learn from preferences",
    about: "Shows a better and a worse answer to each prompt, so that the model prefers the better kind.",
    rows: "prompt, chosen, rejected",
  },
  orpo: { name: "Preferences and examples at once", about: "As preferences, and learns the better answers themselves; needs no second copy of the model.", rows: "prompt, chosen, rejected" },
  simpo: { name: "Preferences without a second copy", about: "As preferences, with less memory; judges an answer by its likelihood for its length.", rows: "prompt, chosen, rejected" },
  kto: { name: "Learn from thumbs up and down", about: "Single answers, each marked as good or bad. Needs no pairs.", rows: "prompt, completion, label" },
  rlhf: { name: "Learn from a model of preferences", about: "Trains a scoring model from pairs first, then trains against its scores. Takes longest.", rows: "prompt, chosen, rejected" },
  grpo: { name: "Learn by trying", about: "The model writes several answers to each prompt and learns from those that score best.", rows: "prompts, with an answer to check against" },
  reward: { name: "Train a judge of answers", about: "Makes a model that scores answers. It writes no text itself.", rows: "prompt, chosen, rejected" },
  pretraining: { name: "Read on", about: "Reads plain text as the base model once did: for the language of a field, not for answering.", rows: "plain text" },
};

// What the measurements of a model mean; better: which way is better.
export const METRICS = {
  final_loss: { name: "Loss", better: "lower", about: "How far the model's guesses are from the held-out rows." },
  perplexity: { name: "Perplexity", better: "lower", about: "Between how many words the model wavers on held-out text; 1 is certain." },
  rouge1: { name: "ROUGE-1", better: "higher", about: "Words that the summary shares with the one in the dataset, 0 to 1." },
  rouge2: { name: "ROUGE-2", better: "higher", about: "Pairs of words shared, 0 to 1." },
  rougeL: { name: "ROUGE-L", better: "higher", about: "Longest common sequence of words, 0 to 1." },
  rougeLsum: { name: "ROUGE-Lsum", better: "higher", about: "The same, sentence by sentence, 0 to 1." },
  exact_match: { name: "Exact answers", better: "higher", about: "Share of answers that are word for word right." },
  f1: { name: "F1", better: "higher", about: "Overlap of found and right answers, 0 to 1." },
  reward_accuracy: { name: "Pairs ranked right", better: "higher", about: "Share of held-out pairs whose better answer is preferred." },
  mean_reward: { name: "Mean reward", better: "higher", about: "Score of the answers that the model wrote last." },
};
