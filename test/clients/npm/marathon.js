// The journey of an app with marathon-node, while marathon-event-bus-client and marathon-node's own event source listen. Ends with 0
// when all was as it should be, prints what was not otherwise.
"use strict";

const assert = require("assert");
const createMarathon = require("marathon-node");
const EventBus = require("marathon-event-bus-client");

const url = new URL(process.argv[2]);
const marathon = createMarathon(url.href, { json: true });
const types = ["deployment_info", "deployment_success", "deployment_step_success", "status_update_event", "instance_changed_event",
    "group_change_success", "app_terminated_event", "event_stream_attached"];
const seen = []; // what the event bus client said, in order
const own = []; // what marathon-node's event source said

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// until polls for a truth, with a deadline.
async function until(what, truth) {
    for (const end = Date.now() + 180000; Date.now() < end; await sleep(50)) {
        const got = await truth();
        if (got) return got;
    }
    throw new Error("not within three minutes: " + what + "; events: " + JSON.stringify(seen.map((e) => [e.name, e.data.taskStatus, e.data.id])));
}

const heard = (name, like) => until(name, () => seen.find((e) => e.name === name && like(e.data)));

// deployed waits for a deployment's end, as the events and as the list of deployments tell it.
async function deployed(answer, what) {
    const id = answer.deploymentId || (answer.deployments && answer.deployments[0].id);
    assert.ok(id, what + " answers without a deployment: " + JSON.stringify(answer));
    await heard("deployment_info", (d) => d.plan.id === id && d.currentStep.actions.length > 0);
    await heard("deployment_success", (d) => d.id === id && d.plan.steps.length > 0);
    await until(what + " is no longer listed", async () => !(await marathon.deployments.getList()).some((d) => d.id === id));
    return id;
}

async function journey() {
    assert.match(String(await marathon.misc.ping({ json: false })), /^pong/);
    const info = await marathon.info.get();
    assert.strictEqual(info.name, "marathon");
    assert.strictEqual((await marathon.leader.get()).leader, url.host);

    const app = { id: "/node/web", cmd: "sleep 1000", cpus: 0.1, mem: 32, instances: 1, labels: { owner: "node" } };
    await deployed(await marathon.groups.create({ id: "/node", apps: [app] }), "the group");
    const group = await marathon.groups.getOne("node");
    assert.deepStrictEqual(group.apps.map((a) => a.id), ["/node/web"]);
    const started = await heard("status_update_event", (d) => d.appId === "/node/web" && d.taskStatus === "TASK_RUNNING");
    assert.ok(started.data.taskId.startsWith("node_web.") && started.data.host && started.data.slaveId && started.data.ports.length === 1, JSON.stringify(started));

    await deployed(await marathon.app.update("node/web", { instances: 3 }), "the scaling");
    let tasks = (await marathon.app.getTasks("node/web")).tasks;
    assert.strictEqual(tasks.length, 3);
    assert.ok(tasks.some((t) => t.id === started.data.taskId), "scaling has replaced a task");

    const before = (await marathon.app.getOne("node/web")).app;
    assert.strictEqual(before.tasksRunning, 3);
    await deployed(await marathon.app.update("node/web", { env: { COLOUR: "blue" } }), "the update");
    const { app: after } = await marathon.app.getOne("node/web");
    assert.strictEqual(after.env.COLOUR, "blue");
    assert.notStrictEqual(after.version, before.version);
    assert.ok((await marathon.app.getVersions("node/web")).versions.includes(before.version));
    const old = await marathon.app.getVersion("node/web", before.version);
    assert.ok(old.id === "/node/web" && old.version === before.version && !(old.env && old.env.COLOUR), JSON.stringify(old));
    const killed = tasks.map((t) => t.id);
    await until("the old tasks' ends", () => killed.every((id) => seen.some((e) => e.name === "status_update_event" && e.data.taskId === id && e.data.taskStatus === "TASK_KILLED")));

    await deployed(await marathon.app.restart("node/web"), "the restart");
    tasks = (await marathon.app.getTasks("node/web")).tasks;
    const gone = await marathon.app.killTask("node/web", tasks[0].id, false);
    assert.strictEqual(gone.task.id, tasks[0].id);
    await heard("status_update_event", (d) => d.taskId === tasks[0].id && d.taskStatus === "TASK_KILLED");
    await until("a new task in its place", async () => {
        const now = (await marathon.app.getTasks("node/web")).tasks.filter((t) => t.state === "TASK_RUNNING").map((t) => t.id);
        return now.length === 3 && !now.includes(tasks[0].id);
    });
    tasks = (await marathon.tasks.getList()).tasks.filter((t) => t.appId === "/node/web");
    await deployed(await marathon.tasks.kill({ ids: [tasks[0].id] }, true), "killing with scale");
    assert.strictEqual((await marathon.app.getOne("node/web")).app.instances, 2);

    // What cannot run waits in the queue, and can be given up.
    const huge = await marathon.app.create({ id: "/node-huge", cmd: "sleep 1000", cpus: 900, mem: 32, instances: 1 });
    await until("the queue", async () => (await marathon.queue.get()).queue.some((q) => q.app && q.app.id === "/node-huge" && q.count === 1 && q.delay.overdue !== undefined));
    await marathon.queue.resetDelay("node-huge");
    await marathon.deployments.destroy(huge.deployments[0].id, false);
    await until("the roll-back", async () => !(await marathon.app.getList()).apps.some((a) => a.id === "/node-huge"));
    await assert.rejects(marathon.app.getOne("node-huge"), (e) => e.statusCode === 404 && e.error.message === "App '/node-huge' does not exist");

    await deployed(await marathon.groups.destroy("node", false), "removing the group");
    await heard("app_terminated_event", (d) => d.appId === "/node/web");
    await until("the own event source's news of it", () => own.some((d) => d.appId === "/node/web" && d.taskStatus === "TASK_KILLED"));
    assert.ok(own.every((d) => d.eventType === "status_update_event"), "events come that were not asked for");
}

const bus = new EventBus({
    marathonHost: url.hostname, marathonPort: url.port, eventTypes: types,
    handlers: Object.fromEntries(types.map((type) => [type, (name, data) => seen.push({ name, data })])),
});
const source = marathon.events.createEventSource({ eventType: "status_update_event" });
source.addEventListener("status_update_event", (e) => own.push(JSON.parse(e.data)));
const opened = [new Promise((done) => bus.on("subscribed", done)), new Promise((done) => { source.onopen = done; })];
bus.subscribe();
Promise.all(opened).then(journey).then(() => process.exit(0), (e) => {
    console.error(e && e.stack || e);
    process.exit(1);
});
