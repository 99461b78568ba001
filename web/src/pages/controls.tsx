// What one does to nodes: asked before, shown as it would be, and reported for each.

import { useEffect, useState } from "react";
import { api, may, send, type ApiError } from "../api/client";
import { plural } from "../format";
import { createStore, useStore } from "../store";
import { Button, Dialog, Health, Loading, Problem, toast } from "../ui/parts";

interface Outcome {
  id: string;
  label: string;
  ok: boolean;
  message?: string;
  error?: { code: string; message: string; hint?: string };
}

interface Wish {
  control: string;
  label: string;
  ids: string[];
  names: string[];
  danger: boolean;
  args: Record<string, string>;
}

const wish = createStore<Wish | null>(null);

/** Asks for a control on nodes. What can do harm, or is for several, is confirmed first. */
export function control(id: string, label: string, ids: string[], names: string[], danger: boolean, args: Record<string, string> = {}) {
  const w = { control: id, label, ids, names, danger, args };
  if (!may("operator")) return toast("Your role may look, but not act", "crit");
  if (!danger && ids.length === 1) void run(w).then(report);
  else wish.set(w);
}

async function run(w: Wish, dry = false): Promise<Outcome[]> {
  const r = await send<{ results: Outcome[] }>("POST", `${api}/controls`, { control: w.control, ids: w.ids, args: w.args, dry_run: dry });
  return r.results;
}

function report(list: Outcome[]) {
  const bad = list.filter((o) => !o.ok);
  if (bad.length) toast(`${bad[0].label}: ${bad[0].error?.message ?? "failed"}`, "crit");
  else toast(list.length === 1 ? `${list[0].label}: ${list[0].message}` : `Done for ${list.length}`, "ok");
}

export function Controls() {
  const w = useStore(wish);
  return w ? <Confirm key={w.control + w.ids.length} wish={w} /> : null;
}

function Confirm({ wish: w }: { wish: Wish }) {
  const many = w.ids.length > 1;
  const [list, setList] = useState<Outcome[] | null>(null);
  const [done, setDone] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  const [typed, setTyped] = useState("");
  useEffect(() => {
    run(w, true).then(setList, setError);
  }, [w]);
  const close = () => wish.set(null);
  const word = w.control;
  const ready = !!list?.some((o) => o.ok) && (!many || !w.danger || typed === word);
  const act = async () => {
    setBusy(true);
    try {
      const out = await run(w);
      if (many && out.some((o) => !o.ok)) {
        setList(out);
        setDone(true);
      } else {
        report(out);
        close();
      }
    } catch (e) {
      setError(e as ApiError);
    }
    setBusy(false);
  };
  return (
    <Dialog title={`${w.label} ${many ? plural(w.ids.length, "node") : w.names[0]}?`} onClose={close}>
      <form onSubmit={(e) => (e.preventDefault(), ready && !busy && !done && void act())} style={{ display: "contents" }}>
        <div className="body">
          {error && <Problem error={error} />}
          {!list && !error && <Loading what="Asking the probes what would happen" />}
          {list && (
            <div className="links" style={{ margin: 0, maxHeight: "38vh", overflow: "auto" }} tabIndex={0} role="group" aria-label="What happens to each">
              {list.map((o) => (
                <div className="linkrow" key={o.id}>
                  <Health value={o.ok ? 1 : 3} />
                  <b className="clip">{o.label || o.id}</b>
                  <span className={o.ok ? "end" : "end h3"}>{o.ok ? o.message : o.error?.message}</span>
                </div>
              ))}
            </div>
          )}
          {many && w.danger && !done && (
            <label className="field">
              <span>Type <b>{word}</b> to confirm for all of them</span>
              <input type="text" value={typed} onChange={(e) => setTyped(e.target.value)} spellCheck={false} />
            </label>
          )}
        </div>
        <footer>
          <Button onClick={close}>{done ? "Close" : "Cancel"}</Button>
          {!done && <button type="submit" data-first className={`button ${w.danger ? "danger" : "primary"}`} disabled={!ready || busy}>{busy ? "Working…" : w.label}</button>}
        </footer>
      </form>
    </Dialog>
  );
}
