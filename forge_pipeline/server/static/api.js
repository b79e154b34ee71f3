// The server's operations: JSON calls, an upload with its progress, streams of events, downloads.
// The API key lives in this module's memory alone: it is in no storage, no address and no cookie.
import { createParser } from "./vendor/eventsource-parser/index.js";
import { update } from "./store.js";

let key = "";

export const hasKey = () => key !== "";
export function useKey(value) {
  key = value;
  update({ keyNeeded: true });
}

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const authorization = () => (key ? { Authorization: `Bearer ${key}` } : {});

function refused(status, path, detail) {
  if (status === 401) update({ keyNeeded: true });
  if (status === 404 && detail === "Not Found") detail = `This server does not offer ${path}; it may be of an older version.`;
  return new ApiError(status, detail || `The server answered ${status} to ${path}.`);
}

async function send(method, path, body, signal) {
  const headers = authorization();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let reply;
  try {
    reply = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer. Is it still running?");
  }
  if (!reply.ok) {
    const envelope = await reply.json().catch(() => ({}));
    throw refused(reply.status, path, envelope.detail);
  }
  return reply;
}

export async function call(method, path, body, signal) {
  return (await send(method, path, body, signal)).json();
}

export const get = (path, signal) => call("GET", path, undefined, signal);

// XMLHttpRequest, because fetch does not tell how much of a body is sent. onProgress gets a share, 0 to 1.
export function upload(file, onProgress) {
  return new Promise((resolve, reject) => {
    const path = "/api/upload_dataset", request = new XMLHttpRequest(), form = new FormData();
    form.append("file", file);
    request.open("POST", path);
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onerror = () => reject(new ApiError(0, "The upload broke off: the server does not answer."));
    request.onload = () => {
      if (request.status === 200) resolve(request.response);
      else reject(refused(request.status, path, request.response?.detail));
    };
    request.send(form);
  });
}

// The events of a text/event-stream reply as { event, data }, data being text.
export async function* stream(path, body, signal) {
  const reply = await send("POST", path, body, signal);
  if (!reply.headers.get("content-type")?.startsWith("text/event-stream"))
    throw new ApiError(reply.status, `This server does not stream at ${path}.`);
  const found = [], parser = createParser({ onEvent: (event) => found.push(event) });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    parser.feed(value);
    yield* found.splice(0);
  }
}

// A socket that opens itself again; onState gets whether it is open.
export function watch(path, onMessage, onState) {
  const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
  const socket = new WebSocket(address, key ? ["forge", `forge-key.${key}`] : []);
  socket.onopen = () => onState(true);
  socket.onmessage = (event) => onMessage(JSON.parse(event.data));
  socket.onclose = () => {
    onState(false);
    setTimeout(() => watch(path, onMessage, onState), 2000);
  };
}

// Without a key the browser downloads by itself, of any size. A link cannot carry a key, so with one the file goes
// through the page's memory.
export async function download(path, name = "") {
  const link = document.createElement("a");
  link.href = path;
  link.download = name;
  if (key) {
    const reply = await send("GET", path);
    const given = /filename="([^"]+)"/.exec(reply.headers.get("content-disposition") ?? "");
    link.href = URL.createObjectURL(await reply.blob());
    link.download = name || given?.[1] || "download";
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
  link.click();
}
