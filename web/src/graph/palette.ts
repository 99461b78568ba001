/** The colours that the canvas takes from the page's theme. */
export interface Palette {
  bg: string;
  surface: string;
  raised: string;
  line: string;
  strong: string;
  text: string;
  dim: string;
  accent: string;
  health: string[]; // by number: unknown, ok, warn, crit, stale
  ramp: string[]; // low to high
  kinds: Record<string, string>;
  edge: string;
  font: string;
  contrast: boolean;
}

export const rampSteps = 24;

export function readPalette(): Palette {
  const css = getComputedStyle(document.documentElement);
  const v = (name: string) => css.getPropertyValue("--" + name).trim();
  const stops = [v("ramp-0"), v("ramp-1"), v("ramp-2"), v("ramp-3")].map(rgb);
  const ramp: string[] = [];
  for (let i = 0; i < rampSteps; i++) {
    const t = (i / (rampSteps - 1)) * 3;
    const a = stops[Math.min(2, Math.floor(t))];
    const b = stops[Math.min(2, Math.floor(t)) + 1];
    const f = t - Math.min(2, Math.floor(t));
    ramp.push(`rgb(${a.map((c, k) => Math.round(c + (b[k] - c) * f)).join()})`);
  }
  return {
    bg: v("bg"), surface: v("surface"), raised: v("raised"), line: v("line"), strong: v("line-strong"), text: v("text"), dim: v("dim"), accent: v("accent"),
    health: [v("unknown"), v("ok"), v("warn"), v("crit"), v("stale")],
    ramp,
    kinds: {
      host: v("kind-a"), agent: v("kind-a"), container: v("kind-b"), task: v("kind-b"), process: v("kind-c"), pod: v("kind-d"), app: v("kind-d"), service: v("kind-e"),
      controller: v("kind-e"), image: v("kind-f"), framework: v("kind-f"), group: v("kind-g"), label: v("kind-g"), internet: v("dim"),
    },
    edge: v("edge"),
    font: v("sans"),
    contrast: document.documentElement.dataset.theme === "contrast",
  };
}

/** Red, green and blue of #rrggbb. */
export function rgb(hex: string): [number, number, number] {
  const n = parseInt(hex.slice(1, 7), 16) || 0;
  return [(n >> 16) & 255, (n >> 8) & 255, n & 255];
}
