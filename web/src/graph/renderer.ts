// Draws the picture on a canvas. A small picture is drawn anew with every frame; a large one is painted into a scene that is moved.
// What is near the pointer, selected or focused is drawn on top of either. How things look is in marks.ts, in which order they
// are painted in painter.ts, the scene in scene.ts, what lies on top in overlay.ts.

import { alike, fit, maxZoom, minZoom, zoomAt, type Camera } from "./camera";
import { Grid, nearestEdge } from "./grid";
import type { Ctx } from "./ink";
import { Marks, radius, type Look } from "./marks";
import { Overlay, type Held } from "./overlay";
import { directEdges, Painter } from "./painter";
import { readPalette, type Palette } from "./palette";
import { Picture } from "./picture";
import { Scenes } from "./scene";

export type { Colour, Look } from "./marks";

const directNodes = 1500;

export class Renderer implements Held {
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
  palette: Palette;
  w = 1;
  h = 1;
  dpr = 1;
  private raf = 0;
  private asked = false;
  private last = 0;
  private completed = -1;
  private drawnVersion = -1;
  readonly still: boolean;

  private grid: Grid | null = null;
  private gridOf = -1;
  private readonly marks = new Marks(this);
  private readonly painter = new Painter(this, this.marks);
  private readonly scenes = new Scenes(this, this, this.painter);
  private readonly overlay = new Overlay(this, this.marks);
  private target: Camera | null = null;
  /** The whole picture is kept in sight, whatever comes and however large the window is, until somebody looks elsewhere. */
  private whole = true;

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
    // What a person has just opened must not slip out of a window that its details make narrower.
    const marked = this.picture.find(this.cursor);
    const seen = marked >= 0 && this.sees(marked, 0);
    this.w = Math.max(1, w);
    this.h = Math.max(1, h);
    this.dpr = dpr;
    this.canvas.width = Math.round(this.w * dpr);
    this.canvas.height = Math.round(this.h * dpr);
    this.scenes.drop();
    if (this.whole) this.settle(false);
    else if (seen) this.reveal(marked);
    this.drawNow();
  }

  themeChanged() {
    this.palette = readPalette();
    this.marks.forget();
    this.scenes.stale();
    this.invalidate();
  }

  setLook(look: Look) {
    this.look = look;
    this.marks.forget();
    this.scenes.stale();
    this.invalidate();
  }

  /** The version of the picture that is on the canvas. */
  get shownVersion(): number {
    return this.large ? this.scenes.version : this.drawnVersion;
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

  get large() {
    return this.picture.count > directNodes || this.picture.edges > directEdges;
  }

  // Camera

  /** Shows the whole picture, and goes on doing so. */
  fit(animate = true) {
    this.whole = true;
    this.goto(fit(this.picture.bounds(), this.w, this.h), animate);
  }

  /** Shows the whole picture after it or the window has changed, unless somebody looks elsewhere. */
  settle(animate = true) {
    if (!this.whole || this.picture.count === 0 || this.lasso.length > 0) return;
    const want = fit(this.picture.bounds(), this.w, this.h);
    if (!animate || !alike(this.target ?? this.camera, want, this.w, this.h)) this.goto(want, animate);
  }

  private goto(c: Camera, animate = true) {
    if (!animate || this.still) {
      this.camera = c;
      this.target = null;
    } else this.target = c;
    this.invalidate();
  }

  centre(i: number, k = Math.max(this.camera.k, 0.7)) {
    this.whole = false;
    this.goto({ x: this.picture.tx[i], y: this.picture.ty[i], k });
  }

  /** Moves the camera just so far that the node is well inside the window. */
  reveal(i: number) {
    if (!this.sees(i, Math.min(60, this.w / 6 - 1, this.h / 6 - 1))) this.centre(i, Math.max(this.camera.k, 0.25));
  }

  /** Whether a node is in the window, so far from its edges. */
  private sees(i: number, edge: number) {
    const [x, y] = this.toScreen(this.picture.tx[i], this.picture.ty[i]);
    return x >= edge && y >= edge && x <= this.w - edge && y <= this.h - edge;
  }

  pan(dx: number, dy: number) {
    this.whole = false;
    this.target = null;
    this.camera = { ...this.camera, x: this.camera.x - dx / this.camera.k, y: this.camera.y - dy / this.camera.k };
    this.invalidate();
  }

  zoom(factor: number, px = this.w / 2, py = this.h / 2) {
    this.whole = false;
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
    const reach = Math.max(this.marks.radiusOf(i) + 4 / this.camera.k, 9 / this.camera.k);
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
    this.marks.tops();
    const ctx = this.ctx;
    ctx.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    ctx.fillStyle = this.palette.bg;
    ctx.fillRect(0, 0, this.w, this.h);
    if (this.large) again = this.scenes.show(ctx) || again;
    else {
      this.scenes.stale();
      this.painter.backdrop(ctx, this.camera, this.w, this.h);
      for (const _ of this.painter.paint(ctx, this.camera, this.w, this.h, this.overlay.named())) void _;
      this.drawnVersion = p.version;
    }
    again = this.overlay.draw(ctx, dt) || again;
    if (this.completed !== p.structure && p.rev > 0 && (!this.large || this.scenes.version >= 0)) {
      this.completed = p.structure;
      this.onComplete();
    }
    if (again) this.invalidate();
  }

  /** The map as a PNG, as it is shown now. */
  png(): Promise<Blob | null> {
    this.drawNow();
    return new Promise((done) => this.canvas.toBlob(done, "image/png"));
  }
}
