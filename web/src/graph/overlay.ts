// What lies on top of the picture: what is pointed at, selected, found or walked to, moving flows, the lasso.

import { alpha, edgeWidth, type Ctx } from "./ink";
import { radius, type Marks, type Stage } from "./marks";
import type { View } from "./scene";

/** The map as its reader holds it. */
export interface Held extends Stage, View {
  selected: Set<string>;
  cursor: string;
  hover: number;
  hoverEdge: number;
  lasso: [number, number][];
  readonly large: boolean;
  readonly still: boolean;
  toScreen(x: number, y: number): [number, number];
}

export class Overlay {
  private flow = 0;

  constructor(private readonly map: Held, private readonly marks: Marks) {}

  /** Rows whose names it writes, in bold, where the picture would have written them. */
  named(): Set<number> {
    const p = this.map.picture;
    const out = new Set([this.at]);
    for (const id of this.map.selected) out.add(p.find(id));
    out.delete(-1);
    return out;
  }

  /** The row that is pointed at, or that the keyboard is at. */
  private get at(): number {
    return this.map.hover >= 0 && this.map.hover < this.map.picture.count ? this.map.hover : this.map.picture.find(this.map.cursor);
  }

  /** What lies on top: neighbours of what is pointed at, search hits, selection, the keyboard's place, the lasso. */
  draw(ctx: Ctx, dt: number): boolean {
    const p = this.map.picture;
    const pal = this.map.palette;
    const c = this.map.camera, w = this.map.w, h = this.map.h;
    let again = false;
    const at = this.at;
    const pointed = this.map.hover >= 0 || this.map.selected.size > 0 || this.map.hoverEdge >= 0;
    const lit = new Set<number>();
    if (this.map.hover >= 0 && this.map.hover < p.count) lit.add(this.map.hover);
    else for (const id of this.map.selected) if (p.find(id) >= 0) lit.add(p.find(id));
    if (lit.size === 0 && this.map.look.flows && !this.map.large) for (let i = 0; i < p.count && i < 300; i++) lit.add(i);
    if (lit.size > 0 && lit.size <= 300) {
      const l = p.link;
      const edges = new Set<number>();
      for (const i of lit) for (let k = l.from[i]; k < l.from[i + 1]; k++) edges.add(l.list[k]);
      if (this.map.hover >= 0) {
        ctx.fillStyle = alpha(pal.bg, 0.6);
        ctx.fillRect(0, 0, w, h);
      }
      const shown = [...edges].slice(0, 2000);
      const moving = !this.map.still && shown.length <= 200;
      this.flow = (this.flow + dt * 0.03) % 1000;
      for (const e of shown) {
        const colour = p.fail[e] > 0 ? pal.health[3] : pal.accent;
        this.marks.edge(ctx, c, w, h, e, alpha(colour, pointed ? 0.85 : 0.35), edgeWidth(p.en[e]) + 0.4, true);
        if (moving) {
          // Marks that travel from client to server; faster where more bytes flow.
          ctx.setLineDash([3, 11]);
          ctx.lineDashOffset = -this.flow * (1 + Math.min(3, Math.log10(1 + p.etx[e] + p.erx[e]) * 0.5));
          this.marks.edge(ctx, c, w, h, e, pal.text, 2, false);
          ctx.setLineDash([]);
          again = true;
        }
      }
      // Edges end at nodes, and do not cross them.
      const near = new Set(lit);
      for (const e of shown) {
        if (l.s[e] >= 0) near.add(l.s[e]);
        if (l.d[e] >= 0) near.add(l.d[e]);
      }
      const names = this.map.hover >= 0 || this.map.large;
      let n = 0;
      for (const i of near) {
        if (radius * c.k < 3.2) this.marks.dot(ctx, c, w, h, i);
        else this.marks.node(ctx, c, w, h, i);
        if (names && !lit.has(i) && n++ < 60) this.labelOf(ctx, i, false);
      }
    }
    if (this.map.hoverEdge >= 0 && this.map.hoverEdge < p.edges) this.marks.edge(ctx, c, w, h, this.map.hoverEdge, pal.accent, 3, true);
    for (let i = 0; i < p.count; i++) if (p.hit[i]) this.ring(ctx, i, pal.accent, 1.5, [2, 3]);
    for (const id of this.map.selected) {
      const i = p.find(id);
      if (i < 0) continue;
      this.ring(ctx, i, pal.accent, 2.5);
      this.labelOf(ctx, i, true);
    }
    if (at >= 0) {
      if (at === p.find(this.map.cursor)) this.ring(ctx, at, pal.text, 1.5, [4, 3], 8);
      this.labelOf(ctx, at, true);
    }
    if (this.map.lasso.length > 1) {
      ctx.beginPath();
      this.map.lasso.forEach(([x, y], k) => (k === 0 ? ctx.moveTo(x, y) : ctx.lineTo(x, y)));
      ctx.closePath();
      ctx.fillStyle = alpha(pal.accent, 0.12);
      ctx.fill();
      ctx.lineWidth = 1.5;
      ctx.strokeStyle = pal.accent;
      ctx.setLineDash([5, 4]);
      ctx.stroke();
      ctx.setLineDash([]);
    }
    return again;
  }

  private ring(ctx: Ctx, i: number, colour: string, width: number, dash: number[] = [], away = 4.5) {
    const [x, y] = this.map.toScreen(this.map.picture.x[i], this.map.picture.y[i]);
    const r = Math.max(4, this.marks.radiusOf(i) * this.map.camera.k) + away;
    if (x < -r || y < -r || x > this.map.w + r || y > this.map.h + r) return;
    ctx.beginPath();
    ctx.arc(x, y, r, 0, Math.PI * 2);
    ctx.lineWidth = width;
    ctx.strokeStyle = colour;
    ctx.setLineDash(dash);
    ctx.stroke();
    ctx.setLineDash([]);
  }

  private labelOf(ctx: Ctx, i: number, strong: boolean) {
    const [x, y] = this.map.toScreen(this.map.picture.x[i], this.map.picture.y[i]);
    this.marks.label(ctx, i, x, y + Math.max(3, this.marks.radiusOf(i) * this.map.camera.k) + (strong ? 8 : 5), strong && this.map.picture.minor[i] !== "", strong);
  }
}
