// Light, dark, or as the system says. The choice is all that this page stores for good.
import { update } from "./store.js";

const KEY = "forge-theme";
const ORDER = ["system", "light", "dark"];

export const theme = () => document.documentElement.dataset.theme ?? "system";

function apply(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  dispatchEvent(new Event("forge-theme"));
}

export function toggleTheme() {
  const next = ORDER[(ORDER.indexOf(theme()) + 1) % ORDER.length];
  localStorage.setItem(KEY, next);
  apply(next);
  update();
}

const kept = localStorage.getItem(KEY);
if (ORDER.includes(kept)) apply(kept);
