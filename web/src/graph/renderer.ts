// Draws the picture on a canvas. A small picture is drawn anew with every frame. A large one is painted into a scene that is
// bigger than the window, in slices of a few milliseconds; panning and zooming move the finished scene, so they stay smooth
// whatever the size. What is near the pointer, selected or focused is drawn on top of either.

import { fit, maxZoom, minZoom, zoomAt, type Camera } from "./camera";
import { Density } from "./density";
import { Grid, nearestEdge } from "./grid";
import { rampSteps, readPalette, rgb, type Palette } from "./palette";
import { degree, Picture } from "./picture";
import { trace } from "./shapes";

export type Colour = "health" | "metric" | "kind";

export interface Look {
  colour: Colour;
  /** Value that is the top of the ramp; 0: the largest that is seen. */
  metricMax: number;
  sized: boolean;
  flows: boolean;
}

type Ctx = CanvasRenderingContext2D;

const radius = 18; // world units; the layout keeps nodes 60 apart
const directNodes = 1500;
const directEdges = 2500;
const sliceMs = 7;
const margin = 0.3; // of the window, on each side of the scene

export class Renderer {
  picture = new Picture();
  camera: Camera = { x: 0, y: 0, k: 1 };
  look: Look = { colour: "health", metricMax: 0, sized: false, flows: false };
  selected = new Set<string>();
  cursor = ""; // the node that the keyboard is at
  hover = -1;
  hoverEdge = -1;
  lasso: [number, number][] = [];
  /** Called when the first whole picture of a frame is on the canvas. */
  onComplete: () => void = () => {};

  readonly canvas: HTMLCanvasElement;
  private readonly ctx: Ctx;
  private palette: Palette;
  private w = 1;
  private h = 1;
  private dpr = 1;
  private raf = 0;
  private asked = false;
  private last = 0;
  private flow = 0;
  private completed = -1;
  private drawnVersion = -1;
  private readonly still: boolean;

  private grid: Grid | null = null;
  private gridOf = -1;
  private order: Uint32Array = new Uint32Array(0);
  private orderOf = -1;
  private metricTop = 1;
  private sizeTop = 1;
  private topsOf = -1;
  private sprites = new Map<string, HTMLCanvasElement>();

  private scene: Scene | null = null;
  private job: { to: Scene; run: Generator<void>; version: number } | null = null;
  private spare: Scene | null = null;
  private density = new Density();
  private target: Camera | null = null;

  constructor(canvas: HTMLCanvasElement) {
    this.canvas = canvas;
    this.ctx = canvas.getContext("2d", { alpha: false })!;
    this.palette = readPalette();
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  }

  destroy() {
    cancelAnimationFrame(this.raf);
  }

  resize(w: number, h: number) {
    const dpr = Math.min(2, devicePixelRatio || 1);
    if (w === this.w && h === this.h && dpr === this.dpr) return;
    this.w = Math.max(1, w);
    this.h = Math.max(1, h);
    this.dpr = dpr;
    this.canvas.width = Math.round(this.w * dpr);
    this.canvas.height = Math.round(this.h * dpr);
    this.scene = this.spare = this.job = null;
    this.drawNow();
  }

  themeChanged() {
    this.palette = readPalette();
    this.sprites.clear();
    this.scene = null;
    this.invalidate();
  }

  setLook(look: Look) {
    this.look = look;
    this.sprites.clear();
    this.scene = null;
    this.topsOf = -1;
    this.invalidate();
  }

  /** The version of the picture that is on the canvas. */
  get shownVersion(): number {
    return this.large ? (this.scene?.version ?? -1) : this.drawnVersion;
  }

  /** Asks for a frame. */
  invalidate() {
    if (this.asked) return;
    this.asked = true;
    this.raf = requestAnimationFrame((t) => {
      this.asked = false;
      this.frame(t);
    });
  }

  drawNow() {
    cancelAnimationFrame(this.raf);
    this.asked = false;
    this.frame(performance.now());
  }

  private get large() {
    return this.picture.count > directNodes || this.picture.edges > directEdges;
  }

  // Camera

  fit(animate = true) {
    this.goto(fit(this.picture.bounds(), this.w, this.h), animate);
  }

  goto(c: Camera, animate = true) {
    if (!animate || this.still) {
      this.camera = c;
      this.target = null;
    } else this.target = c;
    this.invalidate();
  }

