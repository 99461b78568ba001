// A real Chromium for tests and figures, with software rendering and nothing that goes to the network by itself.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const flags = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

/** Opens a browser with a profile of its own; close() leaves nothing behind. */
export async function open({ width = 1440, height = 900, ...more } = {}) {
  const dir = mkdtempSync(join(process.env.PROFILES ?? tmpdir(), "console-browser-"));
  const context = await chromium.launchPersistentContext(dir, {
    executablePath: "/usr/bin/chromium", headless: true, args: flags, viewport: { width, height }, colorScheme: "dark", reducedMotion: "reduce", ...more,
  });
  const page = context.pages()[0] ?? (await context.newPage());
  page.setDefaultTimeout(120_000);
  const problems = [];
  page.on("pageerror", (e) => problems.push(`${e.message}\n${e.stack ?? ""}`));
  const strangers = [];
  page.on("request", (r) => {
    const u = new URL(r.url());
    if (!["127.0.0.1", "localhost"].includes(u.hostname) && !["data:", "blob:"].includes(u.protocol)) strangers.push(r.url());
  });
  return {
    context, page, problems, strangers,
    async close() {
      await context.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** Waits until the map is drawn, and gives how many nodes and edges it shows. */
export async function drawn(page, least = 1) {
  const handle = await page.waitForFunction((n) => {
    const text = document.querySelector(".map canvas")?.dataset.drawn;
    return text && Number(text.split("/")[0]) >= n ? text : false;
  }, least);
  return (await handle.jsonValue()).split("/").map(Number);
}
