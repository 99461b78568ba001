// The picture that the page holds of one subscription: columns, as the monitor sends them, in arrays that the renderer walks.
// Rows have no order; a row that goes is replaced by the last one. Places move from where they are drawn (x, y) to where the
// layout wants them (tx, ty).

export interface NodeColumns {
  h: number[];
  id: string[];
  label: string[];
  minor: string[];
  kind: string[];
  shape: string[];
  n: number[];
  state: string[];
  health: number[];
  reason: string[];
  box: number[];
  x: number[];
  y: number[];
  m: (number | null)[];
  z: (number | null)[];
  pseudo: number[];
  hit: number[];
}

export interface EdgeColumns {
  h: number[];
  s: number[];
  d: number[];
  n: number[];
  port: number[];
  proto: string[];
  tx: number[];
  rx: number[];
  fail: number[];
  rtt: (number | null)[];
  ev: string[];
}

export interface Box {
  h: number;
  id: string;
  label: string;
  n: number;
  x: number;
  y: number;
  w: number;
  h_: number;
  health: number;
}

export interface Totals {
  nodes: number;
  edges: number;
  hidden_nodes: number;
  hidden_edges: number;
  ok: number;
  warn: number;
  crit: number;
  stale: number;
}

export interface Frame {
  type: "frame";
  sub: number;
  view: string;
  rev: number;
  at: number;
  live: boolean;
  group: string;
  layout: string;
  metric: string;
  size: string;
  totals: Totals;
  nodes: NodeColumns;
  edges: EdgeColumns;
  boxes: Box[];
}

export interface Diff {
  type: "diff";
  sub: number;
  rev: number;
  at: number;
  nodes?: NodeColumns;
  edges?: EdgeColumns;
  gone?: { nodes: number[]; edges: number[] };
  values?: { h: number[]; m: (number | null)[]; z: (number | null)[] };
  moved?: { h: number[]; x: number[]; y: number[] };
  boxes?: Box[];
  totals?: Totals;
}

export const shapes = ["circle", "square", "hexagon", "heptagon", "triangle", "pentagon", "octagon", "cylinder", "sheet", "cloud"];
const shapeIndex = new Map(shapes.map((s, i) => [s, i]));

export const noTotals: Totals = { nodes: 0, edges: 0, hidden_nodes: 0, hidden_edges: 0, ok: 0, warn: 0, crit: 0, stale: 0 };

/** A diff that does not follow what is held: the subscription must be made again. */
export class Gap extends Error {}

export class Picture {
  view = "";
  rev = 0;
  at = 0;
  live = true;
  group = "none";
  layout = "force";
  metric = "";
  size = "";
  totals: Totals = noTotals;
  boxes: Box[] = [];

  count = 0;
  h = new Uint32Array(0);
  id: string[] = [];
  label: string[] = [];
  minor: string[] = [];
  kind: string[] = [];
  shape = new Uint8Array(0);
  n = new Uint32Array(0);
  state: string[] = [];
  health = new Uint8Array(0);
  reason: string[] = [];
  box = new Uint32Array(0);
  x = new Float32Array(0);
  y = new Float32Array(0);
  tx = new Float32Array(0);
  ty = new Float32Array(0);
  m = new Float64Array(0);
  z = new Float64Array(0);
  pseudo = new Uint8Array(0);
  hit = new Uint8Array(0);

  edges = 0;
  eh = new Uint32Array(0);
  es = new Uint32Array(0); // handles
  ed = new Uint32Array(0);
  en = new Uint32Array(0);
  port = new Uint32Array(0);
  proto: string[] = [];
  etx = new Float32Array(0);
  erx = new Float32Array(0);
  fail = new Float32Array(0);
  rtt = new Float32Array(0);
  ev: string[] = [];

  /** Grows when nodes or edges come or go. */
  structure = 0;
  /** Grows with every change. */
  version = 0;
  /** Some place is not yet where it should be. */
  moving = false;

  private slots = new Map<number, number>();
  private edgeSlots = new Map<number, number>();
  private ids = new Map<string, number>();
  private links: Links | null = null;

