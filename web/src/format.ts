import type { Format } from "./api/types";

export function bytes(v: number): string {
  const units = ["B", "KB", "MB", "GB", "TB", "PB"];
  let i = 0;
  while (Math.abs(v) >= 1000 && i < units.length - 1) {
    v /= 1024;
    i++;
  }
  return `${v >= 100 || i === 0 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v.toFixed(2)} ${units[i]}`;
}

export function count(v: number): string {
  if (Math.abs(v) >= 1e9) return (v / 1e9).toFixed(1) + " G";
  if (Math.abs(v) >= 1e6) return (v / 1e6).toFixed(1) + " M";
  if (Math.abs(v) >= 1e4) return (v / 1e3).toFixed(1) + " k";
  return Number.isInteger(v) ? String(v) : v.toFixed(Math.abs(v) < 10 ? 2 : 1);
}

export function metric(v: number | null | undefined, f: Format | string): string {
  if (v === null || v === undefined || Number.isNaN(v)) return "–";
  switch (f) {
    case "percent":
      return `${v >= 10 ? v.toFixed(0) : v.toFixed(1)} %`;
    case "bytes":
      return bytes(v);
    case "bytes_per_second":
      return bytes(v) + "/s";
    case "ms":
      return v < 1 ? `${(v * 1000).toFixed(0)} µs` : `${v.toFixed(v < 10 ? 1 : 0)} ms`;
    default:
      return count(v);
  }
}

/** A length of time in its two largest units. */
export function duration(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  const m = Math.floor(s / 60);
  if (m < 60) return s % 60 && m < 10 ? `${m} min ${s % 60} s` : `${m} min`;
  const h = Math.floor(m / 60);
  if (h < 48) return m % 60 ? `${h} h ${m % 60} min` : `${h} h`;
  return `${Math.floor(h / 24)} d ${h % 24} h`;
}

export function ago(at: number, now = Date.now()): string {
  return at ? `${duration(now - at)} ago` : "–";
}

const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const full = new Intl.DateTimeFormat("en-GB", { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" });

export function clock(at: number): string {
  return time.format(at);
}
export function stamp(at: number): string {
  return full.format(at);
}

export const healthNames = ["unknown", "ok", "warning", "critical", "stale"];

export function plural(n: number, one: string, many = one + "s"): string {
  return `${n.toLocaleString("en-GB")} ${n === 1 ? one : many}`;
}
