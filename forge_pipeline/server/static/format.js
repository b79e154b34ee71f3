// Numbers, times and names as a person reads them. Null and undefined are a dash.

const DASH = "–";

export const known = (value) => value !== null && value !== undefined;

export function number(value, digits = 4) {
  if (!known(value)) return DASH;
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(digits - 2) : String(Number(value.toPrecision(digits)));
}

export function megabytes(value) {
  if (!known(value)) return DASH;
  return value >= 1000 ? `${(value / 1000).toFixed(2)} GB` : value >= 0.1 ? `${value.toFixed(1)} MB` : `${Math.round(value * 1000)} kB`;
}

export const gibibytes = (value) => (known(value) ? `${value.toFixed(value < 10 ? 2 : 1)} GiB` : DASH);

export function duration(seconds) {
  if (!known(seconds) || !Number.isFinite(seconds)) return DASH;
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function moment(text) {
  if (!text) return DASH;
  const time = new Date(text);
  return Number.isNaN(time.valueOf()) ? text : time.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

export const digest = (text) => (text ? text.replace("sha256:", "").slice(0, 12) : DASH);

export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

export const words = (name) => name.replaceAll("_", " ");