  slot(h: number): number {
    return this.slots.get(h) ?? -1;
  }
  find(id: string): number {
    return this.ids.get(id) ?? -1;
  }

  /** Replaces everything. Nodes that were there move from where they were. */
  frame(f: Frame) {
    const before = this.view === f.view && this.count > 0 ? { ids: this.ids, x: this.x, y: this.y } : null;
    const nodes = f.nodes;
    const count = nodes.h.length;
    Object.assign(this, { view: f.view, rev: f.rev, at: f.at, live: f.live, group: f.group, layout: f.layout, metric: f.metric, size: f.size });
    this.totals = f.totals;
    this.boxes = f.boxes;
    this.count = count;
    this.reserve(count, true);
    this.id = nodes.id;
    this.label = nodes.label;
    this.minor = nodes.minor;
    this.kind = nodes.kind;
    this.state = nodes.state;
    this.reason = nodes.reason;
    this.slots = new Map();
    this.ids = new Map();
    this.moving = false;
    for (let i = 0; i < count; i++) {
      this.slots.set(nodes.h[i], i);
      this.ids.set(nodes.id[i], i);
      this.numbers(i, nodes, i);
      this.tx[i] = nodes.x[i];
      this.ty[i] = nodes.y[i];
      const was = before?.ids.get(nodes.id[i]);
      this.x[i] = was === undefined || !before ? nodes.x[i] : before.x[was];
      this.y[i] = was === undefined || !before ? nodes.y[i] : before.y[was];
      if (this.x[i] !== this.tx[i] || this.y[i] !== this.ty[i]) this.moving = true;
    }
    const edges = f.edges;
    this.edges = edges.h.length;
    this.reserveEdges(this.edges, true);
    this.proto = edges.proto;
    this.ev = edges.ev;
    this.edgeSlots = new Map();
    for (let i = 0; i < this.edges; i++) {
      this.edgeSlots.set(edges.h[i], i);
      this.edgeNumbers(i, edges, i);
    }
    this.links = null;
    this.structure++;
    this.version++;
  }

  /** Applies what has changed. Throws Gap when something is missing in between. */
  diff(d: Diff) {
    if (d.rev !== this.rev + 1) throw new Gap(`revision ${d.rev} after ${this.rev}`);
    this.rev = d.rev;
    this.at = d.at;
    if (d.totals) this.totals = d.totals;
    if (d.boxes) this.boxes = d.boxes;
    let structure = false;
    for (const h of d.gone?.edges ?? []) structure = this.removeEdge(h) || structure;
    for (const h of d.gone?.nodes ?? []) structure = this.remove(h) || structure;
    const nodes = d.nodes;
    if (nodes?.h) {
      for (let j = 0; j < nodes.h.length; j++) {
        const h = nodes.h[j];
        let i = this.slot(h);
        if (i < 0) {
          i = this.count++;
          this.reserve(this.count, false);
          this.slots.set(h, i);
          this.x[i] = nodes.x[j];
          this.y[i] = nodes.y[j];
          structure = true;
        } else if (this.id[i] !== nodes.id[j]) this.ids.delete(this.id[i]);
        this.ids.set(nodes.id[j], i);
        this.id[i] = nodes.id[j];
        this.label[i] = nodes.label[j];
        this.minor[i] = nodes.minor[j];
        this.kind[i] = nodes.kind[j];
        this.state[i] = nodes.state[j];
        this.reason[i] = nodes.reason[j];
        this.numbers(i, nodes, j);
        this.goTo(i, nodes.x[j], nodes.y[j]);
      }
    }
    const edges = d.edges;
    if (edges?.h) {
      for (let j = 0; j < edges.h.length; j++) {
        let i = this.edgeSlots.get(edges.h[j]);
        if (i === undefined) {
          i = this.edges++;
          this.reserveEdges(this.edges, false);
          this.edgeSlots.set(edges.h[j], i);
          structure = true;
        } else if (this.es[i] !== edges.s[j] || this.ed[i] !== edges.d[j]) structure = true;
        this.proto[i] = edges.proto[j];
        this.ev[i] = edges.ev[j];
        this.edgeNumbers(i, edges, j);
      }
    }
    const values = d.values;
    if (values) {
      for (let j = 0; j < values.h.length; j++) {
        const i = this.slot(values.h[j]);
        if (i < 0) continue;
        this.m[i] = values.m[j] ?? NaN;
        this.z[i] = values.z[j] ?? NaN;
      }
    }
    const moved = d.moved;
    if (moved) {
      for (let j = 0; j < moved.h.length; j++) {
        const i = this.slot(moved.h[j]);
        if (i >= 0) this.goTo(i, moved.x[j], moved.y[j]);
      }
    }
    if (structure) {
      this.links = null;
      this.structure++;
    }
    this.version++;
  }

