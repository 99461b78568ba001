// A framework on mesos-framework, configured as its own examples are. It prints one JSON object a line for what happens to it,
// behind "EVENT ", and takes commands from its input: "kill TASK AGENT", "reconcile", "teardown".
"use strict";

const { Scheduler, Mesos } = require("mesos-framework");
const mesos = Mesos.getMesos();
const [masterUrl, port, zkUrl, frameworkName] = process.argv.slice(2);
const say = (event) => process.stdout.write("EVENT " + JSON.stringify(event) + "\n");

const command = (line) => new mesos.CommandInfo(null, null, true, line, null, null);
const scheduler = new Scheduler({
    masterUrl, port, useZk: true, zkUrl, frameworkName,
    // Mesos' heartbeats come every 15 seconds: the default of 10 gives up between two of them.
    masterConnectionTimeout: 60,
    logging: { path: ".", fileName: "framework.log", level: "debug" },
    tasks: {
        sleeper: {
            priority: 1, instances: 2,
            commandInfo: command('test -n "$HOST" && echo $HOST > where && exec sleep 1000'),
            resources: { cpus: 0.1, mem: 32, ports: 1, disk: 0 },
        },
        oneshot: { priority: 2, instances: 1, commandInfo: command("echo done"), resources: { cpus: 0.1, mem: 32, ports: 0, disk: 0 } },
    },
});

scheduler.on("subscribed", (e) => say({ event: "subscribed", framework: e.frameworkId, stream: e.mesosStreamId, master: scheduler.options.masterUrl }));
scheduler.on("update", (e) => say({
    event: "update", task: e.status.task_id.value, agent: (e.status.agent_id || {}).value, state: e.status.state, reason: e.status.reason || "",
}));
for (const sent of ["sent_accept", "sent_acknowledge", "sent_reconcile", "sent_kill", "sent_teardown"]) {
    scheduler.on(sent, () => say({ event: sent }));
}
scheduler.on("heartbeat", () => say({ event: "heartbeat" }));
scheduler.on("error", (e) => say({ event: "error", message: e.message || String(e) }));
scheduler.on("ready", () => scheduler.subscribe());

require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
    const [verb, ...args] = line.split(" ");
    scheduler[verb](...args);
});
