import type { Picture } from "./picture";

/** A grid over the nodes' places, for finding what lies under a point or within a shape. */
export class Grid {
  private readonly p: Picture;
  private cells = new Map<number, number[]>();
  private readonly size = 80;
  constructor(p: Picture) {
    this.p = p;
    for (let i = 0; i < p.count; i++) {
      const key = this.key(Math.floor(p.x[i] / this.size), Math.floor(p.y[i] / this.size));
      const cell = this.cells.get(key);
      if (cell) cell.push(i);
      else this.cells.set(key, [i]);
    }
  }
  private key(cx: number, cy: number) {
    return cx * 4_194_301 + cy;
  }

  /** The node whose middle is nearest to the point, at most `reach` away; -1 when there is none. */
  nearest(x: number, y: number, reach: number): number {
    let best = -1;
    let least = reach * reach;
    const r = Math.ceil(reach / this.size);
    // Far out, one pixel covers many cells: walking all nodes is cheaper then.
    if (r > 40) {
      for (let i = 0; i < this.p.count; i++) {
        const d = (this.p.x[i] - x) ** 2 + (this.p.y[i] - y) ** 2;
        if (d < least) [best, least] = [i, d];
      }
      return best;
    }
    const cx = Math.floor(x / this.size);
    const cy = Math.floor(y / this.size);
    for (let gx = cx - r; gx <= cx + r; gx++)
      for (let gy = cy - r; gy <= cy + r; gy++)
        for (const i of this.cells.get(this.key(gx, gy)) ?? []) {
          const d = (this.p.x[i] - x) ** 2 + (this.p.y[i] - y) ** 2;
          if (d < least) [best, least] = [i, d];
        }
    return best;
  }
}

/** The rows of the nodes within a closed line. */
export function within(p: Picture, line: [number, number][]): number[] {
  const out: number[] = [];
  if (line.length < 3) return out;
  for (let i = 0; i < p.count; i++) {
    let inside = false;
    for (let a = 0, b = line.length - 1; a < line.length; b = a++) {
      const [ax, ay] = line[a];
      const [bx, by] = line[b];
      if (ay > p.y[i] !== by > p.y[i] && p.x[i] < ((bx - ax) * (p.y[i] - ay)) / (by - ay) + ax) inside = !inside;
    }
    if (inside) out.push(i);
  }
  return out;
}

/** The edge that passes nearest to the point, at most `reach` away; -1 when there is none. Edges are straight. */
export function nearestEdge(p: Picture, x: number, y: number, reach: number): number {
  const l = p.link;
  let best = -1;
  let least = reach * reach;
  for (let e = 0; e < p.edges; e++) {
    const s = l.s[e];
    const d = l.d[e];
    if (s < 0 || d < 0 || s === d) continue;
    const ax = p.x[s], ay = p.y[s], bx = p.x[d], by = p.y[d];
    if (x < Math.min(ax, bx) - reach || x > Math.max(ax, bx) + reach || y < Math.min(ay, by) - reach || y > Math.max(ay, by) + reach) continue;
    const lx = bx - ax, ly = by - ay;
    const t = Math.max(0, Math.min(1, ((x - ax) * lx + (y - ay) * ly) / (lx * lx + ly * ly || 1)));
    const dist = (ax + t * lx - x) ** 2 + (ay + t * ly - y) ** 2;
    if (dist < least) [best, least] = [e, dist];
  }
  return best;
}

/** The neighbour that lies most in a direction (unit vector), for walking with the arrow keys; -1 when there is none. */
export function inDirection(p: Picture, from: number, dx: number, dy: number, candidates: Iterable<number>): number {
  let best = -1;
  let least = Infinity;
  for (const i of candidates) {
    if (i === from) continue;
    const vx = p.tx[i] - p.tx[from];
    const vy = p.ty[i] - p.ty[from];
    const along = vx * dx + vy * dy;
    if (along <= 0) continue;
    const cost = Math.hypot(vx, vy) * (2 - along / Math.hypot(vx, vy));
    if (cost < least) [best, least] = [i, cost];
  }
  return best;
}