  centre(i: number, k = Math.max(this.camera.k, 0.7)) {
    this.goto({ x: this.picture.tx[i], y: this.picture.ty[i], k });
  }

  /** Moves the camera just so far that the node is well inside the window. */
  reveal(i: number) {
    const [x, y] = this.toScreen(this.picture.tx[i], this.picture.ty[i]);
    if (x < 60 || y < 60 || x > this.w - 60 || y > this.h - 80) this.centre(i, Math.max(this.camera.k, 0.25));
  }

  pan(dx: number, dy: number) {
    this.target = null;
    this.camera = { ...this.camera, x: this.camera.x - dx / this.camera.k, y: this.camera.y - dy / this.camera.k };
    this.invalidate();
  }

  zoom(factor: number, px = this.w / 2, py = this.h / 2) {
    this.target = null;
    this.camera = zoomAt(this.camera, factor, px - this.w / 2, py - this.h / 2);
    this.invalidate();
  }

  get zoomed() {
    return this.camera.k <= minZoom ? -1 : this.camera.k >= maxZoom ? 1 : 0;
  }

  toWorld(px: number, py: number): [number, number] {
    return [this.camera.x + (px - this.w / 2) / this.camera.k, this.camera.y + (py - this.h / 2) / this.camera.k];
  }
  toScreen(x: number, y: number): [number, number] {
    return [(x - this.camera.x) * this.camera.k + this.w / 2, (y - this.camera.y) * this.camera.k + this.h / 2];
  }

  // Finding

  /** The row of the node under a pixel, or -1. */
  nodeAt(px: number, py: number): number {
    if (!this.grid || this.gridOf !== this.picture.version || this.picture.moving) {
      this.grid = new Grid(this.picture);
      this.gridOf = this.picture.version;
    }
    const [x, y] = this.toWorld(px, py);
    const i = this.grid.nearest(x, y, Math.max(radius * 1.6, 9 / this.camera.k));
    if (i < 0) return -1;
    const reach = Math.max(this.radiusOf(i) + 4 / this.camera.k, 9 / this.camera.k);
    return Math.hypot(this.picture.x[i] - x, this.picture.y[i] - y) <= reach ? i : -1;
  }

  edgeAt(px: number, py: number): number {
    const [x, y] = this.toWorld(px, py);
    return this.picture.edges > 20_000 ? -1 : nearestEdge(this.picture, x, y, 5 / this.camera.k);
  }

  /** The box whose title is under a pixel. */
  boxAt(px: number, py: number): string {
    const [x, y] = this.toWorld(px, py);
    const title = 22 / this.camera.k;
    for (const b of this.picture.boxes) if (x >= b.x && x <= b.x + b.w && y >= b.y - title && y <= b.y + title * 0.3) return b.id;
    return "";
  }

  private radiusOf(i: number): number {
    const p = this.picture;
    let r = p.n[i] > 1 ? radius * Math.min(1.5, 1.05 + Math.log10(p.n[i]) * 0.18) : radius;
    if (this.look.sized && !Number.isNaN(p.z[i])) r = 9 + 18 * Math.sqrt(Math.min(1, p.z[i] / this.sizeTop));
    return r;
  }

  private tops() {
    const p = this.picture;
    if (this.topsOf === p.version) return;
    this.topsOf = p.version;
    let m = 0, z = 0;
    for (let i = 0; i < p.count; i++) {
      if (p.m[i] > m) m = p.m[i];
      if (p.z[i] > z) z = p.z[i];
    }
    // Groups sum up: their values may be beyond what one can have.
    this.metricTop = Math.max(this.look.metricMax, m) || 1;
    this.sizeTop = z || 1;
  }

  /** The largest value of the metric now, for the legend. */
  get top() {
    this.tops();
    return this.metricTop;
  }

  // Drawing

