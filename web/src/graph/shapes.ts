import { shapes } from "./picture";

const TAU = Math.PI * 2;

/** Traces the outline of a shape (an index into shapes) of radius r around a point. */
export function trace(ctx: CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D, shape: number, x: number, y: number, r: number) {
  ctx.beginPath();
  switch (shapes[shape]) {
    case "square":
      ctx.roundRect(x - r * 0.86, y - r * 0.86, r * 1.72, r * 1.72, r * 0.28);
      return;
    case "hexagon":
      return polygon(ctx, x, y, r, 6, Math.PI / 6);
    case "heptagon":
      return polygon(ctx, x, y, r, 7, -Math.PI / 2);
    case "triangle":
      return polygon(ctx, x, y + r * 0.15, r * 1.15, 3, -Math.PI / 2);
    case "pentagon":
      return polygon(ctx, x, y, r, 5, -Math.PI / 2);
    case "octagon":
      return polygon(ctx, x, y, r, 8, Math.PI / 8);
    case "cylinder":
      ctx.ellipse(x, y - r * 0.6, r * 0.8, r * 0.3, 0, Math.PI, TAU);
      ctx.lineTo(x + r * 0.8, y + r * 0.6);
      ctx.ellipse(x, y + r * 0.6, r * 0.8, r * 0.3, 0, 0, Math.PI);
      ctx.closePath();
      return;
    case "sheet":
      ctx.moveTo(x - r * 0.75, y - r * 0.9);
      ctx.lineTo(x + r * 0.35, y - r * 0.9);
      ctx.lineTo(x + r * 0.75, y - r * 0.5);
      ctx.lineTo(x + r * 0.75, y + r * 0.9);
      ctx.lineTo(x - r * 0.75, y + r * 0.9);
      ctx.closePath();
      return;
    case "cloud":
      ctx.arc(x - r * 0.55, y + r * 0.2, r * 0.45, Math.PI * 0.5, Math.PI * 1.45);
      ctx.arc(x - r * 0.05, y - r * 0.25, r * 0.6, Math.PI * 1.1, Math.PI * 1.85);
      ctx.arc(x + r * 0.6, y + r * 0.15, r * 0.5, Math.PI * 1.4, Math.PI * 0.5);
      ctx.closePath();
      return;
    default:
      ctx.arc(x, y, r * 0.92, 0, TAU);
  }
}

function polygon(ctx: CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D, x: number, y: number, r: number, n: number, turn: number) {
  const soft = r * 0.22;
  const point = (i: number): [number, number] => [x + r * Math.cos(turn + (i * TAU) / n), y + r * Math.sin(turn + (i * TAU) / n)];
  const [ax, ay] = point(0);
  const [zx, zy] = point(n - 1);
  ctx.moveTo((ax + zx) / 2, (ay + zy) / 2);
  for (let i = 0; i < n; i++) {
    const [cx, cy] = point(i);
    const [nx, ny] = point(i + 1);
    ctx.arcTo(cx, cy, (cx + nx) / 2, (cy + ny) / 2, soft);
  }
  ctx.closePath();
}
