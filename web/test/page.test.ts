import { expect, test } from "vitest";
import { parseAnsi, plain } from "../src/ansi";
import { candidates, detailed } from "../src/api/client";
import { bytes, duration, metric } from "../src/format";
import { alike, fit, zoomAt } from "../src/graph/camera";
import { Density } from "../src/graph/density";
import { readEnd } from "../src/pages/files";
import { Read, tellApart } from "../src/pages/logs";
import { health } from "../src/pages/services";
import { syncHealth, syncValue } from "../src/pages/system";
import { withHealth } from "../src/query/narrow";
import { csv, follow, sorted, type Column } from "../src/ui/table";

test("colours of a log line, and nothing else that a terminal would act on", () => {
  expect(parseAnsi("plain")).toEqual([{ text: "plain", colour: -1, bold: false, dim: false }]);
  expect(parseAnsi("\u001b[1;31mbad\u001b[0m ok")).toEqual([{ text: "bad", colour: 1, bold: true, dim: false }, { text: " ok", colour: -1, bold: false, dim: false }]);
  expect(parseAnsi("\u001b[38;5;12mx\u001b[38;2;1;2;3my").map((s) => s.colour)).toEqual([12, 12]);
  // Title, clipboard, cursor, screen: gone.
  expect(plain("\u001b]0;title\u0007a\u001b]52;c;ZXZpbA==\u001b\\b\u001b[2J\u001b[10;10Hc\u0008\u0000d\u001bcx")).toBe("abcdx");
  expect(plain("tab\tstays")).toBe("tab\tstays");
});

test("figures for people", () => {
  expect([bytes(0), bytes(1023), bytes(1536), bytes(1073741824)]).toEqual(["0 B", "1.00 KB", "1.50 KB", "1.00 GB"]);
  expect([metric(null, "percent"), metric(NaN, "bytes"), metric(undefined, "ms"), metric(12.4, "percent"), metric(0.25, "ms")]).toEqual(["–", "–", "–", "12 %", "250 µs"]);
  expect([duration(900), duration(59_000), duration(61_000), duration(3_600_000), duration(90_000_000 * 3)]).toEqual(["1 s", "59 s", "1 min 1 s", "1 h", "3 d 3 h"]);
});

interface Row {
  name: string;
  v: number;
}
const columns: Column<Row>[] = [
  { id: "name", label: "Name", width: "1fr", sort: (r) => r.name, cell: () => null },
  { id: "v", label: "Value", width: "1fr", sort: (r) => r.v, cell: () => null },
];

test("sorting is stable, counts numbers in names, and puts what has no value last", () => {
  const rows = [{ name: "web.10", v: 1 }, { name: "web.9", v: NaN }, { name: "db", v: 3 }, { name: "api", v: 3 }];
  const names = (id: string, desc: boolean) => sorted(rows, columns, { id, desc }).map((r) => r.name);
  expect(names("name", false)).toEqual(["api", "db", "web.9", "web.10"]);
  expect(names("v", true)).toEqual(["db", "api", "web.10", "web.9"]);
  expect(names("v", false)).toEqual(["web.10", "db", "api", "web.9"]);
  expect(names("none", false)).toEqual(rows.map((r) => r.name));
});

test("an exported name is never a formula", () => {
  expect(csv(columns, [{ name: '=HYPERLINK("x")', v: -1.5 }, { name: "a,b", v: 2 }])).toBe('Name,Value\r\n"\'=HYPERLINK(""x"")",-1.5\r\n"a,b",2\r\n');
});

test("zooming keeps the point under the pointer", () => {
  const c = { x: 10, y: -20, k: 0.5 };
  const z = zoomAt(c, 3, 120, -40);
  expect([z.x + 120 / z.k, z.y - 40 / z.k].map((v) => Math.round(v * 1e6) / 1e6)).toEqual([10 + 120 / 0.5, -20 - 40 / 0.5]);
  const f = fit({ x0: -100, y0: 0, x1: 300, y1: 100 }, 1000, 500);
  expect([f.x, f.y]).toEqual([100, 50]);
  expect(f.k * 400).toBeLessThanOrEqual(1000);
});

