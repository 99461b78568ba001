// Where the page goes on when its monitor is gone. Monitors that share accounts are told of each other (--replicas), and tell the
// page. It takes its address along, which holds the whole view, and in the fragment, which no server sees, a hand-over of the
// session that it has had its monitor make in time: cookies stay with the host that set them.

import { choice } from "../theme";
import { createStore } from "../store";
import { api, candidates, send, session, status } from "./client";
import { connection } from "./live";

export interface Replica {
  origin: string;
  /** undefined: not asked yet. */
  answers: boolean | undefined;
}

/** The other monitors, as long as the page's own is gone. */
export const others = createStore<Replica[]>([]);
/** The person wants to stay with what is on the screen. */
export const stay = createStore(false);

/** How long the page's own monitor may be gone before another is taken. A restart is quicker. */
const patience = 4000;
const renew = 4 * 60_000;

class Failover {
  private ticket = { text: "", made: 0, until: 0 };
  private timer: ReturnType<typeof setInterval> | undefined;
  private since = 0;
  private asking = false;
  private unlock: (() => void) | undefined;

  /** busy says whether something on the page would be lost by going. */
  start(busy: () => boolean) {
    const stop = connection.subscribe(() => {
      if (connection.get().state === "lost") this.since ||= Date.now();
      else if (this.since) {
        this.since = 0;
        others.set([]);
        stay.set(false);
      }
    });
    this.timer = setInterval(() => void this.tick(busy), 1000);
    this.unlock = stop;
  }

  stop() {
    clearInterval(this.timer);
    this.unlock?.();
    this.ticket = { text: "", made: 0, until: 0 };
  }

  private async tick(busy: () => boolean) {
    if (this.asking) return;
    const origins = candidates(status.get()?.replicas ?? [], location);
    if (!origins.length) return;
    this.asking = true;
    try {
      if (!this.since) await this.prepare();
      else {
        others.set(await Promise.all(origins.map(async (origin) => ({ origin, answers: await answers(origin) }))));
        const to = others.get().find((r) => r.answers);
        // A page that was never shown anything would go round in circles.
        if (to && this.since && Date.now() - this.since > patience && connection.get().heard > 0 && !document.hidden && !stay.get() && !busy()) this.go(to.origin);
      }
    } finally {
      this.asking = false;
    }
  }

  /** Has the monitor write the session down, while it can. */
  private async prepare() {
    const now = Date.now();
    if (connection.get().state !== "open" || status.get()?.auth !== "on" || !session.get() || now - this.ticket.made < renew) return;
    this.ticket.made = now - renew + 15_000; // when it fails, not at once again
    try {
      const made = await send<{ handover: string }>("POST", `${api}/handover`);
      this.ticket = { text: made.handover, made: now, until: now + 2 * renew };
    } catch {
      // Then one has to log in there.
    }
  }

  go(origin: string) {
    const take = new URLSearchParams();
    if (this.ticket.text && Date.now() < this.ticket.until) take.set("handover", this.ticket.text);
    if (choice.get() !== "system") take.set("theme", choice.get());
    location.replace(`${origin}${location.pathname}${location.search}#${take}`);
  }
}

/** Whether something at an origin answers. What it says stays unread: it is another origin's. */
async function answers(origin: string): Promise<boolean> {
  try {
    await fetch(`${origin}/healthz`, { mode: "no-cors", credentials: "omit", cache: "no-store", signal: AbortSignal.timeout(2000) });
    return true;
  } catch {
    return false;
  }
}

export const failover = new Failover();
