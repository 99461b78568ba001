// What people do with the console, in a real browser. The Go test (test/console) starts what is looked at and gives the links.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { drawn, open } from "./browser.mjs";
import { habits } from "./habits.mjs";

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const { UP, EMPTY, HOSTS, LOST, LOST_PID, PLUGINS, GROWS, PROGRAM, FIRST, FIRST_PID, SECOND } = process.env;
const only = process.argv[2];

/** Rules of WCAG 2.2 AA that the page breaks. */
async function violations(page) {
  await page.evaluate(axeSource);
  return page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"], resultTypes: ["violations"] }).then((r) => r.violations.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160) + " " + (n.any[0]?.message ?? "")).join(" | ")}`)));
}

const broken = new Map();

/** Notes what is broken; each journey ends by saying that nothing was. */
async function accessible(page, where) {
  broken.set(page, [...(broken.get(page) ?? []), ...(await violations(page)).map((v) => `${where}: ${v}`)]);
}

/** Where the nodes are drawn: by how much the middle of all is not that of the map, and what room is left around them. With a number: only when so many are in the middle. */
const placed = (want) => {
  if (!window.mapRenderer?.picture || !document.querySelector(".map")) return false; // a page that has just come
  const r = window.mapRenderer, p = r.picture, map = document.querySelector(".map").getBoundingClientRect();
  let x0 = Infinity, y0 = Infinity, x1 = -Infinity, y1 = -Infinity;
  for (let i = 0; i < p.count; i++) {
    const [x, y] = r.toScreen(p.x[i], p.y[i]);
    x0 = Math.min(x0, x), x1 = Math.max(x1, x), y0 = Math.min(y0, y), y1 = Math.max(y1, y);
  }
  const at = { n: p.count, view: p.view, dx: Math.abs((x0 + x1 - map.width) / 2), dy: Math.abs((y0 + y1 - map.height) / 2), room: Math.min(x0, y0, map.width - x1, map.height - y1), map: [map.width, map.height], camera: { ...r.camera } };
  return want === undefined || (at.n === want && at.dx <= Math.max(6, map.width * 0.02) && at.dy <= Math.max(6, map.height * 0.02) && at.room >= 25 && r.camera.k <= 1.6) ? at : false;
};

/** Waits until so many nodes are drawn in the middle of the map. */
async function centred(page, n, what) {
  try {
    await page.waitForFunction(placed, n);
  } catch {
    assert.fail(`${what}: not ${n} nodes in the middle: ${JSON.stringify(await page.evaluate(placed))}`);
  }
}

const go = async (page, name) => page.getByRole("navigation").getByRole("link", { name, exact: false }).first().click();
const details = (page) => page.locator("aside.details");