test("what is fitted is in the middle of any window, and few nodes are not blown up", () => {
  for (const [w, h] of [[1280, 800], [390, 600], [120, 90]])
    for (const [x0, y0, x1, y1] of [[-320, 0, -320, 0], [-320, 0, -240, 0], [0, 0, 5000, 100], [-7, -900, 7, 900]]) {
      const f = fit({ x0, y0, x1, y1 }, w, h);
      expect([f.x, f.y]).toEqual([(x0 + x1) / 2, (y0 + y1) / 2]);
      expect(f.k).toBeLessThanOrEqual(1.6);
      expect((x1 - x0) * f.k).toBeLessThan(w);
      expect((y1 - y0) * f.k).toBeLessThan(h);
    }
  const c = { x: 0, y: 0, k: 1 };
  expect([alike(c, { x: 5, y: 5, k: 1.05 }, 1000, 800), alike(c, { x: 0, y: 0, k: 1.2 }, 1000, 800), alike(c, { x: 30, y: 0, k: 1 }, 1000, 800), alike(c, { x: 0, y: 30, k: 1 }, 1000, 800)]).toEqual([true, false, false, false]);
});

test("the density of lines is clipped and adds up", () => {
  const d = new Density();
  d.begin(20, 10);
  d.line(-50, 5, 70, 5, 1);
  d.line(3, -40, 3, 60, 1);
  d.line(-5, -5, -9, 40, 1); // outside
  const image = { data: new Uint8ClampedArray(20 * 10 * 4) } as unknown as ImageData;
  d.into(image, [10, 20, 30], 0.2, 1);
  const at = (x: number, y: number) => [...image.data.slice((y * 20 + x) * 4, (y * 20 + x) * 4 + 4)];
  expect(at(0, 5)).toEqual([10, 20, 30, 51]);
  expect(at(19, 5)[3]).toBe(51);
  expect(at(3, 5)[3]).toBeGreaterThan(51);
  expect(at(10, 2)).toEqual([0, 0, 0, 0]);
});

test("the active row stays the same one when rows move, and its place stays when it goes", () => {
  const id = (r: string) => r;
  expect(follow(["a", "b", "c"], id, "b", 1)).toBe(1);
  expect(follow(["b", "c", "a"], id, "b", 1)).toBe(0);
  expect(follow(["a", "c", "d"], id, "b", 1)).toBe(1);
  expect(follow(["a"], id, "b", 1)).toBe(0);
  expect(follow(["a", "b"], id, undefined, 0)).toBe(0);
  expect(follow([], id, "b", 1)).toBe(0);
});

test("a page goes to another monitor than its own, and never from TLS to none", () => {
  const all = ["https://m1:4040", "http://m2:4040", "https://m3:4040"];
  expect(candidates(all, { origin: "https://m1:4040", protocol: "https:" })).toEqual(["https://m3:4040"]);
  expect(candidates(all, { origin: "http://m2:4040", protocol: "http:" })).toEqual(["https://m1:4040", "https://m3:4040"]);
  expect(candidates([], { origin: "http://m2:4040", protocol: "http:" })).toEqual([]);
});

/** A file as a monitor serves it, in memory. */
function held(text: string) {
  const file = { text, asked: 0 };
  return {
    file,
    read: async (_: string, offset: number, length: number) => new TextEncoder().encode(file.text.slice(offset, offset + length)),
    size: async () => (file.asked++, file.text.length),
  };
}

test("the end of a file is its end, however much is written in between, and when it is cut off", async () => {
  const s = held("a".repeat(100));
  const last = async (was: number) => {
    const { offset, bytes: b } = await readEnd(s, "/log", was);
    return { at: offset + b.length, text: new TextDecoder().decode(b).slice(-3) };
  };
  expect(await last(0)).toEqual({ at: 100, text: "aaa" });
  s.file.text += "b".repeat(50_000) + "end";
  expect(await last(100)).toEqual({ at: 50_103, text: "end" });
  expect(s.file.asked).toBe(0);
  // Ten megabytes while nobody looked.
  s.file.text += "c".repeat(10_000_000) + "now";
  expect(await last(50_103)).toEqual({ at: 10_050_106, text: "now" });
  s.file.text = "cut";
  expect(await last(10_050_106)).toEqual({ at: 3, text: "cut" });
});

