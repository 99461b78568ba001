/** Where the map is looked at from: the world point in the middle of the canvas, and pixels per world unit. */
export interface Camera {
  x: number;
  y: number;
  k: number;
}

export const minZoom = 0.004;
export const maxZoom = 6;

/** The camera that shows a rectangle whole, with room around it. */
export function fit(b: { x0: number; y0: number; x1: number; y1: number }, w: number, h: number, room = 70, most = 1.6): Camera {
  const k = Math.min((w - 2 * room) / Math.max(1, b.x1 - b.x0), (h - 2 * room) / Math.max(1, b.y1 - b.y0), most);
  return { x: (b.x0 + b.x1) / 2, y: (b.y0 + b.y1) / 2, k: Math.max(minZoom, k) };
}

/** Zooms by a factor and keeps the world point under the pixel (relative to the middle) where it is. */
export function zoomAt(c: Camera, factor: number, px: number, py: number): Camera {
  const k = Math.max(minZoom, Math.min(maxZoom, c.k * factor));
  return { k, x: c.x + px / c.k - px / k, y: c.y + py / c.k - py / k };
}