  private frame(now: number) {
    const dt = Math.min(100, now - this.last || 16);
    this.last = now;
    const p = this.picture;
    let again = false;
    if (p.moving) {
      p.glide(this.still ? 1 : this.large ? 1 : 1 - Math.exp(-dt / 90));
      again = p.moving;
      this.gridOf = -1;
    }
    if (this.target) {
      const f = 1 - Math.exp(-dt / 80);
      const c = this.camera, t = this.target;
      this.camera = { x: c.x + (t.x - c.x) * f, y: c.y + (t.y - c.y) * f, k: c.k * Math.pow(t.k / c.k, f) };
      if (Math.abs(Math.log(t.k / c.k)) < 0.004 && Math.hypot(t.x - c.x, t.y - c.y) * c.k < 0.5) {
        this.camera = t;
        this.target = null;
      } else again = true;
    }
    this.tops();
    const ctx = this.ctx;
    ctx.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    ctx.fillStyle = this.palette.bg;
    ctx.fillRect(0, 0, this.w, this.h);
    if (this.large) again = this.blit() || again;
    else {
      this.scene = null;
      this.backdrop(ctx, this.camera, this.w, this.h);
      for (const _ of this.paint(ctx, this.camera, this.w, this.h)) void _;
      this.drawnVersion = p.version;
    }
    again = this.overlay(dt) || again;
    if (this.completed !== p.structure && p.rev > 0 && (!this.large || this.scene)) {
      this.completed = p.structure;
      this.onComplete();
    }
    if (again) this.invalidate();
  }

  /** Shows the painted scene where it belongs now, and paints it again in slices when it is out of date. */
  private blit(): boolean {
    const p = this.picture;
    const want = (s: Scene | null) =>
      !s || s.version !== p.version || s.k !== this.camera.k || Math.abs(s.x - this.camera.x) * s.k > this.w * margin * 0.95 || Math.abs(s.y - this.camera.y) * s.k > this.h * margin * 0.95;
    let again = false;
    if (this.job) {
      const until = performance.now() + sliceMs;
      for (;;) {
        if (this.job.run.next().done) {
          this.spare = this.scene;
          this.scene = this.job.to;
          this.scene.version = this.job.version;
          this.job = null;
          break;
        }
        if (performance.now() > until) break;
      }
      again = true;
    }
    if (!this.job && want(this.scene)) {
      const settle = !this.scene;
      this.job = this.startScene();
      if (settle) {
        // Nothing to show yet: the whole of it now.
        while (!this.job.run.next().done);
        this.scene = this.job.to;
        this.scene.version = this.job.version;
        this.job = null;
      } else again = true;
    }
    const s = this.scene!;
    const f = this.camera.k / s.k;
    const w = (s.canvas.width / this.dpr) * f, h = (s.canvas.height / this.dpr) * f;
    const x = this.w / 2 + (s.x - this.camera.x) * this.camera.k - w / 2;
    const y = this.h / 2 + (s.y - this.camera.y) * this.camera.k - h / 2;
    const ctx = this.ctx;
    ctx.imageSmoothingEnabled = f !== 1;
    if (f === 1) ctx.drawImage(s.canvas, Math.round(x * this.dpr) / this.dpr, Math.round(y * this.dpr) / this.dpr, w, h);
    else ctx.drawImage(s.canvas, x, y, w, h);
    return again;
  }

  private startScene() {
    const w = Math.round(this.w * (1 + 2 * margin)), h = Math.round(this.h * (1 + 2 * margin));
    const canvas = this.spare?.canvas ?? document.createElement("canvas");
    this.spare = null;
    if (canvas.width !== Math.round(w * this.dpr) || canvas.height !== Math.round(h * this.dpr)) {
      canvas.width = Math.round(w * this.dpr);
      canvas.height = Math.round(h * this.dpr);
    }
    const to: Scene = { canvas, ...this.camera, version: -1 };
    const ctx = canvas.getContext("2d")!;
    ctx.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    ctx.clearRect(0, 0, w, h);
    return { to, run: this.paint(ctx, { ...this.camera }, w, h), version: this.picture.version };
  }

  /** A quiet grid of dots that shows the plane moving. */
  private backdrop(ctx: Ctx, c: Camera, w: number, h: number) {
    if (this.palette.contrast || c.k < 0.15) return;
    let step = 60 * c.k;
    while (step < 26) step *= 2;
    const ox = ((w / 2 - c.x * c.k) % step + step) % step, oy = ((h / 2 - c.y * c.k) % step + step) % step;
    ctx.fillStyle = this.palette.line;
    for (let x = ox; x < w; x += step) for (let y = oy; y < h; y += step) ctx.fillRect(x, y, 1.2, 1.2);
  }

  private *paint(ctx: Ctx, c: Camera, w: number, h: number): Generator<void> {
    this.boxes(ctx, c, w, h);
    yield;
    yield* this.paintEdges(ctx, c, w, h);
    yield* this.paintNodes(ctx, c, w, h);
    this.labels(ctx, c, w, h);
  }

