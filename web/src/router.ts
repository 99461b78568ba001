import { createStore, useStore } from "./store";

/** Where the page is: the whole of it is in the address, so that a link shows the same to somebody else. */
export interface Route {
  path: string;
  params: Record<string, string>;
}

function read(): Route {
  return { path: location.pathname === "/" ? "/map" : location.pathname, params: Object.fromEntries(new URLSearchParams(location.search)) };
}

const store = createStore<Route>(typeof location === "undefined" ? { path: "/", params: {} } : read());

export function listen() {
  addEventListener("popstate", () => store.set(read()));
}

export function href(path: string, params: Record<string, string> = {}): string {
  const q = new URLSearchParams(Object.entries(params).filter(([, v]) => v !== "")).toString();
  return q ? `${path}?${q}` : path;
}

export function navigate(path: string, params: Record<string, string> = {}, replace = false) {
  const to = href(path, params);
  if (to === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", to);
  store.set(read());
}

/** Changes some parameters of the address and leaves the rest. "" takes one away. */
export function setParams(change: Record<string, string>, replace = false) {
  const { path, params } = store.get();
  const next = { ...params, ...change };
  for (const k of Object.keys(next)) if (next[k] === "") delete next[k];
  navigate(path, next, replace);
}

export const route = store;
export function useRoute(): Route {
  return useStore(store);
}
