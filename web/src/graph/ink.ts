// Small things that all drawing shares: colours with an opacity, text cut to a width, how wide an edge is.

import { rgb } from "./palette";

export type Ctx = CanvasRenderingContext2D;

export function edgeWidth(n: number): number {
  return Math.min(4, 1 + Math.log10(1 + n) * 0.7);
}

const alphas = new Map<string, string>();

/** A colour with an opacity. */
export function alpha(colour: string, a: number): string {
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
export function clip(ctx: Ctx, text: string, width: number): string {
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
