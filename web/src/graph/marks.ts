// How one node, one edge and one label look.

import { alpha, clip, type Ctx } from "./ink";
import type { Camera } from "./camera";
import { rampSteps, type Palette } from "./palette";
import type { Picture } from "./picture";
import { trace } from "./shapes";

export type Colour = "health" | "metric" | "kind";

export interface Look {
  colour: Colour;
  /** Value that is the top of the ramp; 0: the largest that is seen. */
  metricMax: number;
  sized: boolean;
  flows: boolean;
}

/** What is drawn, and in which colours and resolution. */
export interface Stage {
  picture: Picture;
  look: Look;
  palette: Palette;
  dpr: number;
}

export const radius = 18; // world units; the layout keeps nodes 60 apart

export class Marks {
  private metricTop = 1;
  private sizeTop = 1;
  private topsOf = -1;
  private sprites = new Map<string, HTMLCanvasElement>();

  constructor(private readonly stage: Stage) {}

  /** Forgets what was drawn for other colours or metrics. */
  forget() {
    this.sprites.clear();
    this.topsOf = -1;
  }

  radiusOf(i: number): number {
    const p = this.stage.picture;
    let r = p.n[i] > 1 ? radius * Math.min(1.5, 1.05 + Math.log10(p.n[i]) * 0.18) : radius;
    if (this.stage.look.sized && !Number.isNaN(p.z[i])) r = 9 + 18 * Math.sqrt(Math.min(1, p.z[i] / this.sizeTop));
    return r;
  }

  tops() {
    const p = this.stage.picture;
    if (this.topsOf === p.version) return;
    this.topsOf = p.version;
    let m = 0, z = 0;
    for (let i = 0; i < p.count; i++) {
      if (p.m[i] > m) m = p.m[i];
      if (p.z[i] > z) z = p.z[i];
    }
    // Groups sum up: their values may be beyond what one can have.
    this.metricTop = Math.max(this.stage.look.metricMax, m) || 1;
    this.sizeTop = z || 1;
  }

  /** Draws one edge: a slight curve from client to server with an arrow at the server. */
  edge(ctx: Ctx, c: Camera, w: number, h: number, e: number, colour: string, width: number, arrow: boolean) {
    const p = this.stage.picture;
    const l = p.link;
    const s = l.s[e], d = l.d[e];
    if (s < 0 || d < 0) return;
    const ax = (p.x[s] - c.x) * c.k + w / 2, ay = (p.y[s] - c.y) * c.k + h / 2;
    const rs = this.radiusOf(s) * c.k;
    ctx.strokeStyle = colour;
    ctx.lineWidth = width;
    if (s === d) {
      if (ax < -50 || ay < -50 || ax > w + 50 || ay > h + 50 || rs < 4) return;
      ctx.beginPath();
      ctx.arc(ax + rs * 0.85, ay - rs * 0.85, rs * 0.5, Math.PI * 0.85, Math.PI * 2.65);
      ctx.stroke();
      return;
    }
    const bx = (p.x[d] - c.x) * c.k + w / 2, by = (p.y[d] - c.y) * c.k + h / 2;
    if ((ax < 0 && bx < 0) || (ay < 0 && by < 0) || (ax > w && bx > w) || (ay > h && by > h)) return;
    const dx = bx - ax, dy = by - ay;
    const len = Math.hypot(dx, dy) || 1;
    const bend = Math.min(24, len * 0.08);
    const mx = (ax + bx) / 2 - (dy / len) * bend, my = (ay + by) / 2 + (dx / len) * bend;
    const gap = this.radiusOf(d) * c.k + 3;
    const ex = bx - mx, ey = by - my;
    const el = Math.hypot(ex, ey) || 1;
    const tipX = bx - (ex / el) * gap, tipY = by - (ey / el) * gap;
    ctx.beginPath();
    ctx.moveTo(ax, ay);
    ctx.quadraticCurveTo(mx, my, tipX, tipY);
    ctx.stroke();
    if (arrow && len > 30) {
      const ux = ex / el, uy = ey / el, size = 4.5 + width;
      ctx.fillStyle = colour;
      ctx.beginPath();
      ctx.moveTo(tipX + ux * 1.5, tipY + uy * 1.5);
      ctx.lineTo(tipX - ux * size - uy * size * 0.5, tipY - uy * size + ux * size * 0.5);
      ctx.lineTo(tipX - ux * size + uy * size * 0.5, tipY - uy * size - ux * size * 0.5);
      ctx.closePath();
      ctx.fill();
    }
  }

  node(ctx: Ctx, c: Camera, w: number, h: number, i: number) {
    const p = this.stage.picture;
    const x = (p.x[i] - c.x) * c.k + w / 2, y = (p.y[i] - c.y) * c.k + h / 2;
    const r = Math.max(2, this.radiusOf(i) * c.k);
    if (x < -r * 2 || y < -r * 2 || x > w + r * 2 || y > h + r * 2) return;
    const sprite = this.sprite(i, r);
    const size = sprite.width / this.stage.dpr;
    ctx.drawImage(sprite, Math.round((x - size / 2) * this.stage.dpr) / this.stage.dpr, Math.round((y - size / 2) * this.stage.dpr) / this.stage.dpr, size, size);
  }

  /** The share of the metric's top, 0..1, or -1. */
  private share(i: number): number {
    const v = this.stage.picture.m[i];
    return Number.isNaN(v) ? -1 : Math.max(0, Math.min(1, v / this.metricTop));
  }

