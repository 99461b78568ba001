import { memo, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import { parseAnsi, plain } from "../ansi";
import { api, refused } from "../api/client";
import { clock, plural } from "../format";
import { keptStore, useStore } from "../store";
import { Icon } from "../ui/icons";
import { Button, Health, Pick, save } from "../ui/parts";

/** How far each node's log was read: places in a file that has no times. */
export class Read {
  private at: Map<string, string>[] = [];

  note(l: { i: number; s: string; p?: string }) {
    if (l.p) (this.at[l.i] ??= new Map()).set(l.s, l.p);
  }

  /** What goes on behind it, for each of n nodes; nothing when no log has places. Of a node that has said nothing all is new, which no file's place says. */
  after(n: number): string[] {
    return this.at.length ? Array.from({ length: n }, (_, i) => [...(this.at[i] ?? [["stdout", "0-0"]])].map(([s, p]) => `${s}=${p}`).join(",")) : [];
  }
}

interface Line {
  n: number;
  i: number;
  t: number;
  s: string;
  l: string;
  m: string;
  gap?: number;
}

const most = 10_000;
/** While somebody reads further up, what they read must not move away under them so soon. */
const mostHeld = 3 * most;
const rowHeight = 20;
const wrapping = keptStore("log-wrap", false);
const times = keptStore("log-times", true);
const hues = ["var(--kind-b)", "var(--kind-d)", "var(--kind-e)", "var(--kind-f)", "var(--kind-c)", "var(--kind-a)"];
const ansiColours = ["var(--faint)", "var(--crit)", "var(--ok)", "var(--warn)", "var(--kind-a)", "var(--kind-c)", "var(--kind-d)", "var(--text)"];

/** Names that tell several nodes apart: instances of one app have the same. */
export function tellApart(ids: string[], names: string[]): string[] {
  return names.map((n, i) => (names.indexOf(n) === names.lastIndexOf(n) ? n : `${n} ${ids[i].slice(ids[i].lastIndexOf(";") + 1).slice(0, 6)}`));
}

/** Logs of up to twenty nodes, merged by time, as they are written. */
export function Logs({ ids, names: given }: { ids: string[]; names: string[] }) {
  const names = tellApart(ids, given);
  const [lines, setLines] = useState<Line[]>([]);
  const [state, setState] = useState<"open" | "ended" | "lost" | "connecting">("connecting");
  const [ends, setEnds] = useState("");
  const [failed, setFailed] = useState(false);
  const [follow, setFollow] = useState(true);
  const [fresh, setFresh] = useState(0);
  const [text, setText] = useState("");
  const [level, setLevel] = useState<"all" | "debug" | "info" | "warn" | "error">("all");
  const [stream, setStream] = useState<"all" | "stdout" | "stderr">("all");
  const [paused, setPaused] = useState(false);
  const wrap = useStore(wrapping);
  const stamped = useStore(times);
  const socket = useRef<WebSocket | null>(null);
  const box = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  following.current = follow;
  // Who reads further up while much is written makes it wait rather than have it pushed out.
  const hold = paused || (!follow && lines.length >= mostHeld);
  const held = useRef(false);
  held.current = hold;

  useEffect(() => {
    let over = false;
    let n = 0;
    let waiting: Line[] = [];
    let flush: ReturnType<typeof setTimeout> | undefined;
    let retry: ReturnType<typeof setTimeout> | undefined;
    let last = 0;
    const read = new Read();
    const put = (list: Line[]) => {
      waiting.push(...list);
      flush ??= setTimeout(() => {
        flush = undefined;
        const more = waiting;
        waiting = [];
        const room = following.current ? most : mostHeld;
        setLines((was) => (was.length + more.length > room ? [...was, ...more].slice(-room) : [...was, ...more]));
        if (!following.current) setFresh((f) => f + more.length);
      }, 60);
    };
    const open = () => {
      const q = new URLSearchParams();
      for (const id of ids) q.append("id", id);
      q.set("tail", last ? "10000" : "500");
      if (last) q.set("since", String(last + 1));
      for (const a of read.after(ids.length)) q.append("after", a);
      const s = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${api}/logs?${q}`);
      socket.current = s;
      let begun = false;
      setState("connecting");
      s.onmessage = (e) => {
        const m = JSON.parse(e.data as string);
        if (m.type === "start") {
          begun = true;
          setState("open");
          setEnds("");
          // What comes back after the connection was lost is as paused as it was.
          if (held.current) s.send(JSON.stringify({ type: "pause" }));
        } else if (m.type === "lines") {
          for (const l of m.lines) {
            if (l.t > last) last = l.t;
            read.note(l);
          }
          put(m.lines.map((l: Line) => ({ ...l, n: n++ })));
        } else if (m.type === "dropped") put([{ n: n++, i: m.i, t: last, s: "", l: "warn", m: "", gap: m.n }]);
        else if (m.type === "end") (setFailed(!!m.error), setEnds(m.error ? `${names[m.i]}: ${m.error.message}` : `${names[m.i]} has ended`));
        else if (m.type === "error") setEnds(m.error.message);
      };
      s.onclose = (e) => {
        if (over) return;
        const ended = e.code === 1000;
        setState(ended ? "ended" : "lost");
        if (ended) return;
        retry = setTimeout(open, 2000);
        // One that never began was refused.
        if (!begun) void Promise.all(ids.map((id) => refused(id, ["logs"]))).then((why) => !over && setEnds(why.map((w, i) => w && `${names[i]}: ${w}`).filter(Boolean).join("; ")));
      };
    };
    open();
    return () => {
      over = true;
      clearTimeout(flush);
      clearTimeout(retry);
      socket.current?.close();
    };
    // A tab's nodes never change.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, []);

  useEffect(() => {
    if (socket.current?.readyState === WebSocket.OPEN) socket.current.send(JSON.stringify({ type: hold ? "pause" : "resume" }));
  }, [hold]);

  const wanted = useMemo(() => {
    let test = (_: string) => true;
    const re = /^\/(.+)\/$/.exec(text);
    if (re)
      try {
        const r = new RegExp(re[1], "i");
        test = (s) => r.test(s);
      } catch {
        test = () => false;
      }
    else if (text) test = (s) => s.toLowerCase().includes(text.toLowerCase());
    const order = ["debug", "info", "warn", "error"];
    const least = order.indexOf(level);
    return lines.filter((l) => l.gap || ((least < 0 || order.indexOf(l.l) >= least) && (stream === "all" || l.s === stream) && (!text || test(plain(l.m)))));
  }, [lines, text, level, stream]);

  useLayoutEffect(() => {
    if (follow && box.current) {
      box.current.scrollTop = box.current.scrollHeight;
      setTop(box.current.scrollTop);
    }
  }, [wanted, follow, wrap]);

  const [top, setTop] = useState(0);
  const view = box.current?.clientHeight ?? 400;
  const from = wrap ? Math.max(0, wanted.length - 1500) : Math.max(0, Math.floor(top / rowHeight) - 10);
  const to = wrap ? wanted.length : Math.min(wanted.length, Math.ceil((top + view) / rowHeight) + 10);
  const shownLines = wanted.slice(from, to);

  return (
    <>
      <div className="logbar">
        <span className={`live ${state === "open" && !hold ? "" : state === "lost" ? "lost" : "connecting"}`}><i />{hold && state === "open" ? (paused ? "Paused" : "Waits while you read") : state === "open" ? "Following" : state === "ended" ? (failed && lines.length === 0 ? "Can't be read" : "Ended") : state === "lost" ? "Lost, trying again" : "Connecting"}</span>
        <div className="filter" style={{ maxWidth: 300 }}>
          <Icon name="search" size={14} />
          <input type="search" aria-label="Only lines with" placeholder="text or /regex/" value={text} spellCheck={false} onChange={(e) => setText(e.target.value)} onKeyDown={(e) => e.key === "Escape" && setText("")} />
        </div>
        <Pick label="Level" value={level} options={(["all", "debug", "info", "warn", "error"] as const).map((id) => ({ id, label: id === "all" ? "all" : `${id}${id === "error" ? "" : " and above"}` }))} onChange={setLevel} />
        <Pick label="Stream" value={stream} options={(["all", "stdout", "stderr"] as const).map((id) => ({ id, label: id }))} onChange={setStream} />
        <span className="faint num">{plural(wanted.length, "line")}</span>
        <span className="grow" />
        <Button small kind="ghost" icon={paused ? "play" : "pause"} label={paused ? "Go on" : "Pause; nothing is lost"} aria-pressed={paused} onClick={() => setPaused(!paused)} />
        <Button small kind="ghost" icon="clock" label="Times" aria-pressed={stamped} onClick={() => times.set((v) => !v)} />
        <Button small kind="ghost" icon="wrap" label="Wrap long lines" aria-pressed={wrap} onClick={() => wrapping.set((v) => !v)} />
        {ends && <span className="row dim ends"><Health value={4} />{ends}</span>}
        <Button small kind="ghost" icon="download" label="Save these lines" onClick={() => save(`${names[0]}.log`, new Blob([wanted.map((l) => `${new Date(l.t).toISOString()} ${ids.length > 1 ? names[l.i] + " " : ""}${l.gap ? `… ${l.gap} lines were dropped` : plain(l.m)}\n`).join("")], { type: "text/plain" }))} />
      </div>
      <div
        className={`loglines ${wrap ? "wrapped" : ""}`}
        ref={box}
        tabIndex={0}
        role="log"
        aria-live="off"
        aria-label={`Log of ${names.join(", ")}`}
        onScroll={(e) => {
          const el = e.currentTarget;
          setTop(el.scrollTop);
          const end = el.scrollHeight - el.scrollTop - el.clientHeight < 30;
          if (end !== follow) {
            setFollow(end);
            if (end) setFresh(0);
          }
        }}
      >
        <div style={wrap ? undefined : { height: wanted.length * rowHeight, position: "relative" }}>
          {shownLines.map((l, k) => (
            <Row key={l.n} line={l} top={wrap ? undefined : (from + k) * rowHeight} name={ids.length > 1 ? names[l.i] : ""} time={stamped} find={text} />
          ))}
        </div>
        {wanted.length === 0 && <div className="loading">{lines.length ? "No line matches." : { open: "Nothing has been written yet.", ended: failed ? "There is nothing to read." : "Nothing was written.", lost: "The log can't be read now.", connecting: "Waiting for lines" }[state]}</div>}
      </div>
      {!follow && (
        <Button small kind="primary" className="newer" onClick={() => (setFollow(true), setFresh(0))}>
          {fresh ? `${fresh.toLocaleString("en-GB")} new` : "To the end"}
        </Button>
      )}
    </>
  );
}

const Row = memo(function Row({ line: l, top, name, time, find }: { line: Line; top: number | undefined; name: string; time: boolean; find: string }) {
  return (
    <div className={`logline ${l.l}`} style={top === undefined ? undefined : { top }}>
      {time && <span className="t">{clock(l.t)}.{String(l.t % 1000).padStart(3, "0")}</span>}
      {name && <span className="who" style={{ color: hues[l.i % hues.length] }}>{name}</span>}
      <span>
        {l.gap ? <i className="h2">… {l.gap.toLocaleString("en-GB")} lines came faster than they could be read, and were dropped</i> : parseAnsi(l.m).map((s, i) => (
          <span key={i} style={{ color: s.colour >= 0 ? ansiColours[s.colour % 8] : undefined, fontWeight: s.bold ? 600 : undefined, opacity: s.dim ? 0.75 : undefined }}>{marked(s.text, find)}</span>
        ))}
      </span>
    </div>
  );
});

function marked(text: string, find: string) {
  if (!find || find.startsWith("/")) return text;
  const at = text.toLowerCase().indexOf(find.toLowerCase());
  if (at < 0) return text;
  return (
    <>
      {text.slice(0, at)}
      <mark>{text.slice(at, at + find.length)}</mark>
      {text.slice(at + find.length)}
    </>
  );
}