  private boxes(ctx: Ctx, c: Camera, w: number, h: number) {
    const pal = this.palette;
    for (const b of this.picture.boxes) {
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
    const p = this.picture;
    const l = p.link;
    const pal = this.palette;
    if (p.edges > directEdges) {
      const pw = Math.round(w * this.dpr), ph = Math.round(h * this.dpr), k = c.k * this.dpr;
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
      this.edge(ctx, c, w, h, e, p.fail[e] > 0 ? pal.health[3] : quiet, p.fail[e] > 0 ? 1.6 : edgeWidth(p.en[e]) * thin, few && c.k > 0.2);
      if ((e & 511) === 511) yield;
    }
  }

  /** Draws one edge: a slight curve from client to server with an arrow at the server. */
  private edge(ctx: Ctx, c: Camera, w: number, h: number, e: number, colour: string, width: number, arrow: boolean) {
    const p = this.picture;
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

  private *paintNodes(ctx: Ctx, c: Camera, w: number, h: number): Generator<void> {
    const p = this.picture;
    const r = radius * c.k;
    if (r < 3.2) {
      // Dots, one colour after the other: changing the colour is what costs.
      const byColour = new Map<string, number[]>();
      for (let i = 0; i < p.count; i++) {
        const x = (p.x[i] - c.x) * c.k + w / 2, y = (p.y[i] - c.y) * c.k + h / 2;
        if (x < -4 || y < -4 || x > w + 4 || y > h + 4) continue;
        const colour = this.colourOf(i);
        const list = byColour.get(colour);
        if (list) list.push(i);
        else byColour.set(colour, [i]);
      }
      yield;
      // What needs a look comes last, on top.
      const worst = [this.palette.health[2], this.palette.health[3]];
      const colours = [...byColour.keys()].sort((a, b) => worst.indexOf(a) - worst.indexOf(b));
      let n = 0;
      for (const colour of colours) {
        ctx.fillStyle = colour;
        for (const i of byColour.get(colour)!) {
          const size = Math.max(2.4, Math.min(6.5, this.radiusOf(i) * c.k * 1.7)) * (p.health[i] === 2 || p.health[i] === 3 ? 1.5 : 1);
          ctx.fillRect((p.x[i] - c.x) * c.k + w / 2 - size / 2, (p.y[i] - c.y) * c.k + h / 2 - size / 2, size, size);
          if ((++n & 2047) === 0) yield;
        }
      }
      return;
    }
    for (let i = 0; i < p.count; i++) {
      this.node(ctx, c, w, h, i);
      if ((i & 127) === 127) yield;
    }
  }

  private node(ctx: Ctx, c: Camera, w: number, h: number, i: number) {
    const p = this.picture;
    const x = (p.x[i] - c.x) * c.k + w / 2, y = (p.y[i] - c.y) * c.k + h / 2;
    const r = Math.max(2, this.radiusOf(i) * c.k);
    if (x < -r * 2 || y < -r * 2 || x > w + r * 2 || y > h + r * 2) return;
    const sprite = this.sprite(i, r);
    const size = sprite.width / this.dpr;
    ctx.drawImage(sprite, Math.round((x - size / 2) * this.dpr) / this.dpr, Math.round((y - size / 2) * this.dpr) / this.dpr, size, size);
  }

  /** The share of the metric's top, 0..1, or -1. */
  private share(i: number): number {
    const v = this.picture.m[i];
    return Number.isNaN(v) ? -1 : Math.max(0, Math.min(1, v / this.metricTop));
  }

  private colourOf(i: number): string {
    const p = this.picture;
    const pal = this.palette;
    if (this.look.colour === "kind") return pal.kinds[p.kind[i]] ?? pal.kinds.group;
    if (this.look.colour === "metric") {
      const s = this.share(i);
      return s < 0 ? pal.health[0] : pal.ramp[Math.round(s * (rampSteps - 1))];
    }
    return pal.health[p.health[i]] ?? pal.health[0];
  }

  /** A node's drawing, kept for all nodes that look the same. */
  private sprite(i: number, r: number): HTMLCanvasElement {
    const p = this.picture;
    const rr = r < 12 ? Math.round(r * 2) / 2 : Math.round(r);
    const share = p.metric ? Math.round(this.share(i) * 20) : -1;
    const key = `${p.shape[i]} ${rr} ${share} ${p.health[i]} ${p.pseudo[i]} ${p.n[i] > 1 ? 1 : 0} ${this.look.colour === "kind" ? p.kind[i] : ""}`;
    let s = this.sprites.get(key);
    if (s) return s;
    if (this.sprites.size > 3000) this.sprites.clear();
    s = document.createElement("canvas");
    const size = Math.ceil((rr * 2.9 + 8) * this.dpr);
    s.width = s.height = size;
    const ctx = s.getContext("2d")!;
    ctx.scale(this.dpr, this.dpr);
    const m = size / this.dpr / 2;
    const pal = this.palette;
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
    ctx.fillStyle = alpha(colour, this.look.colour === "metric" ? 0.45 : this.look.colour === "health" && !bad ? 0.14 : 0.2);
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
    ctx.strokeStyle = this.look.colour === "metric" && bad ? pal.health[p.health[i]] : colour;
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

  /** Rows in the order in which they deserve a label. */
  private byRank(): Uint32Array {
    const p = this.picture;
    if (this.orderOf === p.structure) return this.order;
    this.orderOf = p.structure;
    const rank = new Float32Array(p.count);
    for (let i = 0; i < p.count; i++) rank[i] = (p.health[i] === 3 ? 1e6 : p.health[i] === 2 ? 5e5 : 0) + (p.kind[i] === "internet" ? 2e5 : 0) + (p.pseudo[i] ? 0 : 50 + p.n[i] * 10) + degree(p, i);
    this.order = Uint32Array.from(rank.keys()).sort((a, b) => rank[b] - rank[a] || p.h[a] - p.h[b]);
    return this.order;
  }

  private labels(ctx: Ctx, c: Camera, w: number, h: number) {
    const p = this.picture;
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
      const ri = this.radiusOf(i) * c.k;
      const two = r > 11 && p.minor[i] !== "";
      const width = Math.min(140, Math.max(p.label[i].length * 6.4, two ? p.minor[i].length * 5.8 : 0));
      if (!free(x - width / 2 - 3, y + ri + 2, x + width / 2 + 3, y + ri + (two ? 31 : 18))) continue;
      this.label(ctx, i, x, y + ri + 5, two);
      n++;
    }
  }

  private label(ctx: Ctx, i: number, x: number, y: number, two: boolean, strong = false) {
    const p = this.picture;
    const pal = this.palette;
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

  /** What lies on top: neighbours of what is pointed at, search hits, selection, the keyboard's place, the lasso. */
  private overlay(dt: number): boolean {
    const p = this.picture;
    const ctx = this.ctx;
    const pal = this.palette;
    const c = this.camera, w = this.w, h = this.h;
    let again = false;
    const at = this.hover >= 0 && this.hover < p.count ? this.hover : p.find(this.cursor);
    const pointed = this.hover >= 0 || this.selected.size > 0 || this.hoverEdge >= 0;
    const lit = new Set<number>();
    if (this.hover >= 0 && this.hover < p.count) lit.add(this.hover);
    else for (const id of this.selected) if (p.find(id) >= 0) lit.add(p.find(id));
    if (lit.size === 0 && this.look.flows && !this.large) for (let i = 0; i < p.count && i < 300; i++) lit.add(i);
    if (lit.size > 0 && lit.size <= 300) {
      const l = p.link;
      const edges = new Set<number>();
      for (const i of lit) for (let k = l.from[i]; k < l.from[i + 1]; k++) edges.add(l.list[k]);
      if (this.hover >= 0) {
        ctx.fillStyle = alpha(pal.bg, 0.6);
        ctx.fillRect(0, 0, w, h);
      }
      const shown = [...edges].slice(0, 2000);
      const moving = !this.still && shown.length <= 200;
      this.flow = (this.flow + dt * 0.03) % 1000;
      for (const e of shown) {
        const colour = p.fail[e] > 0 ? pal.health[3] : pal.accent;
        this.edge(ctx, c, w, h, e, alpha(colour, pointed ? 0.85 : 0.35), edgeWidth(p.en[e]) + 0.4, true);
        if (moving) {
          // Marks that travel from client to server; faster where more bytes flow.
          ctx.setLineDash([3, 11]);
          ctx.lineDashOffset = -this.flow * (1 + Math.min(3, Math.log10(1 + p.etx[e] + p.erx[e]) * 0.5));
          this.edge(ctx, c, w, h, e, pal.text, 2, false);
          ctx.setLineDash([]);
          again = true;
        }
      }
      if (this.hover >= 0 || this.large) {
        const near = new Set(lit);
        for (const e of shown) {
          if (l.s[e] >= 0) near.add(l.s[e]);
          if (l.d[e] >= 0) near.add(l.d[e]);
        }
        let n = 0;
        for (const i of near) {
          if (radius * c.k < 3.2) this.dot(ctx, c, w, h, i);
          else this.node(ctx, c, w, h, i);
          if (!lit.has(i) && n++ < 60) this.labelOf(i, false);
        }
      }
    }
    if (this.hoverEdge >= 0 && this.hoverEdge < p.edges) this.edge(ctx, c, w, h, this.hoverEdge, pal.accent, 3, true);
    for (let i = 0; i < p.count; i++) if (p.hit[i]) this.ring(i, pal.accent, 1.5, [2, 3]);
    for (const id of this.selected) {
      const i = p.find(id);
      if (i < 0) continue;
      this.ring(i, pal.accent, 2.5);
      this.labelOf(i, true);
    }
    if (at >= 0) {
      if (at === p.find(this.cursor)) this.ring(at, pal.text, 1.5, [4, 3], 8);
      this.labelOf(at, true);
    }
    if (this.lasso.length > 1) {
      ctx.beginPath();
      this.lasso.forEach(([x, y], k) => (k === 0 ? ctx.moveTo(x, y) : ctx.lineTo(x, y)));
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

  private dot(ctx: Ctx, c: Camera, w: number, h: number, i: number) {
    ctx.fillStyle = this.colourOf(i);
    ctx.fillRect((this.picture.x[i] - c.x) * c.k + w / 2 - 2.5, (this.picture.y[i] - c.y) * c.k + h / 2 - 2.5, 5, 5);
  }

  private ring(i: number, colour: string, width: number, dash: number[] = [], away = 4.5) {
    const [x, y] = this.toScreen(this.picture.x[i], this.picture.y[i]);
    const r = Math.max(4, this.radiusOf(i) * this.camera.k) + away;
    if (x < -r || y < -r || x > this.w + r || y > this.h + r) return;
    const ctx = this.ctx;
    ctx.beginPath();
    ctx.arc(x, y, r, 0, Math.PI * 2);
    ctx.lineWidth = width;
    ctx.strokeStyle = colour;
    ctx.setLineDash(dash);
    ctx.stroke();
    ctx.setLineDash([]);
  }

  private labelOf(i: number, strong: boolean) {
    const [x, y] = this.toScreen(this.picture.x[i], this.picture.y[i]);
    this.label(this.ctx, i, x, y + Math.max(3, this.radiusOf(i) * this.camera.k) + (strong ? 8 : 5), strong && this.picture.minor[i] !== "", strong);
  }

  /** The map as a PNG, as it is shown now. */
  png(): Promise<Blob | null> {
    this.drawNow();
    return new Promise((done) => this.canvas.toBlob(done, "image/png"));
  }
}

interface Scene extends Camera {
  canvas: HTMLCanvasElement;
  version: number;
}

function edgeWidth(n: number): number {
  return Math.min(4, 1 + Math.log10(1 + n) * 0.7);
}

const alphas = new Map<string, string>();

function alpha(colour: string, a: number): string {
  const key = colour + a;
  let out = alphas.get(key);
  if (!out) {
    const m = /^rgba?\(([^)]+)\)$/.exec(colour);
    const parts = m ? m[1].split(",").slice(0, 3).map(Number) : rgb(colour);
    out = `rgba(${parts.join()},${a})`;
    alphas.set(key, out);
  }
  return out;
}

const clipped = new Map<string, string>();

/** Text cut to a width, with an ellipsis. */
function clip(ctx: Ctx, text: string, width: number): string {
  if (text.length * 5 < width) return text;
  const key = `${ctx.font}|${Math.round(width / 8)}|${text}`;
  let out = clipped.get(key);
  if (out !== undefined) return out;
  out = text;
  if (ctx.measureText(out).width > width) {
    let lo = 0, hi = text.length;
    while (lo < hi) {
      const mid = (lo + hi + 1) >> 1;
      if (ctx.measureText(text.slice(0, mid) + "…").width <= width) lo = mid;
      else hi = mid - 1;
    }
    out = text.slice(0, lo) + "…";
  }
  if (clipped.size > 5000) clipped.clear();
  clipped.set(key, out);
  return out;
}
