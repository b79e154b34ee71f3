// The training that runs now: status from /ws/training, the curve also from the job's log, so that it survives a reload.
import { get, watch } from "./api.js";
import { update } from "./store.js";

export const ACTIVE = ["queued", "starting", "training"];
export const live = { status: null, connected: false, dagsterUrl: null };
export const isActive = () => live.status !== null && ACTIVE.includes(live.status.status);

const endings = new Set();
let points = new Map(); // step -> { step, loss, eval_loss } of the job in `shown`
let sorted = [];
let shown = null;
let pace = null; // { from: { at, step }, last: { at, step } }, seconds and optimizer updates

// Call `action` whenever a job has ended.
export const onEnd = (action) => endings.add(action);

export function start() {
  watch("/ws/training", take, (connected) => {
    live.connected = connected;
    update();
  });
}

export const livePoints = () => sorted;

// Seconds that the rest of the optimizer updates take at the pace so far; null before there is a pace.
export function remaining() {
  const { status } = live;
  if (!pace || pace.last.step <= pace.from.step || status?.status !== "training") return null;
  return ((pace.last.at - pace.from.at) / (pace.last.step - pace.from.step)) * (status.total_steps - pace.last.step);
}

function take(status) {
  const before = live.status;
  live.status = status;
  if (status.job_id !== shown) {
    shown = status.job_id;
    points = new Map();
    sorted = [];
    pace = null;
    live.dagsterUrl = null;
    if (shown) refill();
  }
  if (status.current_step > 0 && status.status === "training") measure(status.current_step);
  if (status.loss !== null && status.current_step > 0) add({ step: status.current_step, loss: status.loss });
  if (before?.message !== status.message && status.message === "evaluating") refill();
  if (before?.status === "queued" && status.status !== "queued") refill(); // it has a run by now
  if (before && ACTIVE.includes(before.status) && !ACTIVE.includes(status.status)) {
    refill();
    for (const action of endings) action(status);
  }
  update();
}

function measure(step) {
  const now = { at: performance.now() / 1000, step };
  if (!pace) pace = { from: now, last: now };
  else if (step > pace.last.step) pace.last = now;
}

function add(point) {
  const known = points.get(point.step);
  // Between two measurements the status repeats the last loss; that is no new point.
  if (!known && point.eval_loss === undefined && sorted.at(-1)?.loss === point.loss) return;
  points.set(point.step, { ...known, ...point });
  sorted = [...points.values()].sort((a, b) => a.step - b.step);
}

async function refill() {
  const job = shown;
  try {
    const path = `/api/jobs/${encodeURIComponent(job)}`;
    const [details, { lines }] = await Promise.all([get(path), get(`${path}/logs?limit=20000`)]);
    if (job !== shown) return;
    live.dagsterUrl = details.dagster_url ?? null;
    for (const point of curveOf(lines)) add(point);
    update();
  } catch {
    // The curve then starts with what the socket tells; the log's own page says what is wrong with the log.
  }
}

// The loss curve that a job's log holds.
export function curveOf(lines) {
  const found = new Map();
  let last = null;
  for (const { source, stage, message, metrics } of lines) {
    const step = Number(/^(\d+)/.exec(message)?.[1]);
    if (source !== "stage" || stage !== "fine_tune" || !step || message.includes("reward model:")) continue;
    const point = found.get(step) ?? { step };
    // Each line repeats the metrics known so far: a loss is new where it changes, a held-out one where one evaluates.
    if (Number.isFinite(metrics.loss) && metrics.loss !== last) point.loss = last = metrics.loss;
    if (Number.isFinite(metrics.eval_loss) && message.endsWith("evaluating")) point.eval_loss = metrics.eval_loss;
    if (point.loss !== undefined || point.eval_loss !== undefined) found.set(step, point);
  }
  return [...found.values()].sort((a, b) => a.step - b.step);
}
