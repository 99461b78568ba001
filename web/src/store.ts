import { useSyncExternalStore } from "react";

/** A value that components follow. */
export interface Store<T> {
  get(): T;
  set(next: T | ((was: T) => T)): void;
  subscribe(f: () => void): () => void;
}

export function createStore<T>(initial: T): Store<T> {
  let value = initial;
  const readers = new Set<() => void>();
  return {
    get: () => value,
    set(next) {
      const v = typeof next === "function" ? (next as (was: T) => T)(value) : next;
      if (Object.is(v, value)) return;
      value = v;
      for (const f of [...readers]) f();
    },
    subscribe(f) {
      readers.add(f);
      return () => readers.delete(f);
    },
  };
}

export function useStore<T>(s: Store<T>): T {
  return useSyncExternalStore(s.subscribe, s.get);
}

/** A store that the browser keeps for the next visit. */
export function keptStore<T>(key: string, initial: T): Store<T> {
  let start = initial;
  try {
    const text = localStorage.getItem(key);
    if (text !== null) start = JSON.parse(text) as T;
  } catch {
    // Storage may be forbidden, or hold what another version wrote.
  }
  const s = createStore(start);
  s.subscribe(() => {
    try {
      localStorage.setItem(key, JSON.stringify(s.get()));
    } catch {
      // Then it is not kept.
    }
  });
  return s;
}
