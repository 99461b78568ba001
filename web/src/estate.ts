// What the page knows of the estate as a whole: the kinds of views, the monitor's status, and the view that the address names.

import { useEffect, useMemo, useRef, useState } from "react";
import { api, get, session, status } from "./api/client";
import { live, type Feed } from "./api/live";
import type { MetricDef, Options, Status, ViewDef } from "./api/types";
import { setParams, useRoute } from "./router";
import { createStore, useStore } from "./store";

export const views = createStore<ViewDef[]>([]);

/** Keeps views and status fresh while somebody looks. */
export function usePolling() {
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    let over = false;
    const tick = async () => {
      if (!document.hidden && session.get())
        try {
          const late = AbortSignal.timeout(4000);
          const [v, s] = await Promise.all([get<{ views: ViewDef[] }>(`${api}/views`, late), get<Status>(`${api}/status`, late)]);
          live.alive();
          if (JSON.stringify(v.views) !== JSON.stringify(views.get())) views.set(v.views);
          status.set(s);
        } catch {
          live.suspect();
        }
      if (!over) timer = setTimeout(tick, 3000);
    };
    void tick();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, []);
}

export interface ViewState {
  view: string;
  def: ViewDef | undefined;
  options: Options;
  metric: MetricDef | undefined;
  size: MetricDef | undefined;
  colour: "health" | "metric" | "kind";
  at: number;
  node: string;
}

/** The view that the address names, with what the address leaves out filled in. */
export function useViewState(fallback: string, forced: Partial<Options> = {}): ViewState {
  const { params } = useRoute();
  const defs = useStore(views);
  const key = JSON.stringify([params, fallback, forced]);
  return useMemo(() => {
    const view = params.view || fallback;
    const def = defs.find((d) => d.id === view) ?? (view.startsWith("label:") ? defs.find((d) => d.id === "containers") : undefined);
    const metrics = def?.metrics ?? [];
    const metric = params.m === "none" ? undefined : (metrics.find((m) => m.id === params.m) ?? metrics.find((m) => m.id === "cpu"));
    const size = metrics.find((m) => m.id === params.z);
    const opts: Record<string, string> = {};
    for (const o of def?.options ?? []) if (params["o." + o.id]) opts[o.id] = params["o." + o.id];
    const options: Options = {
      q: params.q ?? "", group: params.group || "auto", metric: params.m === "none" ? "" : (params.m ?? "cpu"), size: params.z ?? "", layout: params.layout || "auto",
      ...(params.find ? { find: params.find } : {}),
      ...(params.expand ? { expand: params.expand.split("\n") } : {}),
      ...(params.focus ? { focus: params.focus, hops: Number(params.hops) || 1 } : {}),
      ...(params.at ? { at: Number(params.at) } : {}),
      ...(params.flows ? { flows: true } : {}),
      ...(Object.keys(opts).length ? { opts } : {}),
      ...forced,
    };
    const colour = params.colour === "metric" || params.colour === "kind" ? params.colour : "health";
    return { view, def, options, metric, size, colour, at: Number(params.at) || 0, node: params.node ?? "" };
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [key, defs]);
}

/**
 * Subscribes to a view. onChange is called with every frame and diff, at most once a frame of the screen; version grows with it
 * for components that render what is in the picture (at most twice a second after the first).
 */
export function usePicture(view: string, options: Options, onChange?: (feed: Feed, kind: "frame" | "diff") => void) {
  const feed = useRef<Feed | null>(null);
  const call = useRef(onChange);
  call.current = onChange;
  const [state, setState] = useState<{ version: number; error: string; loaded: boolean }>({ version: 0, error: "", loaded: false });
  useEffect(() => {
    const f = live.open(view, options);
    feed.current = f;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let last = 0;
    const tell = () => {
      timer = undefined;
      last = Date.now();
      setState({ version: f.picture.version, error: "", loaded: true });
    };
    f.onChange = (kind) => {
      call.current?.(f, kind);
      if (kind === "frame") {
        clearTimeout(timer);
        tell();
      } else timer ??= setTimeout(tell, Math.max(0, 500 - (Date.now() - last)));
    };
    f.onError = (error) => setState((s) => ({ ...s, error }));
    return () => {
      clearTimeout(timer);
      f.close();
      feed.current = null;
    };
    // One subscription for the life of the component: later views and options replace it in place.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, []);
  const key = JSON.stringify([view, options]);
  useEffect(() => {
    feed.current?.set(view, options);
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [key]);
  return { feed, ...state };
}

export const openNode = (id: string) => setParams({ node: id });

/** Calls a loader now, when its key changes, and every so often while the page is seen. */
export function useLoad<T>(load: ((signal: AbortSignal) => Promise<T>) | null, every: number, deps: unknown[]) {
  const [state, setState] = useState<{ data?: T; error?: { message: string; hint?: string; status?: number }; at: number }>({ at: 0 });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    setState((s) => ({ ...s, data: undefined, error: undefined }));
    // Other data: what is shown must not be taken for it.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, deps);
  useEffect(() => {
    if (!load) return;
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const tick = async () => {
      if (!document.hidden)
        try {
          const data = await load(stop.signal);
          if (!stop.signal.aborted) setState({ data, at: Date.now() });
        } catch (e) {
          if (!stop.signal.aborted) setState((s) => ({ ...s, error: e as Error }));
        }
      if (!stop.signal.aborted && every > 0) timer = setTimeout(tick, every);
    };
    void tick();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [...deps, turn]);
  return { ...state, again: () => setTurn((t) => t + 1) };
}