  colourOf(i: number): string {
    const p = this.stage.picture;
    const pal = this.stage.palette;
    if (this.stage.look.colour === "kind") return pal.kinds[p.kind[i]] ?? pal.kinds.group;
    if (this.stage.look.colour === "metric") {
      const s = this.share(i);
      return s < 0 ? pal.health[0] : pal.ramp[Math.round(s * (rampSteps - 1))];
    }
    return pal.health[p.health[i]] ?? pal.health[0];
  }

  /** A node's drawing, kept for all nodes that look the same. */
  private sprite(i: number, r: number): HTMLCanvasElement {
    const p = this.stage.picture;
    const rr = r < 12 ? Math.round(r * 2) / 2 : Math.round(r);
    const share = p.metric ? Math.round(this.share(i) * 20) : -1;
    const key = `${p.shape[i]} ${rr} ${share} ${p.health[i]} ${p.pseudo[i]} ${p.n[i] > 1 ? 1 : 0} ${this.stage.look.colour === "kind" ? p.kind[i] : ""}`;
    let s = this.sprites.get(key);
    if (s) return s;
    if (this.sprites.size > 3000) this.sprites.clear();
    s = document.createElement("canvas");
    const size = Math.ceil((rr * 2.9 + 8) * this.stage.dpr);
    s.width = s.height = size;
    const ctx = s.getContext("2d")!;
    ctx.scale(this.stage.dpr, this.stage.dpr);
    const m = size / this.stage.dpr / 2;
    const pal = this.stage.palette;
    const colour = this.colourOf(i);
    const stale = p.health[i] === 4;
    const bad = p.health[i] === 2 || p.health[i] === 3;
    ctx.globalAlpha = stale ? 0.55 : 1;
    ctx.lineJoin = "round";
    if (p.n[i] > 1 && rr > 5)
      for (const [d, f] of [[5, 0.35], [2.5, 0.6]] as const) {
        trace(ctx, p.shape[i], m + d * 0.8, m - d * 0.8, rr);
        ctx.fillStyle = pal.surface;
        ctx.fill();
        ctx.lineWidth = 1.2;
        ctx.strokeStyle = alpha(colour, f);
        ctx.stroke();
      }
    trace(ctx, p.shape[i], m, m, rr);
    ctx.fillStyle = pal.surface;
    ctx.fill();
    ctx.fillStyle = alpha(colour, this.stage.look.colour === "metric" ? 0.45 : this.stage.look.colour === "health" && !bad ? 0.14 : 0.2);
    ctx.fill();
    if (share > 0 && rr > 4) {
      // The metric fills the node from below.
      ctx.save();
      trace(ctx, p.shape[i], m, m, rr);
      ctx.clip();
      ctx.fillStyle = alpha(pal.ramp[Math.round((share / 20) * (rampSteps - 1))], 0.85);
      ctx.fillRect(0, m + rr - (rr * 2 * share) / 20, m * 2, m * 2);
      ctx.restore();
    }
    trace(ctx, p.shape[i], m, m, rr);
    ctx.lineWidth = Math.max(1, Math.min(2.2, rr * 0.12)) * (bad ? 1.5 : 1);
    if (p.pseudo[i] || stale) ctx.setLineDash([3, 3]);
    ctx.strokeStyle = this.stage.look.colour === "metric" && bad ? pal.health[p.health[i]] : colour;
    ctx.stroke();
    ctx.setLineDash([]);
    if (bad && rr > 5) {
      // A mark besides the colour: a triangle warns, a diamond is critical.
      const q = Math.max(4, rr * 0.36), bx = m + rr * 0.72, by = m - rr * 0.72;
      ctx.beginPath();
      if (p.health[i] === 2) {
        ctx.moveTo(bx, by - q);
        ctx.lineTo(bx + q, by + q * 0.8);
        ctx.lineTo(bx - q, by + q * 0.8);
      } else {
        ctx.moveTo(bx, by - q * 1.15);
        ctx.lineTo(bx + q * 1.15, by);
        ctx.lineTo(bx, by + q * 1.15);
        ctx.lineTo(bx - q * 1.15, by);
      }
      ctx.closePath();
      ctx.fillStyle = pal.health[p.health[i]];
      ctx.fill();
      ctx.lineWidth = 1.5;
      ctx.strokeStyle = pal.bg;
      ctx.stroke();
    }
    this.sprites.set(key, s);
    return s;
  }

  label(ctx: Ctx, i: number, x: number, y: number, two: boolean, strong = false) {
    const p = this.stage.picture;
    const pal = this.stage.palette;
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    ctx.lineJoin = "round";
    ctx.font = `${strong ? 600 : 500} 11.5px ${pal.font}`;
    const text = clip(ctx, p.label[i], strong ? 260 : 140);
    ctx.lineWidth = 3.5;
    ctx.strokeStyle = pal.bg;
    ctx.strokeText(text, x, y);
    ctx.fillStyle = pal.text;
    ctx.fillText(text, x, y);
    if (!two) return;
    ctx.font = `10.5px ${pal.font}`;
    const minor = clip(ctx, p.minor[i], strong ? 260 : 140);
    ctx.strokeText(minor, x, y + 14);
    ctx.fillStyle = pal.dim;
    ctx.fillText(minor, x, y + 14);
  }

  dot(ctx: Ctx, c: Camera, w: number, h: number, i: number) {
    ctx.fillStyle = this.colourOf(i);
    ctx.fillRect((this.stage.picture.x[i] - c.x) * c.k + w / 2 - 2.5, (this.stage.picture.y[i] - c.y) * c.k + h / 2 - 2.5, 5, 5);
  }
}
