// The page's one socket: pictures, events and series. It comes back by itself, and subscribes again to what was wanted.

import { createStore } from "../store";
import { Gap, Picture, type Diff, type Frame } from "../graph/picture";
import { api, get, session } from "./client";
import type { Event, Options, Session } from "./types";

export interface Connection {
  state: "connecting" | "open" | "lost";
  /** When anything was heard last, by this machine's clock. */
  heard: number;
  /** How far the monitor's clock is ahead of this one. */
  skew: number;
}

export const connection = createStore<Connection>({ state: "connecting", heard: 0, skew: 0 });
export const events = createStore<Event[]>([]);
const keepEvents = 500;
/** How long the monitor may be silent when it is asked. */
const silence = 4000;

type Series = Record<string, Record<string, number>>;

interface Message {
  type: string;
  sub?: number;
  at?: number;
  events?: Event[];
  values?: Series;
  error?: { code: string; message: string; hint?: string };
}

/** A subscription to one view. */
export interface Feed {
  picture: Picture;
  /** Something arrived and is in the picture. */
  onChange: (kind: "frame" | "diff") => void;
  onError: (message: string, code: string) => void;
  set(view: string, options: Options): void;
  close(): void;
}

interface Sub extends Feed {
  view: string;
  options: Options;
  asked: boolean;
}

class Live {
  private socket: WebSocket | null = null;
  private subs = new Map<number, Sub>();
  private nextSub = 1;
  private watched = new Map<object, string[]>();
  private watchers = new Set<(at: number, values: Series) => void>();
  private wait = 300;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private order: Promise<void> = Promise.resolve();
  private on = false;

  start() {
    this.on = true;
    this.connect();
    addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => !document.hidden && this.hurry());
  }

  stop() {
    this.on = false;
    clearTimeout(this.timer);
    this.socket?.close();
    this.socket = null;
  }

  /** Tries at once, for instance because the person asked for it. */
  hurry() {
    if (!this.on || this.socket) return;
    clearTimeout(this.timer);
    this.wait = 300;
    this.connect();
  }

  /** The monitor has answered something. */
  alive() {
    if (connection.get().state === "open") connection.set((c) => ({ ...c, heard: Date.now() }));
  }

  /** The monitor has not answered in time. A socket whose other end hangs, or is cut off, never says so by itself. */
  suspect() {
    if (this.socket && Date.now() - connection.get().heard > silence) this.abandon(this.socket);
  }

  open(view: string, options: Options): Feed {
    const id = this.nextSub++;
    const sub: Sub = {
      picture: new Picture(), view, options, asked: false,
      onChange: () => {},
      onError: () => {},
      set: (v, o) => {
        if (sub.view === v && JSON.stringify(sub.options) === JSON.stringify(o)) return;
        sub.view = v;
        sub.options = o;
        this.subscribe(id, sub);
      },
      close: () => {
        this.subs.delete(id);
        this.send({ type: "unsubscribe", sub: id });
      },
    };
    this.subs.set(id, sub);
    this.subscribe(id, sub);
    return sub;
  }

  /** Has the metrics of some nodes told every second. */
  watch(owner: object, ids: string[]) {
    if (ids.length) this.watched.set(owner, ids);
    else this.watched.delete(owner);
    this.sendWatch();
  }
  onSeries(f: (at: number, values: Series) => void): () => void {
    this.watchers.add(f);
    return () => this.watchers.delete(f);
  }

  private sendWatch() {
    this.send({ type: "watch", ids: [...new Set([...this.watched.values()].flat())].slice(0, 50) });
  }

  private send(m: unknown) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(m));
  }

  private subscribe(id: number, sub: Sub) {
    sub.asked = this.socket?.readyState === WebSocket.OPEN;
    this.send({ type: "subscribe", sub: id, view: sub.view, options: sub.options });
  }

  private connect() {
    const s = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${api}/live`);
    s.binaryType = "arraybuffer";
    this.socket = s;
    const slow = setTimeout(() => s.readyState === WebSocket.CONNECTING && this.abandon(s), silence);
    s.onopen = () => {
      clearTimeout(slow);
      this.wait = 300;
      connection.set((c) => ({ ...c, state: "open", heard: Date.now() }));
      for (const [id, sub] of this.subs) this.subscribe(id, sub);
      this.sendWatch();
      this.send({ type: "events", on: true });
    };
    s.onmessage = (e) => {
      const data = e.data as string | ArrayBuffer;
      // Decoding is asynchronous for compressed messages; the chain keeps the order across both kinds.
      this.order = this.order.then(async () => {
        if (this.socket !== s) return;
        try {
          this.handle(await decode(data));
        } catch (err) {
          console.error("a message could not be used", err);
        }
      });
    };
    s.onclose = () => {
      clearTimeout(slow);
      this.abandon(s);
    };
  }

  private abandon(s: WebSocket) {
    if (this.socket !== s) return;
    this.socket = null;
    s.onopen = s.onmessage = s.onclose = null;
    s.close();
    if (!this.on) return;
    connection.set((c) => ({ ...c, state: "lost" }));
    this.timer = setTimeout(() => void this.again(), this.wait * (0.7 + Math.random() * 0.6));
    this.wait = Math.min(8000, this.wait * 2);
  }

  /** Before another try: has the session ended? A refused socket does not say why. */
  private async again() {
    try {
      session.set(await get<Session>(`${api}/session`, AbortSignal.timeout(silence)));
    } catch (e) {
      if ((e as { status?: number }).status === 401) {
        session.set(null);
        return;
      }
    }
    if (this.on && !this.socket) this.connect();
  }

  private handle(m: Message) {
    const now = Date.now();
    connection.set((c) => (now - c.heard < 500 && c.state === "open" ? c : { state: "open", heard: now, skew: m.at ? m.at - now : c.skew }));
    switch (m.type) {
      case "frame":
      case "diff": {
        const sub = this.subs.get(m.sub!);
        if (!sub) return;
        if (m.type === "frame") sub.picture.frame(m as unknown as Frame);
        else
          try {
            sub.picture.diff(m as unknown as Diff);
          } catch (e) {
            if (!(e instanceof Gap)) throw e;
            this.subscribe(m.sub!, sub);
            return;
          }
        sub.onChange(m.type);
        return;
      }
      case "events": {
        const list = m.events ?? [];
        events.set((was) => {
          const last = was[0]?.seq ?? 0;
          // A monitor that was started anew counts from one again.
          const fresh = list.length && list[list.length - 1].seq < last ? list : list.filter((e) => e.seq > last);
          return [...fresh.reverse(), ...was].slice(0, keepEvents);
        });
        return;
      }
      case "series":
        for (const f of this.watchers) f(m.at ?? now, m.values ?? {});
        return;
      case "error":
        this.subs.get(m.sub ?? 0)?.onError(m.error!.message + (m.error!.hint ? ` (${m.error!.hint})` : ""), m.error!.code);
    }
  }
}

async function decode(data: string | ArrayBuffer): Promise<Message> {
  if (typeof data === "string") return JSON.parse(data) as Message;
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text()) as Message;
}

export const live = new Live();
