// Figures of the console with 1,000 simulated hosts, as JSON lines: how long until the first complete picture, until a container's
// stop is on the screen, and how smoothly the map pans, in a real Chromium with software rendering.
import { drawn, open } from "./browser.mjs";

const { HOSTS, NODES = "10000", LOADS = "20", STOPS = "20" } = process.env;
const all = Number(NODES);

function report(name, list, unit) {
  const s = [...list].sort((a, b) => a - b);
  const at = (p) => Number(s[Math.min(s.length - 1, Math.floor(s.length * p))].toFixed(1));
  console.log(JSON.stringify({ name: `Console/${name}`, iterations: s.length, values: { [`p50-${unit}`]: at(0.5), [`p95-${unit}`]: at(0.95), [`max-${unit}`]: at(1) } }));
}

const b = await open();
const { page } = b;
await page.goto(HOSTS);
await drawn(page);
const origin = new URL(page.url()).origin;

const session = await b.context.newCDPSession(page);
await session.send("Performance.enable", { timeDomain: "threadTicks" });

/** Milliseconds of processor time that the page's main thread has used: it does not depend on what else the machine does. */
async function busy() {
  const { metrics } = await session.send("Performance.getMetrics");
  return metrics.find((m) => m.name === "TaskDuration").value * 1000;
}

// From the start of the navigation, with an empty cache, to the last node and edge on the canvas.
async function load(path, least, took, cpu) {
  await session.send("Network.clearBrowserCache");
  const before = await busy();
  await page.goto(origin + path);
  await drawn(page, least);
  took.push(await page.evaluate(() => performance.getEntriesByName("first-complete-frame")[0].startTime));
  // A navigation may begin the count anew.
  const after = await busy();
  cpu.push(after < before ? after : after - before);
}
const grouped = [], groupedCPU = [], whole = [], wholeCPU = [];
for (let i = 0; i < Number(LOADS); i++) {
  await load("/map", 2, grouped, groupedCPU);
  await load("/map?group=none", all, whole, wholeCPU);
}
report("first-complete-frame/grouped", grouped, "ms");
report("first-complete-frame/grouped", groupedCPU, "cpu-ms");
const [nodes, edges] = await drawn(page, all);
const size = `${nodes}-nodes-${edges}-edges`;
report(`first-complete-frame/${size}`, whole, "ms");
report(`first-complete-frame/${size}`, wholeCPU, "cpu-ms");

// Frames while the map is dragged for three seconds.
const frames = await page.evaluate(async () => {
  const r = window.mapRenderer;
  const out = [];
  let last = performance.now();
  const end = last + 3000;
  while (last < end) {
    r.pan(4, 2);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    out.push(now - last);
    last = now;
  }
  return out;
});
report(`pan-frame/${size}`, frames, "ms");
console.log(JSON.stringify({ name: `Console/pan/${size}`, iterations: frames.length, values: { "frames/s": Number((1000 / (frames.reduce((a, x) => a + x, 0) / frames.length)).toFixed(1)) } }));

// From asking a container to stop until the page has its state and has drawn it.
await page.goto(`${origin}/map?group=none&o.state=all`);
await drawn(page, all);
const stops = await page.evaluate(async (n) => {
  const { csrf } = await (await fetch("/api/v1/session")).json();
  const r = window.mapRenderer;
  const p = r.picture;
  const ids = p.id.filter((_, i) => p.kind[i] === "container" && p.state[i] === "running");
  const out = [];
  for (let k = 0; k < n; k++) {
    const id = ids[Math.floor((k * ids.length) / n)];
    const began = performance.now();
    const answer = fetch(`/api/v1/nodes/${encodeURIComponent(id)}/controls/stop`, { method: "POST", headers: { "X-CSRF-Token": csrf, "Content-Type": "application/json" }, body: "{}" });
    let version = 0;
    for (;;) {
      await new Promise(requestAnimationFrame);
      const i = r.picture.find(id);
      if (!version && i >= 0 && r.picture.state[i] === "exited") version = r.picture.version;
      if (version && r.shownVersion >= version) break;
      if (performance.now() - began > 20_000) throw new Error(`${id} was not seen to stop`);
    }
    out.push(performance.now() - began);
    await answer;
  }
  return out;
}, Number(STOPS));
report("stop-on-screen", stops, "ms");
await b.close();
