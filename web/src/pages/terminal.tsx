import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Terminal as Xterm } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { useEffect, useRef, useState } from "react";
import { api, refused } from "../api/client";
import { isLeave, shown as keysOf } from "../keys";
import { useStore } from "../store";
import { theme } from "../theme";
import { Icon } from "../ui/icons";
import { Button, Kbd } from "../ui/parts";

function colours() {
  const css = getComputedStyle(document.documentElement);
  const v = (n: string) => css.getPropertyValue("--" + n).trim();
  return {
    background: v("bg"), foreground: v("text"), cursor: v("accent"), cursorAccent: v("bg"), selectionBackground: v("accent") + "55",
    black: v("line"), red: v("crit"), green: v("ok"), yellow: v("warn"), blue: v("kind-a"), magenta: v("kind-c"), cyan: v("kind-d"), white: v("dim"),
    brightBlack: v("faint"), brightRed: v("crit"), brightGreen: v("ok"), brightYellow: v("warn"), brightBlue: v("kind-a"), brightMagenta: v("kind-c"), brightCyan: v("kind-d"), brightWhite: v("text"),
  };
}

/** A terminal in a container, or on a host. It comes back to its session when the connection breaks. */
export default function Terminal({ id, query, shown, onEnd }: { id: string; query: string; shown: boolean; onEnd: () => void }) {
  const host = useRef<HTMLDivElement>(null);
  const term = useRef<{ x: Xterm; fit: FitAddon; find: SearchAddon } | null>(null);
  const [lacks, setLacks] = useState(false);
  // What was written last is found first.
  const seek = (text: string, way: "anew" | "back" | "on") => {
    const { x, find } = term.current!;
    if (way === "anew") x.clearSelection();
    setLacks(text !== "" && !(way === "on" ? find.findNext(text) : find.findPrevious(text)));
  };
  const [note, setNote] = useState("Connecting");
  const [ended, setEnded] = useState(false);
  const look = useStore(theme);

  useEffect(() => {
    const x = new Xterm({
      fontFamily: getComputedStyle(document.documentElement).getPropertyValue("--mono"), fontSize: 13, lineHeight: 1.15, cursorBlink: !matchMedia("(prefers-reduced-motion: reduce)").matches,
      scrollback: 5000, theme: colours(), screenReaderMode: true, allowProposedApi: false,
    });
    const fit = new FitAddon();
    x.loadAddon(fit);
    const find = new SearchAddon();
    x.loadAddon(find);
    // The terminal takes every key, Tab among them: this one leads out of it.
    x.attachCustomKeyEventHandler((e) => !isLeave(e));
    x.open(host.current!);
    fit.fit();
    term.current = { x, fit, find };
    let session = "";
    let over = false;
    let socket: WebSocket;
    let wait = 500;
    let tries = 0;
    let timer: ReturnType<typeof setTimeout>;
    const send = (m: unknown) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(m));
    const open = () => {
      const q = new URLSearchParams(query);
      if (session) q.set("session", session);
      else {
        q.set("id", id);
        q.set("tty", "1");
      }
      q.set("cols", String(x.cols));
      q.set("rows", String(x.rows));
      socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${api}/exec?${q}`);
      socket.binaryType = "arraybuffer";
      socket.onmessage = (e) => {
        if (typeof e.data !== "string") {
          x.write(new Uint8Array(e.data as ArrayBuffer).subarray(1));
          return;
        }
        const m = JSON.parse(e.data);
        if (m.type === "started") {
          session = m.session;
          wait = 500;
          tries = 0;
          setNote((m.cmd ?? []).join(" ") || "Open");
          send({ type: "resize", cols: x.cols, rows: x.rows });
        } else if (m.type === "exit") {
          over = true;
          setEnded(true);
          setNote(`Ended with code ${m.code}`);
        } else if (m.type === "error") {
          over = true;
          setEnded(true);
          setNote(m.error.message + (m.error.hint ? ` (${m.error.hint})` : ""));
        }
      };
      socket.onclose = () => {
        if (over) return;
        // A refused socket does not say why: after a few tries it is given up.
        if (++tries > (session ? 20 : 2)) {
          setEnded(true);
          setNote(session ? "The session is gone" : "It could not be opened");
          if (!session) void refused(id, ["exec", "host-exec"]).then((why) => why && setNote(`It could not be opened: ${why}`));
          return;
        }
        setNote(session ? "Connection lost; coming back" : "Connecting");
        timer = setTimeout(open, wait);
        wait = Math.min(5000, wait * 2);
      };
    };
    open();
    const input = x.onData((d) => socket.readyState === WebSocket.OPEN && socket.send(new TextEncoder().encode(d)));
    const size = x.onResize(({ cols, rows }) => send({ type: "resize", cols, rows }));
    const o = new ResizeObserver(() => host.current?.clientHeight && fit.fit());
    o.observe(host.current!);
    x.focus();
    return () => {
      over = true;
      clearTimeout(timer);
      o.disconnect();
      input.dispose();
      size.dispose();
      socket.close();
      x.dispose();
    };
    // A tab's target never changes.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, []);
  useEffect(() => {
    if (term.current) term.current.x.options.theme = colours();
  }, [look]);
  useEffect(() => {
    if (!shown || !term.current) return;
    term.current.fit.fit();
    term.current.x.focus();
  }, [shown]);
  return (
    <>
      <div className="logbar">
        <span className={`live ${ended ? "lost" : ""}`}><i />{note}</span>
        <div className="filter" style={{ maxWidth: 240 }}>
          <Icon name="search" size={14} />
          <input
            type="search" aria-label="Find in the terminal" aria-invalid={lacks || undefined} placeholder="find, Enter goes back" spellCheck={false}
            onChange={(e) => seek(e.target.value, "anew")}
            onKeyDown={(e) => {
              if (e.key === "Enter") seek(e.currentTarget.value, e.shiftKey ? "on" : "back");
              else if (e.key === "Escape") term.current!.x.focus();
              else return;
              e.preventDefault();
            }}
          />
        </div>
        {lacks && <span className="faint" role="status">not found</span>}
        <span className="grow" />
        <span className="row faint wide-only"><Kbd keys={keysOf("mod+`")} /> leaves the terminal</span>
        {ended && <Button small onClick={onEnd}>Close</Button>}
      </div>
      <div className="term" ref={host} />
    </>
  );
}
