import { useEffect, useRef, useState } from "react";
import { rgb } from "../graph/palette";
import { clock } from "../format";
import { theme } from "../theme";
import { useStore } from "../store";

/** A small chart of a metric over time. Pointing at it tells the value at that time. */
export function Sparkline({ from, step, values, max, format, height = 44, label, tone = "accent" }: { from: number; step: number; values: (number | null)[]; max: number; format: (v: number) => string; height?: number; label: string; tone?: string }) {
  const ref = useRef<HTMLCanvasElement>(null);
  const [at, setAt] = useState(-1);
  const [width, setWidth] = useState(0);
  const look = useStore(theme);
  useEffect(() => {
    const o = new ResizeObserver((list) => setWidth(Math.round(list[0].contentRect.width)));
    o.observe(ref.current!.parentElement!);
    return () => o.disconnect();
  }, []);
  useEffect(() => {
    const c = ref.current!;
    if (!width) return;
    const dpr = Math.min(2, devicePixelRatio || 1);
    c.width = width * dpr;
    c.height = height * dpr;
    const ctx = c.getContext("2d")!;
    ctx.scale(dpr, dpr);
    ctx.clearRect(0, 0, width, height);
    const css = getComputedStyle(document.documentElement);
    const colour = css.getPropertyValue("--" + tone).trim();
    const [r, g, b] = rgb(colour);
    let top = max;
    if (!top) for (const v of values) if (v !== null && v > top) top = v;
    top = top || 1;
    const n = Math.max(2, values.length);
    const x = (i: number) => (i / (n - 1)) * (width - 2) + 1;
    const y = (v: number) => height - 2 - (Math.min(v, top) / top) * (height - 6);
    ctx.strokeStyle = css.getPropertyValue("--line").trim();
    ctx.beginPath();
    ctx.moveTo(0, height - 1.5);
    ctx.lineTo(width, height - 1.5);
    ctx.stroke();
    for (let i = 0; i < values.length; ) {
      if (values[i] === null) {
        i++;
        continue;
      }
      let j = i;
      while (j < values.length && values[j] !== null) j++;
      ctx.beginPath();
      for (let k = i; k < j; k++) (k === i ? ctx.moveTo(x(k), y(values[k]!)) : ctx.lineTo(x(k), y(values[k]!)));
      ctx.lineWidth = 1.5;
      ctx.strokeStyle = colour;
      ctx.lineJoin = "round";
      ctx.stroke();
      ctx.lineTo(x(j - 1), height - 2);
      ctx.lineTo(x(i), height - 2);
      ctx.closePath();
      const fill = ctx.createLinearGradient(0, 0, 0, height);
      fill.addColorStop(0, `rgba(${r},${g},${b},0.28)`);
      fill.addColorStop(1, `rgba(${r},${g},${b},0.02)`);
      ctx.fillStyle = fill;
      ctx.fill();
      i = j;
    }
    if (at >= 0 && at < values.length && values[at] !== null) {
      ctx.fillStyle = colour;
      ctx.beginPath();
      ctx.arc(x(at), y(values[at]!), 3, 0, Math.PI * 2);
      ctx.fill();
    }
  }, [values, width, height, max, at, tone, look]);
  const shown = at >= 0 && at < values.length ? values[at] : null;
  return (
    <div
      className="spark"
      style={{ height }}
      onPointerMove={(e) => {
        const r = e.currentTarget.getBoundingClientRect();
        setAt(Math.round(((e.clientX - r.left) / r.width) * (values.length - 1)));
      }}
      onPointerLeave={() => setAt(-1)}
    >
      <canvas ref={ref} style={{ width: "100%", height }} role="img" aria-label={label} />
      {shown !== null && (
        <span className="spark-tip" style={at > values.length / 2 ? { left: 4 } : { right: 4 }}>
          {format(shown)} · {clock(from + at * step)}
        </span>
      )}
    </div>
  );
}