  /** Moves every node part of the way to its place; k is 0..1. */
  glide(k: number) {
    let moving = false;
    for (let i = 0; i < this.count; i++) {
      const dx = this.tx[i] - this.x[i];
      const dy = this.ty[i] - this.y[i];
      if (dx === 0 && dy === 0) continue;
      if (k >= 1 || Math.abs(dx) + Math.abs(dy) < 0.5) {
        this.x[i] = this.tx[i];
        this.y[i] = this.ty[i];
      } else {
        this.x[i] += dx * k;
        this.y[i] += dy * k;
        moving = true;
      }
    }
    this.moving = moving;
  }

  /** Which nodes each edge joins, and which edges each node has. */
  get link(): Links {
    this.links ??= makeLinks(this);
    return this.links;
  }

  bounds(): { x0: number; y0: number; x1: number; y1: number } {
    let x0 = Infinity, y0 = Infinity, x1 = -Infinity, y1 = -Infinity;
    for (let i = 0; i < this.count; i++) {
      x0 = Math.min(x0, this.tx[i]);
      x1 = Math.max(x1, this.tx[i]);
      y0 = Math.min(y0, this.ty[i]);
      y1 = Math.max(y1, this.ty[i]);
    }
    for (const b of this.boxes) {
      x0 = Math.min(x0, b.x);
      y0 = Math.min(y0, b.y);
      x1 = Math.max(x1, b.x + b.w);
      y1 = Math.max(y1, b.y + b.h_);
    }
    return x0 > x1 ? { x0: -100, y0: -100, x1: 100, y1: 100 } : { x0, y0, x1, y1 };
  }

  private goTo(i: number, x: number, y: number) {
    this.tx[i] = x;
    this.ty[i] = y;
    if (this.x[i] !== x || this.y[i] !== y) this.moving = true;
  }

  private numbers(i: number, c: NodeColumns, j: number) {
    this.h[i] = c.h[j];
    this.shape[i] = shapeIndex.get(c.shape[j]) ?? 0;
    this.n[i] = c.n[j];
    this.health[i] = c.health[j];
    this.box[i] = c.box[j];
    this.m[i] = c.m[j] ?? NaN;
    this.z[i] = c.z[j] ?? NaN;
    this.pseudo[i] = c.pseudo[j];
    this.hit[i] = c.hit[j];
  }

  private edgeNumbers(i: number, c: EdgeColumns, j: number) {
    this.eh[i] = c.h[j];
    this.es[i] = c.s[j];
    this.ed[i] = c.d[j];
    this.en[i] = c.n[j];
    this.port[i] = c.port[j];
    this.etx[i] = c.tx[j];
    this.erx[i] = c.rx[j];
    this.fail[i] = c.fail[j];
    this.rtt[i] = c.rtt[j] ?? NaN;
  }

  private reserve(n: number, anew: boolean) {
    if (!anew && n <= this.h.length) return;
    const size = anew ? n : Math.max(64, n + (n >> 1));
    const grow = <T extends Uint8Array | Uint32Array | Float32Array | Float64Array>(a: T): T => {
      const b = new (a.constructor as new (n: number) => T)(size);
      if (!anew) b.set(a as never);
      return b;
    };
    this.h = grow(this.h);
    this.shape = grow(this.shape);
    this.n = grow(this.n);
    this.health = grow(this.health);
    this.box = grow(this.box);
    this.x = grow(this.x);
    this.y = grow(this.y);
    this.tx = grow(this.tx);
    this.ty = grow(this.ty);
    this.m = grow(this.m);
    this.z = grow(this.z);
    this.pseudo = grow(this.pseudo);
    this.hit = grow(this.hit);
  }

