// What more than one section shows, and the one way to have the page drawn again.
// A section keeps what is its own in its own module and calls update() when that changes.

export const state = {
  route: { name: "", args: [], query: new URLSearchParams() },
  health: null, // GET /api/health, or { launcher: "..." } while the server does not answer
  info: null, // GET /api/info
  keyNeeded: false,
};

const notes = new Map();
let draw = () => {};
let queued = false;

export function drawWith(action) {
  draw = action;
}

export function update(patch = {}) {
  Object.assign(state, patch);
  if (queued) return;
  queued = true;
  queueMicrotask(() => {
    queued = false;
    draw();
  });
}

// Say something at a place of the page; kind: "", "good" or "bad".
export function note(place, words, kind = "") {
  notes.set(place, { words, kind });
  update();
}

export const noted = (place) => notes.get(place) ?? { words: "", kind: "" };

// Do something, and say at `place` what went wrong. What the reader broke off himself went not wrong.
export async function attempt(place, action) {
  note(place, "");
  try {
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") note(place, error.message, "bad");
    return undefined;
  }
}

export function go(path) {
  location.hash = `#/${path}`;
}

export function readRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...args] = path.split("/").filter(Boolean).map(decodeURIComponent);
  return { name: name ?? "", args, query: new URLSearchParams(query) };
}
