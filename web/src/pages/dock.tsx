// The dock at the bottom: logs and terminals in tabs, which stay while one goes about elsewhere.

import { lazy, Suspense, useEffect, useRef, useState } from "react";
import { may } from "../api/client";
import { createStore, keptStore, useStore } from "../store";
import { Icon } from "../ui/icons";
import { Button, Loading, toast } from "../ui/parts";
import { Logs } from "./logs";

const Terminal = lazy(() => import("./terminal"));

interface Tab {
  id: number;
  kind: "logs" | "shell";
  title: string;
  ids: string[];
  names: string[];
  /** shell: how it is opened. */
  query: string;
}

interface State {
  tabs: Tab[];
  at: number;
  open: boolean;
}

const state = createStore<State>({ tabs: [], at: 0, open: false });
const height = keptStore("dock", 320);
let next = 1;

function add(t: Omit<Tab, "id">) {
  const tab = { ...t, id: next++ };
  state.set((s) => ({ tabs: [...s.tabs, tab], at: tab.id, open: true }));
}

export const dock = {
  logs(ids: string[], names: string[]) {
    const same = state.get().tabs.find((t) => t.kind === "logs" && t.ids.join() === ids.join());
    if (same) return state.set((s) => ({ ...s, at: same.id, open: true }));
    add({ kind: "logs", ids, names, title: names.length === 1 ? names[0] : `${names[0]} and ${names.length - 1} more`, query: "" });
  },
  shell(id: string, name: string, query = "") {
    if (!may("operator")) return toast("A shell needs the role operator", "crit");
    add({ kind: "shell", ids: [id], names: [name], title: name, query });
  },
  /** Whether there is anything in it. */
  get used() {
    return state.get().tabs.length > 0;
  },
  toggle() {
    const inside = !!document.activeElement?.closest(".dock-body");
    state.set((s) => ({ ...s, open: !s.open && s.tabs.length > 0 }));
    // What was focused is hidden now; its tab is not.
    if (inside) document.getElementById(`dock-tab-${state.get().at}`)?.focus();
  },
  clear() {
    state.set({ tabs: [], at: 0, open: false });
  },
};

export function Dock() {
  const s = useStore(state);
  const h = useStore(height);
  const grip = useRef<{ y: number; h: number } | null>(null);
  const [tall, setTall] = useState(false);
  useEffect(() => {
    if (s.tabs.length === 0 && s.open) state.set((x) => ({ ...x, open: false }));
  }, [s]);
  if (!s.tabs.length) return null;
  const close = (id: number) => state.set((x) => ({ ...x, tabs: x.tabs.filter((t) => t.id !== id), at: x.at === id ? (x.tabs.filter((t) => t.id !== id).at(-1)?.id ?? 0) : x.at }));
  return (
    <section className="dock" aria-label="Logs and terminals" style={{ height: s.open ? (tall ? "72vh" : Math.min(h, innerHeight * 0.8)) : 37 }}>
      <div
        className="dock-grip"
        onPointerDown={(e) => {
          grip.current = { y: e.clientY, h };
          e.currentTarget.setPointerCapture(e.pointerId);
        }}
        onPointerMove={(e) => grip.current && (setTall(false), height.set(Math.max(120, Math.min(innerHeight * 0.8, grip.current.h + grip.current.y - e.clientY))))}
        onPointerUp={() => (grip.current = null)}
      />
      <div className="dock-tabs">
        <div role="tablist" aria-label="Logs and terminals" className="row" style={{ gap: 3, overflow: "auto hidden" }}>
          {s.tabs.map((t) => (
            <span key={t.id} className={`dock-tab ${t.id === s.at && s.open ? "on" : ""}`} role="presentation">
              <button type="button" role="tab" id={`dock-tab-${t.id}`} aria-selected={t.id === s.at} aria-controls={`dock-panel-${t.id}`} onClick={() => state.set((x) => ({ ...x, at: t.id, open: true }))}>
                <Icon name={t.kind === "logs" ? "logs" : "shell"} size={14} />
                <span className="clip">{t.title}</span>
              </button>
            </span>
          ))}
        </div>
        <span className="grow" />
        <Button small kind="ghost" icon="expand" label="Taller or lower" onClick={() => setTall(!tall)} />
        <Button small kind="ghost" icon="close" label="Close this tab" onClick={() => close(s.at)} />
        <Button small kind="ghost" icon="chevron" label={s.open ? "Hide the dock" : "Show the dock"} onClick={() => dock.toggle()} />
      </div>
      {s.tabs.map((t) => (
        <div key={t.id} id={`dock-panel-${t.id}`} role="tabpanel" aria-labelledby={`dock-tab-${t.id}`} className="dock-body" hidden={t.id !== s.at || !s.open} style={t.id !== s.at || !s.open ? { display: "none" } : undefined}>
          {t.kind === "logs" ? (
            <Logs ids={t.ids} names={t.names} />
          ) : (
            <Suspense fallback={<Loading what="Opening the terminal" />}>
              <Terminal id={t.ids[0]} query={t.query} shown={t.id === s.at && s.open} onEnd={() => close(t.id)} />
            </Suspense>
          )}
        </div>
      ))}
    </section>
  );
}
