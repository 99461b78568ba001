// Paints the whole picture: boxes, edges, nodes, labels. Painting is a generator, so that a large picture can be painted in slices.

import type { Camera } from "./camera";
import { Density } from "./density";
import { alpha, clip, edgeWidth, type Ctx } from "./ink";
import { radius, type Marks, type Stage } from "./marks";
import { rgb } from "./palette";
import { degree } from "./picture";

export const directEdges = 2500;

export class Painter {
  private order: Uint32Array = new Uint32Array(0);
  private orderOf = -1;
  private density = new Density();

  constructor(private readonly stage: Stage, private readonly marks: Marks) {}

  /** A quiet grid of dots that shows the plane moving. */
  backdrop(ctx: Ctx, c: Camera, w: number, h: number) {
    if (this.stage.palette.contrast || c.k < 0.15) return;
    let step = 60 * c.k;
    while (step < 26) step *= 2;
    const ox = ((w / 2 - c.x * c.k) % step + step) % step, oy = ((h / 2 - c.y * c.k) % step + step) % step;
    ctx.fillStyle = this.stage.palette.line;
    for (let x = ox; x < w; x += step) for (let y = oy; y < h; y += step) ctx.fillRect(x, y, 1.2, 1.2);
  }

  /** above: rows whose names are written on top of the picture, and so not in it. */
  *paint(ctx: Ctx, c: Camera, w: number, h: number, above?: ReadonlySet<number>): Generator<void> {
    this.boxes(ctx, c, w, h);
    yield;
    yield* this.paintEdges(ctx, c, w, h);
    yield* this.paintNodes(ctx, c, w, h);
    this.labels(ctx, c, w, h, above);
  }

  private boxes(ctx: Ctx, c: Camera, w: number, h: number) {
    const pal = this.stage.palette;
    for (const b of this.stage.picture.boxes) {
      const x = (b.x - c.x) * c.k + w / 2, y = (b.y - c.y) * c.k + h / 2, bw = b.w * c.k, bh = b.h_ * c.k;
      if (x > w || y > h || x + bw < 0 || y + bh < 0) continue;
      ctx.beginPath();
      ctx.roundRect(x, y, bw, bh, Math.min(12, bw / 8));
      ctx.fillStyle = alpha(pal.raised, 0.55);
      ctx.fill();
      ctx.lineWidth = 1;
      ctx.strokeStyle = b.health >= 2 && b.health <= 3 ? pal.health[b.health] : pal.strong;
      ctx.stroke();
      if (bw > 60) {
        ctx.font = `600 12px ${pal.font}`;
        ctx.textAlign = "left";
        ctx.textBaseline = "alphabetic";
        ctx.fillStyle = pal.text;
        const text = clip(ctx, b.label, bw - 60);
        ctx.fillText(text, x + 2, y - 7);
        ctx.fillStyle = pal.dim;
        ctx.font = `11px ${pal.font}`;
        const tw = ctx.measureText(text).width;
        ctx.fillText(`${b.n}  –`, x + 14 + tw, y - 7);
      }
    }
  }

  private *paintEdges(ctx: Ctx, c: Camera, w: number, h: number): Generator<void> {
    const p = this.stage.picture;
    const l = p.link;
    const pal = this.stage.palette;
    if (p.edges > directEdges) {
      const pw = Math.round(w * this.stage.dpr), ph = Math.round(h * this.stage.dpr), k = c.k * this.stage.dpr;
      const ox = pw / 2 - c.x * k, oy = ph / 2 - c.y * k;
      this.density.begin(pw, ph);
      for (let e = 0; e < p.edges; e++) {
        const s = l.s[e], d = l.d[e];
        if (s < 0 || d < 0 || s === d) continue;
        this.density.line(p.x[s] * k + ox, p.y[s] * k + oy, p.x[d] * k + ox, p.y[d] * k + oy, 1);
        if ((e & 2047) === 2047) yield;
      }
      const image = ctx.createImageData(pw, ph);
      this.density.into(image, rgb(pal.edge), pal.contrast ? 0.35 : 0.16, pal.contrast ? 1 : 0.85);
      // putImageData replaces what is below, so boxes are drawn again where there are any.
      if (p.boxes.length === 0) ctx.putImageData(image, 0, 0);
      else {
        const layer = document.createElement("canvas");
        layer.width = pw;
        layer.height = ph;
        layer.getContext("2d")!.putImageData(image, 0, 0);
        ctx.drawImage(layer, 0, 0, w, h);
      }
      yield;
    }
    const few = p.edges <= directEdges;
    // The more there are, and the further out one looks, the quieter each.
    const crowd = Math.max(0, Math.log10(Math.max(1, p.edges)) - 1.7);
    const quiet = pal.contrast ? pal.edge : alpha(pal.edge, Math.max(0.3, 0.95 - 0.42 * crowd));
    const thin = Math.max(0.5, Math.min(1, c.k * 1.6));
    for (let e = 0; e < p.edges; e++) {
      if (!few && !(p.fail[e] > 0)) continue;
      this.marks.edge(ctx, c, w, h, e, p.fail[e] > 0 ? pal.health[3] : quiet, p.fail[e] > 0 ? 1.6 : edgeWidth(p.en[e]) * thin, few && c.k > 0.2);
      if ((e & 511) === 511) yield;
    }
  }

