import { keptStore, type Store } from "./store";

export type Theme = "system" | "dark" | "light" | "contrast";

/** What the person chose; "system" follows the machine. */
export const choice: Store<Theme> = keptStore<Theme>("theme", "system");

function resolve(t: Theme): Exclude<Theme, "system"> {
  if (t !== "system") return t;
  if (matchMedia("(prefers-contrast: more)").matches || matchMedia("(forced-colors: active)").matches) return "contrast";
  return matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
}

// A page that comes from another monitor brings its look along (api/failover.ts).
if (typeof location !== "undefined") {
  const brought = /[#&]theme=(dark|light|contrast)$/.exec(location.hash)?.[1];
  if (brought) {
    choice.set(brought as Theme);
    history.replaceState(null, "", location.pathname + location.search + location.hash.replace(/[#&]theme=\w+$/, ""));
  }
}

/** What is shown. */
export const theme: Store<Exclude<Theme, "system">> = (() => {
  let value = resolve(choice.get());
  const readers = new Set<() => void>();
  const apply = () => {
    value = resolve(choice.get());
    document.documentElement.dataset.theme = value;
    for (const f of [...readers]) f();
  };
  document.documentElement.dataset.theme = value;
  choice.subscribe(apply);
  for (const q of ["(prefers-color-scheme: light)", "(prefers-contrast: more)"]) matchMedia(q).addEventListener("change", apply);
  return { get: () => value, set: (t) => choice.set(typeof t === "function" ? t(value) : t), subscribe: (f) => (readers.add(f), () => readers.delete(f)) };
})();

export const themes: { id: Theme; label: string; icon: string }[] = [
  { id: "system", label: "As the system", icon: "sidebar" },
  { id: "dark", label: "Dark", icon: "moon" },
  { id: "light", label: "Light", icon: "sun" },
  { id: "contrast", label: "High contrast", icon: "contrast" },
];
