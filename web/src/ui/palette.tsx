import { useEffect, useMemo, useRef, useState } from "react";
import { api, get } from "../api/client";
import type { SearchResult } from "../api/types";
import { actions, shown } from "../keys";
import { check } from "../query/parse";
import { navigate, route, setParams } from "../router";
import { useStore } from "../store";
import { Health, Kbd, StateText } from "./parts";
import { Icon } from "./icons";
import { follow } from "./table";

interface Entry {
  id: string;
  section: string;
  label: string;
  minor?: string;
  icon?: string;
  health?: number;
  state?: string;
  keys?: string[];
  run: () => void;
}

const kindIcons: Record<string, string> = { host: "host", container: "container", process: "process", task: "task", app: "app", framework: "framework", agent: "node", image: "file", pod: "container", service: "app", controller: "cluster" };

/** Search over everything and all commands, in one field. */
export function Palette({ onClose }: { onClose: () => void }) {
  const [q, setQ] = useState("");
  const [found, setFound] = useState<{ q: string; total: number; results: SearchResult[] } | null>(null);
  /** Enter came before what is found: it means the first that is. */
  const early = useRef<string>(undefined);
  const all = useStore(actions);
  // The focus goes back to where it was, unless the command that was run takes it somewhere.
  const [before] = useState(() => document.activeElement as HTMLElement | null);
  useEffect(() => () => before?.focus?.(), [before]);
  const wrong = q && !q.startsWith(">") ? check(q) : null;

  useEffect(() => {
    if (!q.trim() || wrong || q.startsWith(">")) {
      setFound(null);
      return;
    }
    const stop = new AbortController();
    const look = () => void get<{ total: number; results: SearchResult[] }>(`${api}/search?limit=30&q=${encodeURIComponent(q)}`, stop.signal).then((r) => setFound({ q, ...r }), () => void (stop.signal.aborted || setFound((was) => ({ total: -1, results: [], ...was, q }))));
    const t = setTimeout(look, 90);
    // What is found changes while one looks.
    const again = setInterval(look, 2000);
    return () => {
      clearTimeout(t);
      clearInterval(again);
      stop.abort();
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [q]);

  const entries = useMemo(() => {
    const out: Entry[] = [];
    const word = q.replace(/^>/, "").trim().toLowerCase();
    const commands = all
      .filter((a) => a.palette && (!word || a.label.toLowerCase().includes(word) || a.section.toLowerCase().includes(word)))
      .map((a): Entry => ({ id: "a-" + a.id, section: a.section === "Go to" ? "Go to" : "Commands", label: a.label, icon: a.section === "Go to" ? "right" : "shell", keys: a.keys[0] ? shown(a.keys[0]) : [], run: a.run }));
    for (const r of found?.results ?? [])
      out.push({
        id: r.id, section: `Found ${found!.total}`, label: r.label, minor: `${r.kind} · ${r.minor}`, icon: kindIcons[r.kind] ?? "map", health: r.health, state: r.state,
        run: () => {
          const here = ["/map", "/hosts", "/containers", "/processes", "/resources", "/events"].includes(route.get().path);
          if (here) setParams({ node: r.id });
          else navigate("/map", { view: r.view, node: r.id });
        },
      });
    if (q.trim() && !wrong && !q.startsWith(">") && found && found.total > 1)
      out.push({ id: "filter", section: "Show", label: `Show all that match on the map`, icon: "map", run: () => navigate("/map", { q, view: found.results[0]?.view ?? "containers" }) });
    return [...out, ...commands];
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [q, found, all]);

  // What is found and what can be done change while one looks: what is chosen is an entry, not a place.
  const [chosen, setChosen] = useState<string>();
  const last = useRef(0);
  const at = follow(entries, (e) => e.id, chosen, chosen === undefined ? 0 : last.current);
  last.current = at;
  const setAt = (i: number) => setChosen(entries[i]?.id);
  useEffect(() => setChosen(undefined), [q]);
  useEffect(() => {
    if (chosen) document.getElementById(`pal-${last.current}`)?.scrollIntoView({ block: "nearest" });
  }, [chosen]);
  const run = (e: Entry | undefined) => {
    if (!e) return;
    onClose();
    e.run();
  };
  const searching = q.trim() !== "" && !wrong && !q.startsWith(">") && found?.q !== q;
  useEffect(() => {
    if (early.current === q && !searching) run(entries[0]);
    early.current = undefined;
    // Once, when what is found for these words has come.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [q, searching]);
  let section = "";
  return (
    <div className="veil" onPointerDown={(e) => e.target === e.currentTarget && onClose()}>
      <div className="dialog" role="dialog" data-palette aria-modal="true" aria-label="Search and commands">
        <div className="palette-input">
          <Icon name="search" />
          <input
            autoFocus
            type="text"
            role="combobox"
            aria-expanded="true"
            aria-controls="palette-list"
            aria-activedescendant={entries[at] ? `pal-${at}` : undefined}
            aria-label="Search and commands"
            aria-invalid={wrong ? true : undefined}
            placeholder="web  host:vm1  cpu>50%  state:exited  or a command"
            value={q}
            spellCheck={false}
            onChange={(e) => setQ(e.target.value)}
            onKeyDown={(e) => {
              if (e.key === "Escape") onClose();
              else if (e.key === "Enter") {
                if (searching && chosen === undefined) early.current = q;
                else run(entries[at]);
              }
              else if (e.key === "ArrowDown") setAt((at + 1) % Math.max(1, entries.length));
              else if (e.key === "ArrowUp") setAt((at + entries.length - 1) % Math.max(1, entries.length));
              else if (e.key !== "Tab") return;
              e.preventDefault();
            }}
          />
        </div>
        <div className="palette-list" role="listbox" id="palette-list" aria-label="Results" tabIndex={-1}>
          {wrong && <div className="loading">{wrong.message}</div>}
          {!wrong && found?.total === 0 && <div className="loading">Nothing in the estate matches.</div>}
          {entries.map((e, i) => {
            const head = e.section !== section ? ((section = e.section), (<div className="cap" role="presentation">{e.section}</div>)) : null;
            return (
              <div key={e.id} role="presentation">
                {head}
                <div id={`pal-${i}`} role="option" aria-selected={i === at} onPointerMove={() => at !== i && setAt(i)} onClick={() => run(e)}>
                  <Icon name={e.icon ?? "right"} />
                  {e.health !== undefined && <Health value={e.health} />}
                  <span className="clip">{e.label}</span>
                  {e.minor && <span className="faint clip">{e.minor}</span>}
                  {e.state && e.state !== "running" && <StateText state={e.state} />}
                  {e.keys && e.keys.length > 0 && <Kbd keys={e.keys} />}
                </div>
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}