const journeys = {
  ...habits,

  /** Somebody who has just run `orchestrator up` clicks the link that it printed. */
  async newcomer({ page }) {
    await page.goto(UP);
    await drawn(page, 2);
    assert.equal(new URL(page.url()).hash, "", "the token is taken out of the address");
    // Finds the app's container, reads its log, opens a shell in it.
    await page.keyboard.press("Control+k");
    await page.keyboard.type("web kind:container");
    await page.getByRole("option", { name: /web\.shop/ }).first().waitFor();
    await page.keyboard.press("Enter");
    await details(page).getByRole("heading", { name: "web.shop" }).waitFor();
    await details(page).getByText("CPU", { exact: true }).first().waitFor();
    await details(page).getByRole("button", { name: "Logs" }).click();
    await page.getByRole("log").getByText("hello from the shop").first().waitFor();
    await page.getByLabel("Only lines with").fill("nothing like this");
    await page.getByRole("log").getByText("No line matches").waitFor();
    await details(page).getByRole("button", { name: "Shell" }).click();
    const rows = page.locator(".xterm-rows");
    await rows.waitFor();
    await page.waitForFunction(() => document.querySelector(".xterm-rows")?.textContent.match(/[#$]/));
    await page.keyboard.type("echo $((40+2))-answer\n");
    await rows.getByText("42-answer").first().waitFor();
    // Files of the container.
    await details(page).getByRole("tab", { name: "Files" }).click();
    await details(page).getByRole("button", { name: /^etc/ }).click();
    await details(page).getByRole("button", { name: /^hostname/ }).first().click();
    await details(page).locator("pre").waitFor();
    // The cluster: a task and its sandbox.
    await go(page, "Tasks");
    await page.getByRole("row", { name: /web\.shop/ }).first().click();
    await page.getByRole("button", { name: "stdout" }).click();
    await page.locator("pre").getByText("hello from the shop").waitFor();
    await go(page, "Nodes");
    await page.getByRole("row", { name: /active/ }).first().waitFor();
    await go(page, "Frameworks");
    await page.getByRole("row", { name: /marathon/ }).click();
    await page.getByRole("region", { name: /Role/ }).first().waitFor();
    // The service: scaled, and why what cannot run waits.
    await go(page, "Apps");
    await page.getByRole("row", { name: /\/shop\/web/ }).click();
    await details(page).getByRole("button", { name: "Scale" }).click();
    await page.getByRole("spinbutton", { name: /Instances/ }).fill("3");
    await page.keyboard.press("Enter");
    await details(page).getByText("3 of 3 running").waitFor();
    await details(page).getByRole("button", { name: "Scale" }).click();
    await page.getByRole("spinbutton", { name: /Instances/ }).fill("500");
    await page.keyboard.press("Enter");
    await details(page).getByText("Why it is waiting").waitFor();
    await go(page, "Deployments");
    const card = page.getByRole("article", { name: /\/shop\/web/ });
    await card.getByText("Why it is waiting").waitFor();
    await card.getByRole("button", { name: "Roll back" }).click();
    await page.getByText("Nothing is being deployed").waitFor();
    await go(page, "Apps");
    await page.getByRole("row", { name: /\/shop\/web.*3 \/ 3/ }).click();
    await details(page).getByRole("tab", { name: "Versions" }).click();
    await details(page).getByText("current").waitFor();
    // The map of the past.
    await go(page, "Map");
    await page.getByRole("button", { name: "Time travel" }).click();
    await page.getByRole("slider", { name: "Time that is shown" }).focus();
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("ArrowLeft");
    await page.locator("header .live.past").waitFor();
    await page.getByRole("button", { name: "Now", exact: true }).click();
    await page.locator("header .live:not(.past)").waitFor();
    // What was done is in the audit log.
    await go(page, "Audit log");
    await page.getByRole("row", { name: /proxy\.marathon/ }).first().waitFor();
  },

  /** The same without a mouse. */
  async keyboard({ page }) {
    await page.goto(HOSTS);
    await drawn(page, 200);
    const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent);
    const map = page.getByRole("application");
    for (let i = 0; i < 60 && !(await map.evaluate((el) => el === document.activeElement)); i++) await page.keyboard.press("Tab");
    assert.match(await focused(), /^Map of containers: 2\d\d nodes/);
    await page.keyboard.press("n");
    const said = page.locator(".page > p.sr-only, .map > p.sr-only");
    await page.waitForFunction(() => /connection/.test(document.querySelector(".map p[role=status]")?.textContent ?? ""));
    const first = await said.first().textContent();
    await page.keyboard.press("ArrowRight");
    await page.waitForFunction((was) => document.querySelector(".map p[role=status]")?.textContent !== was, first);
    await page.keyboard.press("Enter");
    await details(page).getByRole("heading", { level: 2 }).first().waitFor();
    await page.keyboard.press("f");
    await page.getByText(/focus, 2 hops/).waitFor();
    await page.keyboard.press("f");
    await page.getByText(/focus, 2 hops/).waitFor({ state: "detached" });
    await page.keyboard.press("Escape");
    await details(page).waitFor({ state: "detached" });
    // Groups: one opened, and closed again.
    await page.getByRole("button", { name: /^Group:/ }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "by host", exact: true }).focus();
    await page.keyboard.press("Enter");
    await map.focus();
    await page.waitForURL(/group=host/);
    await page.waitForFunction(() => window.mapRenderer.picture.group === "host");
    const groups = await page.evaluate(() => window.mapRenderer.picture.count);
    await page.evaluate(() => window.mapRenderer.picture.kind.indexOf("group")) >= 0 || assert.fail("no groups");
    for (let i = 0; i < 60 && !(await page.evaluate(() => { const r = window.mapRenderer; return r.picture.kind[r.picture.find(r.cursor)] === "group"; })); i++) await page.keyboard.press("n");
    await page.keyboard.press("x");
    await page.getByText("1 open").waitFor();
    await page.waitForFunction((n) => window.mapRenderer.picture.count > n && window.mapRenderer.picture.boxes.length === 1, groups);
    await page.keyboard.press("[");
    await page.keyboard.press("[");
    await page.waitForFunction(() => window.mapRenderer.picture.group === "none");
    // The list that a screen reader walks.
    await page.keyboard.press("o");
    await page.getByRole("region", { name: "The map as a list" }).getByRole("button").nth(1).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("list", { name: /Connections of/ }).waitFor();
    await page.keyboard.press("o");
    // A table: sorted, filtered, selected; one stopped, seen to have stopped.
    await page.keyboard.press("g");
    await page.keyboard.press("c");
    const table = page.getByRole("grid");
    await table.waitFor();
    await page.keyboard.press("/");
    await page.keyboard.type("cpu>");
    await page.getByRole("alert").getByText("column 5").waitFor();
    await page.keyboard.press("Control+a");
    await page.keyboard.type("host:sim-0003");
    await page.waitForFunction(() => document.querySelector("[role=grid]")?.getAttribute("aria-rowcount") === "11");
    await page.keyboard.press("Escape");
    await page.keyboard.press("Escape");
    // By name: the health of containers, and so their order, changes while this goes on.
    await table.getByRole("columnheader", { name: "Name" }).getByRole("button").focus();
    await page.keyboard.press("Enter");
    await table.getByRole("columnheader", { name: "Name" }).and(page.locator("[aria-sort]")).waitFor();
    await table.focus();
    await page.keyboard.press("End");
    await page.keyboard.press("Home");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Space");
    await page.getByText("1 selected").waitFor();
    // The logs of several at once.
    await page.keyboard.press("Shift+ArrowDown");
    await page.getByText("2 selected").waitFor();
    await page.keyboard.press("l");
    await page.waitForFunction(() => document.querySelectorAll("[role=log] .logline .who").length >= 2);
    await page.keyboard.press("`");
    await table.focus();
    await page.keyboard.press("Escape");
    await page.getByText("2 selected").waitFor({ state: "detached" });
    await table.focus();
    await page.keyboard.press("Enter");
    await details(page).getByRole("button", { name: "Actions" }).focus();
    await page.keyboard.press("Enter");
    await page.keyboard.press("ArrowDown");
    const name = await details(page).getByRole("heading", { level: 2 }).first().textContent();
    const item = page.locator(".popover [data-item]", { hasText: "Stop" });
    for (let i = 0; i < 5 && !(await item.evaluate((el) => el === document.activeElement)); i++) await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await page.getByRole("dialog", { name: `Stop ${name}?` }).waitFor();
    const ok = page.getByRole("dialog").getByRole("button", { name: "Stop" });
    await page.waitForFunction(() => document.querySelector("[role=dialog] button[type=submit]:not(:disabled)"));
    await ok.focus();
    await page.keyboard.press("Enter");
    await details(page).getByText("exited").first().waitFor();
    // Help, theme and place by commands.
    await page.keyboard.press("?");
    await page.getByRole("dialog", { name: "Keyboard" }).waitFor();
    await page.keyboard.press("Escape");
    await page.keyboard.press("Control+k");
    await page.keyboard.type(">theme: light");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.documentElement.dataset.theme === "light");
    // The browser goes back when it comes to it; where one goes next would be taken back as well.
    const before = page.url();
    await page.keyboard.press("[");
    await page.waitForFunction((url) => location.href !== url, before);
    await page.keyboard.press("g");
    await page.keyboard.press("e");
    await page.getByRole("region", { name: "Events" }).getByText("exited").first().waitFor();
  },

  /** Every page in the dark theme, the main ones in all, without a rule of accessibility broken. */
  async accessibility({ page }) {
    await page.goto(UP);
    await drawn(page, 2);
    const origin = new URL(page.url()).origin;
    const pages = {
      "/map": ".map canvas[data-drawn]", "/hosts": ".tr", "/containers": ".tr", "/processes": ".tr", "/resources": ".hostrow", "/events": ".timeline .linkrow", "/cluster": ".card", "/cluster/nodes": ".tr",
      "/cluster/tasks": ".tr", "/cluster/frameworks": ".tr", "/services?app=/shop/web": ".tr", "/services/deployments": ".empty, .card", "/system/probes": ".tr", "/system/plugins": ".empty, .tr", "/system/access": ".card", "/system/audit": ".tr",
    };
    const main = ["/map", "/containers", "/resources", "/cluster", "/services?app=/shop/web"];
    for (const theme of ["dark", "light", "contrast"]) {
      await page.evaluate((t) => localStorage.setItem("theme", JSON.stringify(t)), theme);
      for (const [path, ready] of Object.entries(pages)) {
        if (theme !== "dark" && !main.includes(path)) continue;
        await page.goto(origin + path);
        await page.locator(ready).first().waitFor();
        if (path === "/containers") {
          await page.locator(".tr", { hasText: "running" }).first().click(); // one that has ended has no figures
          await details(page).locator(".spark").first().waitFor();
        }
        await accessible(page, `${path}, ${theme}`);
      }
      await page.keyboard.press("Control+k");
      await page.keyboard.type("web");
      await page.getByRole("option").first().waitFor();
      await accessible(page, `palette, ${theme}`);
      await page.keyboard.press("Escape");
      await page.keyboard.press("?");
      await page.getByRole("dialog").waitFor();
      await accessible(page, `help, ${theme}`);
      await page.keyboard.press("Escape");
    }
  },

  /** Nothing there; somebody who may only look; nobody logged in. */
  async states({ page, context }) {
    await page.goto(EMPTY);
    await page.getByText("No host reports yet").waitFor();
    await page.getByText(/orchestrator probe --monitors/).waitFor();
    await accessible(page, "empty");
    // A viewer's token, made as an administrator does it.
    await page.goto(HOSTS);
    await drawn(page, 200);
    await go(page, "Access");
    await page.getByRole("button", { name: "Token", exact: true }).click();
    await page.getByLabel(/^Name/).fill("looker");
    await page.getByRole("combobox", { name: /^For/ }).selectOption("viewer");
    await page.getByRole("button", { name: "Make it" }).click();
    const secret = await page.getByRole("dialog", { name: "The token's secret" }).locator("code").textContent();
    await context.clearCookies();
    await page.reload();
    await page.getByRole("button", { name: "Log in" }).waitFor();
    await accessible(page, "login");
    await page.getByLabel(/^Token, or the link/).fill("wrong");
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByRole("alert").waitFor();
    await page.getByLabel(/^Token, or the link/).fill(secret);
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByRole("navigation").waitFor();
    assert.equal(await page.getByRole("link", { name: "Access" }).count(), 0, "viewers see no page of administrators");
    await go(page, "Containers");
    await page.locator(".tr").first().click();
    await details(page).getByRole("button", { name: "Actions" }).click();
    assert.ok(await page.locator(".popover [data-item]", { hasText: "Stop" }).isDisabled(), "viewers may not stop");
    // Saved views and exports.
    await page.keyboard.press("Escape");
    await page.goto(new URL(page.url()).origin + "/map?q=host:sim-0001&colour=metric");
    await drawn(page, 5);
    await page.getByRole("button", { name: "Saved views" }).click();
    await page.getByRole("button", { name: "Save this view" }).click();
    await page.getByLabel("Name").fill("First host");
    await page.keyboard.press("Enter");
    await page.goto(new URL(page.url()).origin + "/map");
    await page.getByRole("button", { name: "Saved views" }).click();
    await page.getByRole("button", { name: "First host", exact: true }).click();
    await page.waitForURL(/q=host%3Asim-0001/);
    for (const [button, file] of [["Save as CSV", /\.csv$/], ["Save as PNG", /\.png$/]]) {
      const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: button }).click()]);
      assert.match(download.suggestedFilename(), file);
    }
  },

  /** Many at once: drawn around, focused on, saved as files, and stopped together. */
  async many({ page }) {
    await page.goto(HOSTS);
    await drawn(page, 200);
    const origin = new URL(page.url()).origin;
    // Only the neighbours of a node; more hops show more.
    await page.goto(origin + "/map?group=none");
    await drawn(page, 200);
    const id = await page.evaluate(() => { const p = window.mapRenderer.picture; return p.id[p.kind.indexOf("container")]; });
    await page.goto(`${origin}/map?group=none&focus=${encodeURIComponent(id)}&hops=1`);
    await page.getByText(/focus, 1 hop/).waitFor();
    const shown = async () => (await drawn(page, 2))[0];
    // What is saved is what is shown.
    const saved = async (button) => {
      const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: button }).click()]);
      return readFileSync(await download.path());
    };
    let one, lines;
    for (let tries = 0; tries < 20; tries++) { // the picture may change between the two
      one = await shown();
      lines = (await saved("Save as CSV")).toString().trim().split(/\r?\n/);
      if (lines.length - 1 === one) break;
    }
    assert.ok(one < 100, `${one} nodes within one hop`);
    assert.match(lines[0], /^id,label,/);
    assert.equal(lines.length - 1, one, "a line for each node that is shown");
    assert.ok(lines.some((l) => l.includes(id)), "the node itself among them");
    const png = await saved("Save as PNG");
    assert.equal(png.subarray(1, 4).toString(), "PNG");
    const box = await page.locator(".map canvas").evaluate((c) => [c.width, c.height]);
    assert.deepEqual([png.readUInt32BE(16), png.readUInt32BE(20)], box, "the picture in its size");
    assert.ok(png.length > 5000, "the picture is not empty");
    await page.getByRole("button", { name: "One hop more" }).click();
    await page.getByText(/focus, 2 hops/).waitFor();
    await page.waitForFunction((n) => Number(document.querySelector(".map canvas").dataset.drawn.split("/")[0]) > n, one);
    // A lasso around all of one host, and what can be done with what is in it.
    await page.goto(origin + "/map?group=none&o.pseudo=hide&q=host:sim-0005");
    await page.waitForFunction(() => document.querySelector(".map canvas")?.dataset.drawn?.startsWith("10/"));
    await page.getByRole("button", { name: "Fit everything in" }).click();
    const at = await page.locator(".map").boundingBox();
    const corners = [[0.01, 0.02], [0.99, 0.02], [0.99, 0.98], [0.01, 0.98], [0.01, 0.04]].map(([x, y]) => [at.x + at.width * x, at.y + at.height * y]);
    await page.keyboard.down("Shift");
    await page.mouse.move(...corners[0]);
    await page.mouse.down();
    for (const c of corners.slice(1)) await page.mouse.move(...c, { steps: 8 });
    await page.mouse.up();
    await page.keyboard.up("Shift");
    const bulk = page.getByRole("group", { name: "With the selected" });
    await bulk.getByText("10 selected").waitFor();
    await bulk.getByRole("button", { name: "Stop" }).click();
    const dialog = page.getByRole("dialog", { name: "Stop 10 nodes?" });
    await dialog.getByText("would stop").first().waitFor();
    assert.equal(await dialog.getByText("would stop").count(), 10, "what would happen to each");
    assert.ok(await dialog.getByRole("button", { name: "Stop" }).isDisabled(), "many are not stopped by one click");
    await accessible(page, "many at once");
    await dialog.getByRole("textbox").fill("stop");
    await page.keyboard.press("Enter");
    await dialog.waitFor({ state: "detached" });
    await page.waitForFunction(async () => (await (await fetch("/api/v1/search?q=" + encodeURIComponent("host:sim-0005 kind:container state:exited"))).json()).total === 10);
  },

  /** The first picture is whole and in the middle, however few or many nodes there are, and stays where its reader moves it. */
  async centred({ page }) {
    // Somebody opens the page before any host reports; hosts come, one and then more.
    await page.goto(GROWS);
    await page.getByText("No host reports yet").waitFor();
    const origin = new URL(page.url()).origin;
    const probes = [];
    const join = (name, hosts) => probes.push(spawn(PROGRAM, ["probe", `--monitors=${new URL(origin).host}`, "--token=between", `--simulate=${hosts}`, `--hostname=${name}`], { stdio: "ignore" }));
    try {
      await page.goto(origin + "/map?view=hosts&group=none&o.pseudo=hide");
      await page.getByText("No host reports yet").waitFor();
      join("sim", 1);
      await centred(page, 1, "the first host comes");
      probes.pop().kill();
      join("sim", 5);
      await centred(page, 5, "four more come");
    } finally {
      for (const p of probes) (p.kill(), await once(p, "exit"));
    }
    await page.goto(HOSTS);
    await drawn(page, 200);
    const hosts = (n) => Array.from({ length: n }, (_, i) => `host:sim-${String(i + 1).padStart(4, "0")}`).join(" or ");
    // With those that other journeys have stopped.
    const at = (view, n) => `${new URL(HOSTS).origin}/map?group=none&o.pseudo=hide&o.state=all&view=${view}&q=${encodeURIComponent(hosts(n))}`;
    for (const [view, some, n] of [["hosts", 1, 1], ["hosts", 2, 2], ["hosts", 5, 5], ["containers", 5, 50]]) {
      const what = `${n} ${view}`;
      await page.setViewportSize({ width: 1440, height: 900 });
      await page.goto(at(view, some));
      await centred(page, n, what);
      await page.setViewportSize({ width: 900, height: 620 });
      await centred(page, n, `${what}, the window made smaller`);
      await page.setViewportSize({ width: 390, height: 844 });
      await centred(page, n, `${what}, on a phone`);
      await page.setViewportSize({ width: 1280, height: 800 });
      await centred(page, n, `${what}, the window made larger`);
      const [x, y] = await page.evaluate(() => { const r = window.mapRenderer, b = document.querySelector(".map").getBoundingClientRect(), [x, y] = r.toScreen(r.picture.x[0], r.picture.y[0]); return [x + b.left, y + b.top]; });
      await page.mouse.click(x, y);
      await details(page).getByRole("heading", { level: 2 }).first().waitFor();
      await page.waitForFunction(() => document.querySelector(".map").getBoundingClientRect().width < 900);
      await centred(page, n, `${what}, the details open`);
      await page.keyboard.press("Escape");
      await details(page).waitFor({ state: "detached" });
      await centred(page, n, `${what}, the details closed`);
    }
    // Another view of the same page is whole and in the middle, too.
    await page.goto(at("containers", 5));
    await centred(page, 50, "containers");
    await page.getByRole("button", { name: "Zoom in" }).click();
    await page.evaluate((to) => { history.pushState(null, "", to); dispatchEvent(new PopStateEvent("popstate")); }, at("hosts", 5));
    await centred(page, 5, "hosts after containers");
    // What the reader does with it stays: over a change of the picture, of the window, and over the details.
    const map = await page.locator(".map").boundingBox();
    await page.mouse.move(map.x + 30, map.y + 30);
    await page.mouse.down();
    await page.mouse.move(map.x + 230, map.y + 90, { steps: 5 });
    await page.mouse.up();
    const moved = (await page.evaluate(placed)).camera;
    const held = async (what) => assert.deepEqual((await page.evaluate(placed)).camera, moved, what);
    await page.setViewportSize({ width: 1100, height: 700 });
    await page.waitForFunction(() => document.querySelector(".map canvas").getBoundingClientRect().width < 1000);
    await held("the window is made smaller");
    const rev = await page.evaluate(() => window.mapRenderer.picture.rev);
    await page.waitForFunction((was) => window.mapRenderer.picture.rev > was + 1, rev);
    await held("the picture changes");
    await page.getByRole("button", { name: "Fit everything in" }).click();
    await centred(page, 5, "fitted again");
    // A node at the edge of what is shown does not slip out under its own details.
    await page.setViewportSize({ width: 1280, height: 800 });
    await centred(page, 5, "the window made larger");
    const [px, py, width] = await page.evaluate(() => { const r = window.mapRenderer; const [x, y] = r.toScreen(r.picture.x[0], r.picture.y[0]); r.pan(r.w - 70 - x, 200 - y); const b = document.querySelector(".map").getBoundingClientRect(); return [b.left + r.w - 70, b.top + 200, b.width]; });
    await page.mouse.click(px, py);
    await page.waitForFunction((was) => document.querySelector(".map").getBoundingClientRect().width < was, width);
    await page.waitForFunction(() => { const r = window.mapRenderer; const [x, y] = r.toScreen(r.picture.x[0], r.picture.y[0]); return x > 0 && x < r.w && y > 0 && y < r.h && Math.abs(document.querySelector(".map").getBoundingClientRect().width - r.w) < 1; });
  },

  /** On a phone nothing covers what is beside it elsewhere, nothing is cut off, and what is opened has the whole window. */
  async phone({ page }) {
    await page.setViewportSize({ width: 390, height: 844 });
    await page.goto(HOSTS);
    await drawn(page, 200);
    const origin = new URL(page.url()).origin;
    const rect = (selector) => page.locator(selector).first().evaluate((el) => { const { left, right, top, bottom } = el.getBoundingClientRect(); return { left, right, top, bottom }; });
    const upright = async (where) => assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${where} is wider than the window`);
    const strip = await rect(".health-strip"), tools = await rect(".float.tools");
    assert.ok(strip.right <= tools.left || strip.bottom <= tools.top, `the strip of health lies over the tools: ${JSON.stringify([strip, tools])}`);
    for (const [path, ready] of Object.entries({ "/map": ".health-strip", "/hosts": ".tr", "/resources": ".hostrow", "/events": ".timeline", "/system/probes": ".tr", "/system/access": ".card", "/system/audit": ".tr" })) {
      await page.goto(origin + path);
      await page.locator(ready).first().waitFor();
      await upright(path);
    }
    await page.goto(origin + "/resources");
    await page.locator(".hostrow .lane").nth(1).waitFor();
    const row = await rect(".hostrow"), lanes = await page.locator(".hostrow").first().locator(".lane").evaluateAll((all) => all.map((el) => { const b = el.getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom]; }));
    for (const [left, right, top, bottom] of lanes) assert.ok(right - left > 60 && right <= row.right && top >= row.top && bottom <= row.bottom, `a lane out of its row: ${JSON.stringify([row, lanes])}`);
    await page.goto(origin + "/containers");
    await page.locator(".tr").first().click();
    await details(page).getByRole("heading", { level: 2 }).first().waitFor();
    const panel = await rect("aside.details");
    assert.ok(panel.right - panel.left > 320 && panel.right <= 390, `the details have ${panel.right - panel.left} pixels`);
    await accessible(page, "details on a phone");
    await details(page).getByRole("button", { name: /^Close/ }).click();
    await details(page).waitFor({ state: "detached" });
    await page.locator(".tr").nth(1).click({ trial: true });
  },

  /** The monitor is killed: the page goes on with its replica, with the same view and the same session. Another site gets nothing. */
  async failover({ page, context }) {
    await page.goto(FIRST);
    await page.getByRole("button", { name: "Name and password" }).click();
    await page.getByLabel("Name", { exact: true }).fill("vera");
    await page.getByLabel("Password", { exact: true }).fill("correct horse");
    const prepared = page.waitForResponse((r) => r.url().endsWith("/api/v1/handover") && r.status() === 200);
    await page.getByRole("button", { name: "Log in" }).click();
    await drawn(page, 30);
    await prepared;
    // A view with a filter, a grouping, a look and an open node, chosen as people choose.
    await page.keyboard.press("Control+k");
    await page.keyboard.type(">theme: light");
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Group:" }).click();
    await page.getByRole("button", { name: "by host", exact: true }).click();
    await page.waitForURL(/group=host/);
    await page.keyboard.press("Control+k");
    await page.keyboard.type("kind:container host:sim-0002");
    await page.getByRole("option").first().waitFor();
    await page.keyboard.press("Enter");
    const name = await details(page).getByRole("heading", { level: 2 }).first().textContent();
    await details(page).getByRole("button", { name: "Logs" }).click();
    await page.getByRole("log").waitFor();
    const { pathname, search } = new URL(page.url());
    assert.match(search, /group=host/);
    process.kill(Number(FIRST_PID), "SIGKILL");
    // What is in the dock would be lost: the page waits to be told.
    await page.getByRole("alert").getByText("Another monitor answers. Logs and terminals would be closed.").waitFor();
    await page.getByRole("alert").getByText(/What you see is ([7-9]|\d\d) s old/).waitFor();
    assert.equal(new URL(page.url()).origin, new URL(FIRST).origin, "with logs open the page does not go by itself");
    await accessible(page, "another monitor answers");
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/lost-others.png` });
    const began = Date.now();
    await page.getByRole("button", { name: "Close this tab" }).click();
    await page.waitForURL((u) => u.origin === SECOND);
    await page.locator("header .live.open").waitFor();
    console.log(`     live on the other monitor ${Date.now() - began} ms after nothing held it back`);
    await details(page).getByRole("heading", { name: name }).waitFor();
    await page.waitForFunction(() => window.mapRenderer?.picture.group === "host");
    const there = new URL(page.url());
    assert.deepEqual([there.pathname, there.search, there.hash], [pathname, search, ""], "the same view, and no secret in the address");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "light");
    const who = await page.evaluate(async () => (await fetch("/api/v1/session")).json());
    assert.deepEqual([who.user, who.role], ["vera", "viewer"]);
    const cookie = (await context.cookies(SECOND)).find((c) => c.name === "orchestrator_session" && c.domain === "localhost");
    assert.ok(cookie?.httpOnly && cookie.sameSite === "Strict", "the session's cookie is of the second monitor's host, and as guarded as ever");
    assert.equal(await page.evaluate(() => document.documentElement.innerHTML.includes("handover")), false);
    // A page of another origin, and of the same site, so that the browser even sends the cookie along.
    const evil = createServer((_, res) => res.end("<!doctype html><title>evil</title>")).listen(0, "127.0.0.1");
    await once(evil, "listening");
    try {
      const other = await context.newPage();
      await other.goto(`http://localhost:${evil.address().port}/`);
      const got = await other.evaluate(async (second) => {
        const tried = {};
        const asked = async (what, path, init) => {
          try {
            const r = await fetch(second + path, { credentials: "include", ...init });
            tried[what] = r.type === "opaque" ? "opaque" : `${r.status}: ${await r.text()}`;
          } catch {
            tried[what] = "nothing";
          }
        };
        await asked("whether it is there", "/healthz", { mode: "no-cors" });
        await asked("status", "/api/v1/status");
        await asked("session", "/api/v1/session");
        await asked("session unread", "/api/v1/session", { mode: "no-cors" });
        await asked("handover", "/api/v1/handover", { method: "POST" });
        await asked("handover unread", "/api/v1/handover", { method: "POST", mode: "no-cors" });
        await asked("login", "/api/v1/login", { method: "POST", body: "{}", headers: { "Content-Type": "application/json" } });
        for (const path of ["/api/v1/live", "/api/v1/logs?ids=x", "/api/v1/exec?id=x"])
          tried[path] = await new Promise((done) => {
            const s = new WebSocket(second.replace("http", "ws") + path);
            s.onopen = () => done("open");
            s.onmessage = () => done("a message");
            s.onclose = () => done("nothing");
          });
        const frame = document.createElement("iframe");
        frame.src = second + "/map";
        document.body.append(frame);
        await new Promise((done) => (frame.onload = done));
        try {
          tried.frame = frame.contentDocument ? "nothing" : "closed to us";
        } catch {
          tried.frame = "closed to us";
        }
        return tried;
      }, SECOND);
      for (const [what, r] of Object.entries(got)) assert.ok(["nothing", "opaque", "closed to us"].includes(r), `${what} from another origin: ${r}`);
      assert.equal(got["whether it is there"], "opaque", "anybody may ask whether it is there: the rest was asked in earnest");
      await other.close();
    } finally {
      evil.close();
    }
  },

  /** What plugins bring: a table of them with what is wrong, their tables and metrics on nodes, their controls. */
  async plugins({ page }) {
    await page.goto(PLUGINS);
    await page.getByRole("navigation").waitFor();
    await go(page, "Plugins");
    const table = page.getByRole("grid", { name: "Plugins" });
    await table.getByRole("row", { name: /TCP counters.*ok/ }).waitFor();
    await table.getByRole("row", { name: /broken.*failed.*is not a socket/ }).waitFor();
    await accessible(page, "plugins");
    await table.getByRole("row", { name: /TCP counters/ }).click();
    const panel = page.getByRole("complementary", { name: "Plugin TCP counters" });
    await panel.getByText("reports", { exact: true }).waitFor();
    await panel.getByRole("button", { name: /Open TCP connections/ }).waitFor();
    await accessible(page, "a plugin");
    // On the host: its metric and its table.
    await panel.getByRole("button", { name: "Its host" }).click();
    await details(page).getByText("Open TCP connections").first().waitFor();
    await details(page).getByRole("table").first().waitFor();
    // A control of the other on a process, done and undone.
    await page.keyboard.press("Control+k");
    await page.keyboard.type(`kind:process pid=${process.env.SLEEPER}`);
    await page.getByRole("option").first().waitFor();
    await page.keyboard.press("Enter");
    for (const [act, other] of [["Lower priority", "Restore priority"], ["Restore priority", "Lower priority"]]) {
      await details(page).getByRole("button", { name: "Actions" }).click();
      await page.locator(".popover [data-item]", { hasText: act }).click();
      await page.getByRole("dialog").getByRole("button", { name: act }).click();
      for (;;) {
        await details(page).getByRole("button", { name: "Actions" }).click();
        const there = await page.locator(".popover [data-item]", { hasText: other }).count();
        await page.keyboard.press("Escape");
        if (there) break;
      }
    }
  },

  /** The monitor hangs and comes back; then it is killed: the picture stays and says how old it is. */
  async lost({ page }) {
    await page.goto(LOST);
    const [nodes] = await drawn(page, 30);
    process.kill(Number(LOST_PID), "SIGSTOP");
    await page.getByRole("alert").getByText("Connection lost").waitFor();
    process.kill(Number(LOST_PID), "SIGCONT");
    await page.getByRole("button", { name: "Try now" }).click({ timeout: 2000 }).catch(() => {}); // unless it has come back by itself
    await page.getByRole("alert").waitFor({ state: "detached" });
    await page.locator("header .live.open").waitFor();
    assert.equal((await drawn(page, 30))[0], nodes);
    process.kill(Number(LOST_PID), "SIGKILL");
    await page.getByRole("alert").getByText("Connection lost").waitFor();
    await page.getByText(/What you see is .* old/).waitFor();
    const held = await page.locator(".map canvas").evaluate((c) => c.dataset.drawn);
    assert.equal(Number(held.split("/")[0]), nodes);
    assert.ok(await page.evaluate(() => { const c = document.querySelector(".map canvas"); const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; const seen = new Set(); for (let i = 0; i < d.length; i += 4000) seen.add((d[i] << 16) | (d[i + 1] << 8) | d[i + 2]); return seen.size > 2; }), "the picture is still on the canvas");
    await accessible(page, "lost connection");
  },
};

let failed = 0;

async function make(name) {
  if (only && only !== name) return;
  const began = Date.now();
  const b = await open();
  try {
    await journeys[name](b);
    assert.deepEqual(broken.get(b.page) ?? [], [], "rules of accessibility");
    assert.deepEqual(b.problems, [], "errors in the page");
    assert.deepEqual(b.strangers, [], "requests to other places");
    console.log(`ok   ${name} ${((Date.now() - began) / 1000).toFixed(1)} s`);
  } catch (e) {
    failed++;
    console.log(`FAIL ${name} at ${b.page.url()}\n${e.stack ?? e}\n${b.problems.join("\n")}`);
    if (process.env.SHOTS) await b.page.screenshot({ path: `${process.env.SHOTS}/fail-${name}.png` });
  }
  await b.close();
}

// Two at a time. Those in one lane look at the same monitor.
const lanes = [["newcomer", "operator", "accessibility", "plugins", "failover"], ["keyboard", "focus", "scrolled", "present", "fits", "states", "many", "centred", "phone", "lost"]];
await Promise.all(lanes.map(async (lane) => {
  for (const name of lane) await make(name);
}));
if (failed) process.exit(1);
console.log("journeys done");