  private *paintNodes(ctx: Ctx, c: Camera, w: number, h: number): Generator<void> {
    const p = this.stage.picture;
    const r = radius * c.k;
    if (r < 3.2) {
      // Dots, one colour after the other: changing the colour is what costs.
      const byColour = new Map<string, number[]>();
      for (let i = 0; i < p.count; i++) {
        const x = (p.x[i] - c.x) * c.k + w / 2, y = (p.y[i] - c.y) * c.k + h / 2;
        if (x < -4 || y < -4 || x > w + 4 || y > h + 4) continue;
        const colour = this.marks.colourOf(i);
        const list = byColour.get(colour);
        if (list) list.push(i);
        else byColour.set(colour, [i]);
      }
      yield;
      // What needs a look comes last, on top.
      const worst = [this.stage.palette.health[2], this.stage.palette.health[3]];
      const colours = [...byColour.keys()].sort((a, b) => worst.indexOf(a) - worst.indexOf(b));
      let n = 0;
      for (const colour of colours) {
        ctx.fillStyle = colour;
        for (const i of byColour.get(colour)!) {
          const size = Math.max(2.4, Math.min(6.5, this.marks.radiusOf(i) * c.k * 1.7)) * (p.health[i] === 2 || p.health[i] === 3 ? 1.5 : 1);
          ctx.fillRect((p.x[i] - c.x) * c.k + w / 2 - size / 2, (p.y[i] - c.y) * c.k + h / 2 - size / 2, size, size);
          if ((++n & 2047) === 0) yield;
        }
      }
      return;
    }
    for (let i = 0; i < p.count; i++) {
      this.marks.node(ctx, c, w, h, i);
      if ((i & 127) === 127) yield;
    }
  }

  /** Rows in the order in which they deserve a label. */
  private byRank(): Uint32Array {
    const p = this.stage.picture;
    if (this.orderOf === p.structure) return this.order;
    this.orderOf = p.structure;
    const rank = new Float32Array(p.count);
    for (let i = 0; i < p.count; i++) rank[i] = (p.health[i] === 3 ? 1e6 : p.health[i] === 2 ? 5e5 : 0) + (p.kind[i] === "internet" ? 2e5 : 0) + (p.pseudo[i] ? 0 : 50 + p.n[i] * 10) + degree(p, i);
    this.order = Uint32Array.from(rank.keys()).sort((a, b) => rank[b] - rank[a] || p.h[a] - p.h[b]);
    return this.order;
  }

  private labels(ctx: Ctx, c: Camera, w: number, h: number, above?: ReadonlySet<number>) {
    const p = this.stage.picture;
    const r = radius * c.k;
    const most = r < 3 ? 24 : r < 6 ? 60 : 260;
    const used = new Map<number, [number, number, number, number][]>();
    const free = (x0: number, y0: number, x1: number, y1: number) => {
      const cells: number[] = [];
      for (let gx = Math.floor(x0 / 120); gx <= Math.floor(x1 / 120); gx++)
        for (let gy = Math.floor(y0 / 40); gy <= Math.floor(y1 / 40); gy++) cells.push(gx * 10_007 + gy);
      for (const cell of cells) for (const u of used.get(cell) ?? []) if (x0 < u[2] && x1 > u[0] && y0 < u[3] && y1 > u[1]) return false;
      for (const cell of cells) used.set(cell, [...(used.get(cell) ?? []), [x0, y0, x1, y1]]);
      return true;
    };
    let n = 0;
    const order = this.byRank();
    for (let k = 0; k < order.length && n < most; k++) {
      const i = order[k];
      const x = (p.x[i] - c.x) * c.k + w / 2, y = (p.y[i] - c.y) * c.k + h / 2;
      if (x < 0 || y < 0 || x > w || y > h) continue;
      const ri = this.marks.radiusOf(i) * c.k;
      const two = r > 11 && p.minor[i] !== "";
      const width = Math.min(140, Math.max(p.label[i].length * 6.4, two ? p.minor[i].length * 5.8 : 0));
      if (!free(x - width / 2 - 3, y + ri + 2, x + width / 2 + 3, y + ri + (two ? 31 : 18))) continue;
      if (!above?.has(i)) this.marks.label(ctx, i, x, y + ri + 5, two);
      n++;
    }
  }
}
