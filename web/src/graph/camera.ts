/** Where the map is looked at from: the world point in the middle of the canvas, and pixels per world unit. */
export interface Camera {
  x: number;
  y: number;
  k: number;
}

export const minZoom = 0.004;
export const maxZoom = 6;

/** The camera that shows a rectangle whole and in the middle, with room around it. A few nodes are not blown up to fill the window. */
export function fit(b: { x0: number; y0: number; x1: number; y1: number }, w: number, h: number, most = 1.6): Camera {
  const beside = Math.min(70, w / 6);
  const below = Math.min(100, h / 4); // names stand below nodes, and the strip of health below them
  const k = Math.min((w - 2 * beside) / Math.max(1, b.x1 - b.x0), (h - 2 * below) / Math.max(1, b.y1 - b.y0), most);
  return { x: (b.x0 + b.x1) / 2, y: (b.y0 + b.y1) / 2, k: Math.max(minZoom, k) };
}

/** Zooms by a factor and keeps the world point under the pixel (relative to the middle) where it is. */
export function zoomAt(c: Camera, factor: number, px: number, py: number): Camera {
  const k = Math.max(minZoom, Math.min(maxZoom, c.k * factor));
  return { k, x: c.x + px / c.k - px / k, y: c.y + py / c.k - py / k };
}

/** Whether two cameras show about the same of a window: one need not move to become the other. */
export function alike(a: Camera, b: Camera, w: number, h: number): boolean {
  return Math.abs(Math.log(a.k / b.k)) < 0.1 && Math.abs(a.x - b.x) * b.k < w * 0.02 && Math.abs(a.y - b.y) * b.k < h * 0.02;
}