test("choosing a health narrows the filter down, and choosing it again goes back", () => {
  expect(withHealth("", "crit")).toBe("health:crit");
  expect(withHealth("health:crit", "crit")).toBe("");
  expect(withHealth("health:crit", "warn")).toBe("health:warn");
  expect(withHealth("web host:vm1", "crit")).toBe("web host:vm1 health:crit");
  expect(withHealth("web host:vm1 health:crit", "crit")).toBe("web host:vm1");
  expect(withHealth("web or db", "crit")).toBe("(web or db) health:crit");
  expect(withHealth("(web or db) health:crit", "ok")).toBe("(web or db) health:ok");
  expect(withHealth("a or health:crit", "crit")).toBe("(a or health:crit) health:crit");
  expect(withHealth("cpu>", "crit")).toBe("health:crit");
  expect(withHealth("-health:ok", "warn")).toBe("-health:ok health:warn");
});

test("replication is as well as its engine says, and its figures have their units", () => {
  const live = { phase: "live", source_quorum: true, target_quorum: true };
  expect([live, { phase: "standby", source_quorum: false, target_quorum: true }, { ...live, source_error: "connection refused" }, { ...live, target_quorum: false }, { phase: "copying" }, { phase: "stopped", error: "x" }].map(syncHealth)).toEqual([1, 1, 3, 2, 2, 3]);
  expect([syncValue("lag_ms", 0.4), syncValue("behind_ms", 420), syncValue("behind_ms", 90_000), syncValue("transactions", 12), syncValue("source_quorum", false), syncValue("engine", "a")]).toEqual(["400 µs", "420 ms", "1 min 30 s", "12", "no", "a"]);
});

test("an app that crashes over and over is not well because it runs just now", () => {
  const now = Date.parse("2026-11-26T21:00:00Z");
  const app = { id: "/a", cpus: 1, mem: 1, instances: 1, version: "", labels: {}, tasksStaged: 0, tasksRunning: 1, tasksHealthy: 0, tasksUnhealthy: 0, deployments: [] };
  const failed = (timestamp: string) => ({ ...app, lastTaskFailure: { message: "Command exited with status 3", state: "TASK_FAILED", timestamp, host: "h" } });
  expect(health(app, now)).toEqual([1, "running"]);
  expect(health(failed("2026-11-26T20:59:50.123Z"), now)).toEqual([2, "failed lately"]);
  expect(health(failed("2026-11-26T20:50:00.000Z"), now)).toEqual([1, "running"]);
});

test("what Marathon finds wrong is said in words", () => {
  expect(detailed([{ path: "/cmd", errors: ["error.expected.jsstring"] }, { path: "", errors: ["a", "b"] }])).toBe("/cmd: error.expected.jsstring; a, b");
  expect([detailed("plain"), detailed({ x: 1 })]).toEqual(["plain", '{"x":1}']);
});

test("instances of one app are told apart in a log", () => {
  expect(tellApart(["container;vm;0f3a9c77", "container;vm;1b22", "container;vm;9"], ["web.shop", "web.shop", "db"])).toEqual(["web.shop 0f3a9c", "web.shop 1b22", "db"]);
});

test("logs go on where each was left, those that have said nothing with what they say first", () => {
  const read = new Read();
  read.note({ i: 0, s: "stdout" });
  expect(read.after(2)).toEqual([]);
  read.note({ i: 1, s: "stderr", p: "7-10" });
  read.note({ i: 1, s: "stdout", p: "8-5" });
  read.note({ i: 1, s: "stderr", p: "7-20" });
  expect(read.after(3)).toEqual(["stdout=0-0", "stderr=7-20,stdout=8-5", "stdout=0-0"]);
});
