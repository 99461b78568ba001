// A large picture is painted into a scene that is bigger than the window, in slices of a few milliseconds; panning and zooming
// move the finished scene, so they stay smooth whatever the size.

import type { Camera } from "./camera";
import type { Ctx } from "./ink";
import type { Stage } from "./marks";
import type { Painter } from "./painter";

const sliceMs = 7;
const margin = 0.3; // of the window, on each side of the scene

/** The window and where it looks. */
export interface View {
  camera: Camera;
  w: number;
  h: number;
}

interface Scene extends Camera {
  canvas: HTMLCanvasElement;
  version: number;
}

export class Scenes {
  private scene: Scene | null = null;
  private job: { to: Scene; run: Generator<void>; version: number } | null = null;
  private spare: Scene | null = null;

  constructor(private readonly stage: Stage, private readonly view: View, private readonly painter: Painter) {}

  /** The version of the picture that is painted, or -1. */
  get version(): number {
    return this.scene?.version ?? -1;
  }

  /** Paints from the start the next time: the look has changed. */
  stale() {
    this.scene = null;
  }

  /** Lets everything go: the window has changed. */
  drop() {
    this.scene = this.spare = this.job = null;
  }

  /** Shows the painted scene where it belongs now, and paints it again in slices when it is out of date. */
  show(ctx: Ctx): boolean {
    const p = this.stage.picture;
    const want = (s: Scene | null) =>
      !s || s.version !== p.version || s.k !== this.view.camera.k || Math.abs(s.x - this.view.camera.x) * s.k > this.view.w * margin * 0.95 || Math.abs(s.y - this.view.camera.y) * s.k > this.view.h * margin * 0.95;
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
    const f = this.view.camera.k / s.k;
    const w = (s.canvas.width / this.stage.dpr) * f, h = (s.canvas.height / this.stage.dpr) * f;
    const x = this.view.w / 2 + (s.x - this.view.camera.x) * this.view.camera.k - w / 2;
    const y = this.view.h / 2 + (s.y - this.view.camera.y) * this.view.camera.k - h / 2;
    ctx.imageSmoothingEnabled = f !== 1;
    if (f === 1) ctx.drawImage(s.canvas, Math.round(x * this.stage.dpr) / this.stage.dpr, Math.round(y * this.stage.dpr) / this.stage.dpr, w, h);
    else ctx.drawImage(s.canvas, x, y, w, h);
    return again;
  }

  private startScene() {
    const w = Math.round(this.view.w * (1 + 2 * margin)), h = Math.round(this.view.h * (1 + 2 * margin));
    const canvas = this.spare?.canvas ?? document.createElement("canvas");
    this.spare = null;
    if (canvas.width !== Math.round(w * this.stage.dpr) || canvas.height !== Math.round(h * this.stage.dpr)) {
      canvas.width = Math.round(w * this.stage.dpr);
      canvas.height = Math.round(h * this.stage.dpr);
    }
    const to: Scene = { canvas, ...this.view.camera, version: -1 };
    const ctx = canvas.getContext("2d")!;
    ctx.setTransform(this.stage.dpr, 0, 0, this.stage.dpr, 0, 0);
    ctx.clearRect(0, 0, w, h);
    return { to, run: this.painter.paint(ctx, { ...this.view.camera }, w, h), version: this.stage.picture.version };
  }
}
