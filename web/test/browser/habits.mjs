// Small things that people rely on without thinking of them. Run by journeys.mjs.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { drawn } from "./browser.mjs";

const { UP, EMPTY, HOSTS, PLUGINS } = process.env;
const details = (page) => page.locator("aside.details");
const focusedText = (page) => page.evaluate(() => { const a = document.activeElement; return `${a?.tagName} ${a?.getAttribute("aria-label") ?? a?.textContent ?? ""}`; });
const elsewhere = (page, to) => page.evaluate((to) => { history.pushState(null, "", to); dispatchEvent(new PopStateEvent("popstate")); }, to);
const pictures = async (page, n) => {
  const rev = await page.evaluate(() => window.mapRenderer.picture.version);
  await page.waitForFunction((want) => window.mapRenderer.picture.version >= want, rev + n);
};

export const habits = {
  /** The focus is never lost: what opened something has it again when that is closed, and what covers the page keeps it. */
  async focus({ page, context }) {
    await page.goto(HOSTS);
    await drawn(page, 200);
    const origin = new URL(page.url()).origin;
    // A choice from a list.
    await page.getByRole("button", { name: /^Colour:/ }).focus();
    await page.keyboard.press("Enter");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await page.waitForURL(/colour=metric/);
    assert.match(await focusedText(page), /^BUTTON Colour: metric/, "after a choice");
    // A list that is left is closed.
    await page.keyboard.press("Enter");
    await page.locator(".popover").waitFor();
    for (let i = 0; i < 4; i++) await page.keyboard.press("Tab");
    await page.locator(".popover").waitFor({ state: "detached" });
    // The palette.
    await page.getByRole("application").focus();
    await page.keyboard.press("Control+k");
    await page.getByRole("dialog").waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    assert.match(await focusedText(page), /Map of containers/, "after the palette");
    // After a click on one of the map's tools the arrow keys still walk on the map.
    await page.getByRole("button", { name: "Zoom in" }).click();
    await page.keyboard.press("n");
    await page.waitForFunction(() => document.querySelector(".map p[role=status]")?.textContent);
    const said = await page.locator(".map p[role=status]").textContent();
    await page.keyboard.press("ArrowRight");
    await page.waitForFunction((was) => document.querySelector(".map p[role=status]")?.textContent !== was, said);
    // What is chosen in the palette stays chosen while what can be done changes below it.
    await page.keyboard.press("Enter");
    await page.getByRole("application").focus();
    await page.keyboard.press("Enter");
    await details(page).getByRole("heading", { level: 2 }).first().waitFor();
    await page.keyboard.press("Control+k");
    await page.keyboard.type(">map");
    const chosen = () => page.locator("[role=option][aria-selected=true]").textContent();
    const order = () => page.locator("[role=option]").allTextContents();
    await page.keyboard.press("End");
    for (let i = 0; i < 3; i++) await page.keyboard.press("ArrowDown");
    const [picked, among] = [await chosen(), await order()];
    assert.equal(among[3], picked, "the fourth entry");
    await pictures(page, 3);
    assert.equal(await chosen(), picked, `what is chosen, of ${JSON.stringify(await order())}`);
    await page.keyboard.press("Escape");
    // Enter means what is found for the words that were typed, also when it comes first.
    await page.keyboard.press("Control+k");
    await page.keyboard.type("kind:container host:sim-0001");
    await page.getByRole("option", { name: /sim-0001/ }).first().waitFor();
    await page.keyboard.press("Control+a");
    await page.keyboard.type("kind:host sim-0002");
    await page.keyboard.press("Enter");
    await details(page).getByRole("heading", { name: "sim-0002" }).waitFor();
    // A dialog whose button is not ready yet.
    let free;
    const answer = new Promise((done) => (free = done));
    await page.route("**/api/v1/controls", async (r) => (await answer, r.continue()));
    await elsewhere(page, "/containers");
    await page.getByRole("grid").locator(".tr").first().click();
    await details(page).getByRole("button", { name: "Actions" }).click();
    await page.locator(".popover [data-item]", { hasText: "Restart" }).press("Enter");
    const dialog = page.getByRole("dialog", { name: /^Restart/ });
    await dialog.getByText("Asking the probes").waitFor();
    const inside = () => page.evaluate(() => !!document.activeElement?.closest("[role=dialog]"));
    assert.ok(await inside(), `the dialog has the focus, and not ${await focusedText(page)}`);
    for (let i = 0; i < 5; i++) {
      await page.keyboard.press("Tab");
      assert.ok(await inside(), `Tab stays in the dialog: ${await focusedText(page)}`);
    }
    await page.keyboard.press("Control+k");
    assert.equal(await page.getByRole("dialog").count(), 1, "no palette over a dialog");
    free();
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });
    assert.match(await focusedText(page), /Actions/, "after the dialog");
    await page.unroute("**/api/v1/controls");
    // A page without TLS has no clipboard.
    await context.addInitScript(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
    await page.goto(EMPTY);
    await page.getByRole("button", { name: "Copy the command" }).click();
    await page.getByText("Copied", { exact: true }).waitFor();
    assert.match(await focusedText(page), /Copy the command/, "after copying");
    await page.goto(origin);
  },

  /** What can be scrolled is scrolled, by wheel and by keys, and not the map below it. */
  async scrolled({ page, context }) {
    await page.goto(HOSTS);
    await drawn(page, 200);
    const origin = new URL(page.url()).origin;
    await page.keyboard.press("o");
    const list = page.getByRole("region", { name: "The map as a list" });
    await list.getByRole("button").nth(20).waitFor();
    const camera = await page.evaluate(() => JSON.stringify(window.mapRenderer.camera));
    const box = await list.boundingBox();
    await page.mouse.move(box.x + 100, box.y + 200);
    await page.mouse.wheel(0, 300);
    await page.waitForFunction(() => document.querySelector(".outline > ul").scrollTop > 0);
    assert.equal(await page.evaluate(() => JSON.stringify(window.mapRenderer.camera)), camera, "the map stays");
    await page.keyboard.press("o");
    // Two fingers that part zoom in on what is between them.
    const cdp = await context.newCDPSession(page);
    await cdp.send("Emulation.setTouchEmulationEnabled", { enabled: true, maxTouchPoints: 2 });
    const map = await page.locator(".map").boundingBox();
    const [x, y] = [Math.round(map.x + map.width / 3), Math.round(map.y + map.height / 3)];
    const fingers = (type, gap) => cdp.send("Input.dispatchTouchEvent", { type, touchPoints: gap ? [{ id: 1, x: x - gap, y }, { id: 2, x: x + gap, y }] : [] });
    const between = () => page.evaluate(([x, y]) => { const r = window.mapRenderer, b = document.querySelector(".map").getBoundingClientRect(); return [r.camera.k, ...r.toWorld(x - b.left, y - b.top)]; }, [x, y]);
    const before = await between();
    await fingers("touchStart", 40);
    for (const gap of [50, 60, 70, 80]) await fingers("touchMove", gap);
    await fingers("touchEnd", 0);
    const after = await between();
    assert.ok(Math.abs(after[0] / before[0] - 2) < 0.1, `twice as far apart, twice as large: ${before} ${after}`);
    assert.ok(Math.hypot(after[1] - before[1], after[2] - before[2]) * after[0] < 8, `what is between them stays: ${before} ${after}`);
    await cdp.send("Emulation.setTouchEmulationEnabled", { enabled: false });
    const id = await page.evaluate(() => { const p = window.mapRenderer.picture; return p.id[p.kind.indexOf("container")]; });
    await page.goto(`${origin}/map?node=${encodeURIComponent(id)}`);
    // The details.
    const part = details(page).getByRole("region", { name: "Part shown" });
    await part.focus();
    await page.keyboard.press("ArrowDown");
    await page.waitForFunction(() => document.querySelector(".details .scroll").scrollTop > 0);
    // A page that is open for long does not keep a note of each picture.
    await pictures(page, 3);
    const marks = await page.evaluate(() => performance.getEntriesByType("mark").length);
    assert.ok(marks <= 3, `${marks} marks after a few pictures`);
  },

  /** What is shown is what is there: nothing that has gone passes for alive, no selection outlives what it was made in. */
  async present({ page }) {
    // A process that ends while somebody looks at it.
    await page.goto(PLUGINS);
    await page.getByRole("navigation").waitFor();
    const child = spawn("sleep", ["3600"], { stdio: "ignore" });
    try {
      let node;
      for (const end = Date.now() + 20_000; !node && Date.now() < end; ) node = await page.evaluate(async (pid) => (await (await fetch(`/api/v1/search?q=kind:process%20pid=${pid}`)).json()).results[0]?.id, child.pid);
      await elsewhere(page, `/hosts?node=${encodeURIComponent(node)}`);
      await details(page).getByRole("heading", { name: "sleep" }).waitFor();
    } finally {
      child.kill();
      await once(child, "exit");
    }
    await details(page).getByText("This node is no longer there").waitFor();
    // The strip of health narrows down what is filtered.
    await page.goto(HOSTS);
    await drawn(page, 200);
    const origin = new URL(page.url()).origin;
    await page.goto(`${origin}/map?group=none&o.pseudo=hide&o.state=all&q=host:sim-0012`);
    await page.waitForFunction(() => window.mapRenderer?.picture.count === 10);
    const strip = page.getByRole("group", { name: "Health" });
    await strip.getByRole("button", { name: / ok$/ }).click();
    await page.waitForURL((u) => u.searchParams.get("q") === "host:sim-0012 health:ok");
    await strip.getByRole("button", { name: / ok$/ }).click();
    await page.waitForURL((u) => u.searchParams.get("q") === "host:sim-0012");
    // A selection ends with its view.
    await elsewhere(page, "/containers?q=host:sim-0012");
    const table = page.getByRole("grid");
    await page.waitForFunction(() => document.querySelector("[role=grid]")?.getAttribute("aria-rowcount") === "11");
    await table.focus();
    await page.keyboard.press("Control+a");
    await page.getByText("10 selected").waitFor();
    await page.getByRole("button", { name: /^View:/ }).click();
    await page.getByRole("button", { name: "Containers by image" }).click();
    await page.waitForURL(/view=containers-by-image/);
    await page.getByText("10 selected").waitFor({ state: "detached" });
    // What is in the dock stays when one goes to the map of another time.
    await page.goto(`${origin}/containers?q=host:sim-0012`);
    await table.locator(".tr").first().click();
    await details(page).getByRole("button", { name: "Logs" }).click();
    await page.locator(".logline").first().waitFor();
    await page.evaluate(() => (window.same = true));
    await elsewhere(page, "/events");
    await page.getByRole("button", { name: /^See the map as it was/ }).first().click();
    await page.waitForURL(/\/map\?.*at=\d+/);
    assert.equal(await page.evaluate(() => window.same && document.querySelectorAll(".dock-tab").length), 1, "the dock stays");
    // Whoever logs in next does not find it.
    await page.getByRole("button", { name: /^Account:/ }).click();
    await page.getByRole("button", { name: "Log out" }).click();
    await page.getByRole("button", { name: "Log in" }).waitFor();
    await page.getByLabel(/^Token, or the link/).fill(HOSTS);
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByRole("navigation").waitFor();
    assert.equal(await page.locator(".dock-tab").count(), 0, "nothing of the session before");
  },

  /** What opens is in the window, whole or to be scrolled, on a small screen and on a phone. */
  async fits({ page }) {
    await page.goto(HOSTS);
    await drawn(page, 200);
    const id = await page.evaluate(() => { const p = window.mapRenderer.picture; return p.id[p.kind.indexOf("container")]; });
    const out = [];
    for (const [width, height] of [[1280, 800], [390, 844], [1280, 500]])
      for (const path of ["/map", `/containers?node=${encodeURIComponent(id)}`]) {
        await page.setViewportSize({ width, height });
        await elsewhere(page, path);
        if (path === "/map") await drawn(page, 200);
        else await details(page).getByRole("button", { name: "Logs" }).click();
        const buttons = page.locator(".main [aria-haspopup], .top [aria-haspopup], .dock-body:not([hidden]) [aria-haspopup]");
        for (let i = 0; i < (await buttons.count()); i++) {
          const name = await buttons.nth(i).getAttribute("aria-label");
          if (await buttons.nth(i).evaluate((el) => !el.contains(document.elementFromPoint(el.getBoundingClientRect().left + 8, el.getBoundingClientRect().top + 8)))) continue; // under the details
          await buttons.nth(i).click();
          await page.locator(".popover").waitFor();
          const r = await page.locator(".popover").evaluate((el) => new Promise((done) => requestAnimationFrame(() => { const { left, right, top, bottom } = el.getBoundingClientRect(); done([left, top, right, bottom]); })));
          if (r[0] < 0 || r[1] < 0 || r[2] > width || r[3] > height) out.push(`${name} at ${width}x${height}: ${r.map(Math.round)}`);
          await page.keyboard.press("Escape");
          await page.locator(".popover").waitFor({ state: "detached" });
        }
      }
    assert.deepEqual(out, [], "lists that are cut off");
    await page.setViewportSize({ width: 390, height: 844 });
    await elsewhere(page, "/map");
    await page.getByRole("button", { name: "Time travel" }).click();
    const slider = await page.getByRole("slider", { name: "Time that is shown" }).boundingBox();
    assert.ok(slider.width > 200, `the slider of time is ${slider.width} pixels wide on a phone`);
  },

  /** A terminal can be left without a mouse, a log is held when it is told to be; pods are deployed under their names. */
  async operator({ page }) {
    await page.goto(UP);
    await drawn(page, 2);
    const origin = new URL(page.url()).origin;
    await page.keyboard.press("Control+k");
    await page.keyboard.type("web kind:container");
    await page.getByRole("option", { name: /web\.shop/ }).first().waitFor();
    await page.keyboard.press("Enter");
    await details(page).getByRole("button", { name: "Shell" }).click();
    await page.waitForFunction(() => document.querySelector(".xterm-rows")?.textContent.match(/[#$]/));
    const typing = () => page.evaluate(() => !!document.activeElement?.closest(".xterm"));
    assert.ok(await typing());
    await page.keyboard.press("Tab");
    assert.ok(await typing(), "Tab is the terminal's");
    await page.keyboard.press("Control+`");
    await page.waitForFunction(() => document.activeElement?.getAttribute("role") === "tab");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement?.closest(".xterm"));
    // What has gone by is found.
    await page.keyboard.type("echo needle-$((6*7)); seq 500\n");
    await page.locator(".xterm-rows").getByText("500").first().waitFor();
    await page.getByLabel("Find in the terminal").fill("needle-42");
    await page.locator(".xterm-rows").getByText("needle-42").first().waitFor();
    await page.getByLabel("Find in the terminal").fill("needle-43");
    await page.getByText("not found", { exact: true }).waitFor();
    await page.keyboard.press("Escape");
    assert.ok(await typing(), "Escape leads back");
    await page.getByRole("button", { name: "Close this tab" }).click();
    // A log on the page of the map is scrolled by keys.
    const sockets = [];
    await page.routeWebSocket(/\/api\/v1\/logs/, (ws) => {
      const server = ws.connectToServer();
      const one = { ws, sent: [] };
      ws.onMessage((m) => (one.sent.push(JSON.parse(m).type), server.send(m)));
      sockets.push(one);
    });
    await page.evaluate(() => localStorage.setItem("dock", "120"));
    await page.reload();
    await details(page).getByRole("button", { name: "Logs" }).click();
    await page.waitForFunction(() => { const el = document.querySelector("[role=log]"); return el && el.scrollHeight > el.clientHeight + 60 && el.scrollTop > 50; });
    await page.getByRole("log").focus();
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("ArrowUp");
    await page.getByRole("button", { name: /new$|To the end/ }).waitFor();
    // Paused, it stays so when the connection was lost.
    const until = async (what, ok) => {
      for (const end = Date.now() + 15_000; !ok(); ) {
        if (Date.now() > end) assert.fail(`waited in vain for ${what}: ${JSON.stringify(sockets.map((s) => s.sent))}`);
        await page.evaluate(() => new Promise(requestAnimationFrame));
      }
    };
    await page.getByRole("button", { name: "Pause; nothing is lost" }).click();
    await until("the pause", () => sockets[0].sent.includes("pause"));
    await sockets[0].ws.close({ code: 1011 });
    await until("the pause after the loss", () => sockets[1]?.sent.includes("pause"));
    await page.getByRole("button", { name: "Close this tab" }).click();
    // A shell that is refused says why.
    await page.routeWebSocket(/\/api\/v1\/exec/, (ws) => ws.close({ code: 1006 }));
    await page.route("**/api/v1/nodes/*", async (r) => (r.request().url().includes(";") || /%3B/.test(r.request().url()) ? r.fulfill({ status: 404, json: { error: { code: "not_found", message: "no such node" } } }) : r.continue()));
    await details(page).getByRole("button", { name: "Shell" }).click();
    await page.getByText("It could not be opened: It is no longer there").waitFor();
    await page.unroute("**/api/v1/nodes/*");
    await page.getByRole("button", { name: "Close this tab" }).click();
    // A pod that can't be placed.
    const pod = { id: "/shop/pod", containers: [{ name: "c", exec: { command: { shell: "sleep 3600" } }, resources: { cpus: 500, mem: 32 } }], scaling: { kind: "fixed", instances: 1 } };
    const { csrf } = await page.evaluate(async () => (await fetch("/api/v1/session")).json());
    const asked = (method, path, body) => page.evaluate(async ([method, path, body, csrf]) => (await fetch(`/api/v1/proxy/marathon${path}`, { method, headers: { "X-CSRF-Token": csrf, "Content-Type": "application/json" }, body })).status, [method, path, body, csrf]);
    assert.equal(await asked("POST", "/v2/pods", JSON.stringify(pod)), 201);
    try {
      await elsewhere(page, "/services/deployments");
      const card = page.getByRole("article", { name: "Deployment of /shop/pod" });
      await card.getByRole("heading", { name: "/shop/pod" }).waitFor();
    } finally {
      await asked("DELETE", "/v2/pods/shop/pod?force=true");
    }
    // An app that is being deployed is locked: one can end that and go on.
    assert.equal(await asked("POST", "/v2/apps", JSON.stringify({ id: "/shop/huge", cmd: "sleep 3600", cpus: 500, mem: 32, instances: 1 })), 201);
    try {
      await elsewhere(page, "/services?app=/shop/huge");
      await details(page).getByRole("button", { name: "Scale" }).click();
      await page.getByRole("spinbutton", { name: /Instances/ }).fill("2");
      await page.keyboard.press("Enter");
      const dialog = page.getByRole("dialog", { name: "It is being deployed" });
      await dialog.getByRole("button", { name: "End it and go on" }).click();
      await details(page).getByText("0 of 2 running").waitFor();
    } finally {
      await asked("DELETE", "/v2/apps/shop/huge?force=true");
    }
    await page.goto(origin);
  },
};
