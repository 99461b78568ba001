// Draws many edges as a picture of their density: each edge adds to the pixels that it passes, and the sum becomes opacity.
// Far out, where tens of thousands of edges overlap, this shows where the traffic is instead of one solid blot, and costs a
// few additions a pixel instead of an anti-aliased stroke.

export class Density {
  private sum = new Uint16Array(0);
  private w = 0;
  private h = 0;

  begin(w: number, h: number) {
    if (this.w !== w || this.h !== h) {
      this.w = w;
      this.h = h;
      this.sum = new Uint16Array(w * h);
    } else this.sum.fill(0);
  }

  /** Adds a line, clipped to the picture. */
  line(x0: number, y0: number, x1: number, y1: number, weight: number) {
    const { w, h, sum } = this;
    // Liang-Barsky
    let t0 = 0, t1 = 1;
    const dx = x1 - x0, dy = y1 - y0;
    const clip = (p: number, q: number) => {
      if (p === 0) return q >= 0;
      const r = q / p;
      if (p < 0) {
        if (r > t1) return false;
        if (r > t0) t0 = r;
      } else {
        if (r < t0) return false;
        if (r < t1) t1 = r;
      }
      return true;
    };
    if (!clip(-dx, x0) || !clip(dx, w - 1 - x0) || !clip(-dy, y0) || !clip(dy, h - 1 - y0)) return;
    const ax = x0 + t0 * dx, ay = y0 + t0 * dy;
    const lx = (t1 - t0) * dx, ly = (t1 - t0) * dy;
    const steps = Math.max(1, Math.ceil(Math.max(Math.abs(lx), Math.abs(ly)) - 1e-6));
    // 16.16 fixed point: the loop is the cost of the whole picture.
    let fx = ((ax + 0.5) * 65536) | 0, fy = ((ay + 0.5) * 65536) | 0;
    const sx = ((lx / steps) * 65536) | 0, sy = ((ly / steps) * 65536) | 0;
    for (let i = 0; i <= steps; i++) {
      const px = (fx >> 16) + (fy >> 16) * w;
      const v = sum[px] + weight;
      sum[px] = v > 65535 ? 65535 : v;
      fx += sx;
      fy += sy;
    }
  }

  /** Writes the picture: opacity grows with the logarithm of the density. */
  into(image: ImageData, [r, g, b]: [number, number, number], faint: number, strong: number) {
    const out = new Uint32Array(image.data.buffer);
    const colour = (b << 16) | (g << 8) | r;
    const table = new Uint32Array(512);
    const top = Math.log(512);
    for (let i = 1; i < 512; i++) table[i] = ((Math.round(255 * (faint + ((strong - faint) * Math.log(i)) / top)) << 24) | colour) >>> 0;
    const { sum } = this;
    for (let i = 0; i < out.length; i++) {
      const v = sum[i];
      out[i] = v === 0 ? 0 : table[v < 511 ? v : 511];
    }
  }
}