  private reserveEdges(n: number, anew: boolean) {
    if (!anew && n <= this.eh.length) return;
    const size = anew ? n : Math.max(64, n + (n >> 1));
    const grow = <T extends Uint32Array | Float32Array>(a: T): T => {
      const b = new (a.constructor as new (n: number) => T)(size);
      if (!anew) b.set(a as never);
      return b;
    };
    this.eh = grow(this.eh);
    this.es = grow(this.es);
    this.ed = grow(this.ed);
    this.en = grow(this.en);
    this.port = grow(this.port);
    this.etx = grow(this.etx);
    this.erx = grow(this.erx);
    this.fail = grow(this.fail);
    this.rtt = grow(this.rtt);
  }

  private remove(h: number): boolean {
    const i = this.slots.get(h);
    if (i === undefined) return false;
    const last = --this.count;
    this.slots.delete(h);
    if (this.ids.get(this.id[i]) === i) this.ids.delete(this.id[i]);
    if (i !== last) {
      for (const a of [this.h, this.shape, this.n, this.health, this.box, this.x, this.y, this.tx, this.ty, this.m, this.z, this.pseudo, this.hit]) a[i] = a[last];
      for (const a of [this.id, this.label, this.minor, this.kind, this.state, this.reason]) a[i] = a[last];
      this.slots.set(this.h[i], i);
      this.ids.set(this.id[i], i);
    }
    for (const a of [this.id, this.label, this.minor, this.kind, this.state, this.reason]) a.length = last;
    return true;
  }

  private removeEdge(h: number): boolean {
    const i = this.edgeSlots.get(h);
    if (i === undefined) return false;
    const last = --this.edges;
    this.edgeSlots.delete(h);
    if (i !== last) {
      for (const a of [this.eh, this.es, this.ed, this.en, this.port, this.etx, this.erx, this.fail, this.rtt]) a[i] = a[last];
      this.proto[i] = this.proto[last];
      this.ev[i] = this.ev[last];
      this.edgeSlots.set(this.eh[i], i);
    }
    this.proto.length = last;
    this.ev.length = last;
    return true;
  }
}

/** Ends of the edges as rows (-1: not there), and the edges of each node one after the other. */
export interface Links {
  s: Int32Array;
  d: Int32Array;
  from: Uint32Array; // of node i: list[from[i]] .. list[from[i+1]-1] are its edges
  list: Uint32Array;
}

function makeLinks(p: Picture): Links {
  const s = new Int32Array(p.edges);
  const d = new Int32Array(p.edges);
  const from = new Uint32Array(p.count + 1);
  for (let e = 0; e < p.edges; e++) {
    s[e] = p.slot(p.es[e]);
    d[e] = p.slot(p.ed[e]);
    if (s[e] >= 0) from[s[e] + 1]++;
    if (d[e] >= 0 && d[e] !== s[e]) from[d[e] + 1]++;
  }
  for (let i = 0; i < p.count; i++) from[i + 1] += from[i];
  const list = new Uint32Array(from[p.count]);
  const at = from.slice();
  for (let e = 0; e < p.edges; e++) {
    if (s[e] >= 0) list[at[s[e]]++] = e;
    if (d[e] >= 0 && d[e] !== s[e]) list[at[d[e]]++] = e;
  }
  return { s, d, from, list };
}

export function degree(p: Picture, i: number): number {
  const l = p.link;
  return l.from[i + 1] - l.from[i];
}

/** The rows of a node's neighbours, each once. */
export function neighbours(p: Picture, i: number): number[] {
  const l = p.link;
  const out = new Set<number>();
  for (let k = l.from[i]; k < l.from[i + 1]; k++) {
    const e = l.list[k];
    const o = l.s[e] === i ? l.d[e] : l.s[e];
    if (o >= 0 && o !== i) out.add(o);
  }
  return [...out];
}
