// Pages of the cluster, from the master's own API through the monitor.

import { useMemo, useState } from "react";
import { api, get, may, request, session, type ApiError } from "../api/client";
import { useLoad } from "../estate";
import { ago, bytes, count, duration, plural, stamp } from "../format";
import { match, record } from "../query/match";
import { check, parse } from "../query/parse";
import { navigate, setParams, useRoute } from "../router";
import { Icon } from "../ui/icons";
import { Filter } from "../ui/filter";
import { Bar, Button, Dialog, Empty, Health, Loading, Problem, toast } from "../ui/parts";
import { Table, type Column } from "../ui/table";
import { Files, type Entry, type Source } from "./files";

const master = `${api}/proxy/master`;

type Resources = { cpus: number; mem: number; disk: number; gpus: number; ports?: string };

interface Slave {
  id: string;
  hostname: string;
  port: number;
  attributes: Record<string, string | number>;
  registered_time: number;
  resources: Resources;
  used_resources: Resources;
  offered_resources: Resources;
  active: boolean;
  deactivated: boolean;
  version: string;
  drain_info?: { state: string };
  TASK_RUNNING: number;
  TASK_STAGING: number;
  TASK_FAILED: number;
  framework_ids: string[];
}

interface Framework {
  id: string;
  name: string;
  used_resources: Resources;
  offered_resources: Resources;
  hostname: string;
  active: boolean;
  connected: boolean;
  recovered: boolean;
  TASK_RUNNING: number;
  TASK_STAGING: number;
  TASK_FINISHED: number;
  TASK_FAILED: number;
  TASK_KILLED: number;
  slave_ids: string[];
}

interface Summary {
  hostname: string;
  cluster?: string;
  slaves: Slave[];
  frameworks: Framework[];
}

interface Task {
  id: string;
  name: string;
  framework_id: string;
  executor_id: string;
  slave_id: string;
  state: string;
  resources: Resources;
  role: string;
  user?: string;
  statuses: { state: string; timestamp: number; healthy?: boolean; message?: string; container_status?: { container_id?: { value: string } } }[];
}

const summary = (signal: AbortSignal) => get<Summary>(`${master}/state-summary`, signal);

export default function Cluster({ part }: { part: string }) {
  switch (part) {
    case "nodes":
      return <Nodes />;
    case "tasks":
      return <Tasks />;
    case "frameworks":
      return <Frameworks />;
    default:
      return <Overview />;
  }
}

const zero: Resources = { cpus: 0, mem: 0, disk: 0, gpus: 0 };
function add(a: Resources, b: Resources): Resources {
  return { cpus: a.cpus + b.cpus, mem: a.mem + b.mem, disk: a.disk + b.disk, gpus: a.gpus + b.gpus };
}
const mb = (v: number) => bytes(v * 1024 * 1024);

function useQ<T>(list: T[], doc: (x: T) => Record<string, string | number | undefined | null>): T[] {
  const { params } = useRoute();
  return useMemo(() => {
    if (!params.q || check(params.q)) return list;
    const q = parse(params.q);
    return list.filter((x) => match(q, record(doc(x))));
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [list, params.q]);
}

function Usage({ label, used, total, format }: { label: string; used: number; total: number; format: (v: number) => string }) {
  return (
    <div className="card">
      <h2 className="cap">{label}</h2>
      <div className="big">{total > 0 ? Math.round((used / total) * 100) : 0}<small> % of {format(total)}</small></div>
      <Bar value={used} max={total} label={`${label} in use`} />
      <span className="faint num">{format(used)} in use, {format(Math.max(0, total - used))} free</span>
    </div>
  );
}

function Overview() {
  const { data, error, again } = useLoad(summary, 3000, []);
  const more = useLoad(async (signal) => {
    const [metrics, maintenance] = await Promise.all([
      get<Record<string, number>>(`${master}/metrics/snapshot`, signal),
      get<{ draining_machines?: unknown[] }>(`${master}/maintenance/status`, signal).catch(() => null),
    ]);
    return { metrics, maintenance };
  }, 5000, []);
  const roles = useLoad((s) => get<{ roles: { name: string; weight: number; resources: Resources; allocated?: Resources; quota?: { limit?: Partial<Resources>; guarantee?: Partial<Resources> }; frameworks: string[] }[] }>(`${master}/roles`, s), 5000, []);
  if (error && !data) return <Problem error={error} retry={again} />;
  if (!data) return <Loading what="Asking the master" />;
  const total = data.slaves.reduce((a, s) => add(a, s.resources), zero);
  const used = data.slaves.reduce((a, s) => add(a, s.used_resources), zero);
  // Until the master has told them, and when it does not, they are not known: none is not the same.
  const m = more.data?.metrics;
  const told = (name: string) => (m ? count(m[name] ?? 0) : "–");
  return (
    <div className="content" tabIndex={0} role="region" aria-label="Cluster">
      {(error ?? more.error ?? roles.error) && <Problem error={(error ?? more.error ?? roles.error)!} retry={() => (again(), more.again(), roles.again())} />}
      <div className="stats">
        <Usage label="CPU" used={used.cpus} total={total.cpus} format={(v) => `${count(v)} cores`} />
        <Usage label="Memory" used={used.mem} total={total.mem} format={mb} />
        <Usage label="Disk" used={used.disk} total={total.disk} format={mb} />
        {total.gpus > 0 && <Usage label="GPU" used={used.gpus} total={total.gpus} format={count} />}
        <div className="card">
          <h2 className="cap">Nodes</h2>
          <div className="big">{data.slaves.length}<small> registered</small></div>
          <Bar value={data.slaves.filter((s) => s.active).length} max={data.slaves.length} label="Nodes that are active" tone="health" />
          <span className="faint">{!m ? "–" : m["master/slaves_unreachable"] ? <span className="h3">{plural(m["master/slaves_unreachable"], "node")} unreachable</span> : more.data?.maintenance?.draining_machines?.length ? `${more.data.maintenance.draining_machines.length} in maintenance` : "all reachable"}</span>
        </div>
      </div>
      <div className="split">
        <div className="card">
          <h2 className="cap">Tasks</h2>
          <dl className="facts">
            {(["running", "staging", "starting", "killing", "finished", "failed", "killed", "lost", "error", "unreachable"] as const).map((k) => (
              <div key={k} style={{ display: "contents" }}>
                <dt>{k}</dt>
                <dd className="num"><a className="tap" href={`/cluster/tasks?q=state:${k}`} onClick={(e) => (e.preventDefault(), navigate("/cluster/tasks", { q: `state:${k}` }))}>{told(`master/tasks_${k}`)}</a></dd>
              </div>
            ))}
          </dl>
        </div>
        <div className="card">
          <h2 className="cap">Master</h2>
          <dl className="facts">
            <dt>Leader</dt><dd className="mono">{data.hostname}</dd>
            {data.cluster && <><dt>Cluster</dt><dd>{data.cluster}</dd></>}
            <dt>Leads for</dt><dd>{m?.["master/uptime_secs"] ? duration(m["master/uptime_secs"] * 1000) : "–"}</dd>
            <dt>Frameworks</dt><dd>{data.frameworks.length}, {data.frameworks.filter((f) => f.active).length} active</dd>
            <dt>Offers out</dt><dd className="num">{told("master/outstanding_offers")}</dd>
            <dt>Allocations</dt><dd className="num">{told("allocator/mesos/allocation_runs")}</dd>
            <dt>Registry writes waiting</dt><dd className="num">{told("registrar/queued_operations")}</dd>
          </dl>
        </div>
        <div className="card" style={{ gridColumn: "1 / -1" }}>
          <h2 className="cap">Roles: shares and quota</h2>
          <table className="mini">
            <thead><tr><th scope="col">Role</th><th scope="col">Weight</th><th scope="col">Frameworks</th><th scope="col">CPU</th><th scope="col">Memory</th><th scope="col">Limit</th></tr></thead>
            <tbody>
              {roles.data?.roles.map((r) => (
                <tr key={r.name}>
                  <td><b>{r.name}</b></td>
                  <td className="num">{r.weight}</td>
                  <td className="num">{r.frameworks.length}</td>
                  <td style={{ minWidth: 160 }}><span className="barcell"><Bar value={r.resources.cpus} max={r.quota?.limit?.cpus || total.cpus} label="CPU of the role" /><span className="num right">{count(r.resources.cpus)}</span></span></td>
                  <td style={{ minWidth: 160 }}><span className="barcell"><Bar value={r.resources.mem} max={r.quota?.limit?.mem || total.mem} label="Memory of the role" /><span className="num right">{mb(r.resources.mem)}</span></span></td>
                  <td className="dim">{r.quota?.limit && Object.keys(r.quota.limit).length ? Object.entries(r.quota.limit).map(([k, v]) => `${k} ${k === "mem" ? mb(v as number) : v}`).join(", ") : "none"}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </div>
    </div>
  );
}

function useSort(id: string, desc = false) {
  const { params } = useRoute();
  return { sort: { id: params.sort || id, desc: params.sort ? params.desc === "1" : desc }, onSort: (s: { id: string; desc: boolean }) => setParams({ sort: s.id, desc: s.desc ? "1" : "" }, true) };
}

function share(used: number, total: number, text: string, label: string) {
  return (
    <span className="barcell" style={{ gridTemplateColumns: "1fr 84px" }}>
      <Bar value={used} max={total} label={label} />
      <span className="num right">{text}</span>
    </span>
  );
}

function slaveState(s: Slave): [number, string] {
  if (s.drain_info) return [2, s.drain_info.state.toLowerCase()];
  if (s.deactivated) return [2, "deactivated"];
  return s.active ? [1, "active"] : [3, "disconnected"];
}

function Nodes() {
  const { data, error, again } = useLoad(summary, 3000, []);
  const rows = useQ(data?.slaves ?? [], (s) => ({ id: s.id, host: s.hostname, name: s.hostname, state: slaveState(s)[1], cpus: s.resources.cpus, mem: s.resources.mem * 1048576, tasks: s.TASK_RUNNING, version: s.version, ...s.attributes }));
  const s = useSort("host");
  const [doing, setDoing] = useState<{ slave: Slave; call: string; text: string } | null>(null);
  const columns: Column<Slave>[] = [
    { id: "host", label: "Node", width: "minmax(170px, 1.4fr)", sort: (r) => r.hostname, cell: (r) => <><Health value={slaveState(r)[0]} /><b className="clip" style={{ fontWeight: 500 }}>{r.hostname}:{r.port}</b></> },
    { id: "state", label: "State", width: "110px", sort: (r) => slaveState(r)[1], cell: (r) => <span className="dim">{slaveState(r)[1]}</span> },
    { id: "tasks", label: "Tasks", width: "84px", align: "right", sort: (r) => r.TASK_RUNNING, cell: (r) => <a className="num tap" href="#" onClick={(e) => (e.preventDefault(), e.stopPropagation(), navigate("/cluster/tasks", { q: `node:${r.id}` }))}>{r.TASK_RUNNING + r.TASK_STAGING}</a> },
    { id: "cpu", label: "CPU", width: "minmax(170px, 1fr)", align: "right", sort: (r) => r.used_resources.cpus / (r.resources.cpus || 1), cell: (r) => share(r.used_resources.cpus, r.resources.cpus, `${count(r.used_resources.cpus)} / ${count(r.resources.cpus)}`, "CPU allocated") },
    { id: "mem", label: "Memory", width: "minmax(190px, 1fr)", align: "right", sort: (r) => r.used_resources.mem / (r.resources.mem || 1), cell: (r) => <span className="barcell" style={{ gridTemplateColumns: "1fr 112px" }}><Bar value={r.used_resources.mem} max={r.resources.mem} label="Memory allocated" /><span className="num right">{mb(r.used_resources.mem)} / {mb(r.resources.mem)}</span></span> },
    { id: "attributes", label: "Attributes", width: "minmax(120px, 1fr)", cell: (r) => <span className="row clip" style={{ gap: 4 }}>{Object.entries(r.attributes).map(([k, v]) => <span key={k} className="chip">{k} {String(v)}</span>)}</span> },
    { id: "since", label: "Registered", width: "130px", sort: (r) => r.registered_time, cell: (r) => <span className="faint" title={stamp(r.registered_time * 1000)}>{ago(r.registered_time * 1000)}</span> },
    ...(may("operator") ? [{ id: "do", label: "Maintenance", width: "130px", cell: (r: Slave) => (
      <span className="row" onClick={(e) => e.stopPropagation()} style={{ gap: 4 }}>
        {r.drain_info || r.deactivated ? <Button small onClick={() => setDoing({ slave: r, call: "REACTIVATE_AGENT", text: "Reactivate" })}>Reactivate</Button> : <Button small onClick={() => setDoing({ slave: r, call: "DRAIN_AGENT", text: "Drain" })}>Drain</Button>}
      </span>
    ) }] : []),
  ];
  return (
    <>
      <div className="toolbar">
        <Filter value={useRoute().params.q ?? ""} onChange={(q) => setParams({ q }, true)} label="Filter nodes" example="-state:active" fields={["host", "state", "cpus", "mem", "tasks", "version", "id"]} />
        <span className="grow" />
        <span className="faint">{plural(rows.length, "node")}</span>
      </div>
      <div className="content fixed">
        {error && <Problem error={error} retry={again} />}
        {!data && !error ? <Loading what="Asking the master" /> : <Table label="Nodes" columns={columns} rows={rows} id={(r) => r.id} {...s} rowHeight={38} onOpen={(r) => navigate("/cluster/tasks", { q: `node:${r.id}` })} empty={<Empty icon="node" title="No node"><p>No agent has registered with this master.</p></Empty>} />}
      </div>
      {doing && <DrainDialog {...doing} onClose={() => setDoing(null)} done={again} />}
    </>
  );
}

function DrainDialog({ slave, call, text, onClose, done }: { slave: Slave; call: string; text: string; onClose: () => void; done: () => void }) {
  const [error, setError] = useState<ApiError | null>(null);
  const drain = call === "DRAIN_AGENT";
  const act = async (grace: number) => {
    const body = drain ? { type: call, drain_agent: { agent_id: { value: slave.id }, max_grace_period: { nanoseconds: grace * 1e9 } } } : { type: call, reactivate_agent: { agent_id: { value: slave.id } } };
    try {
      await request("POST", `${master}/api/v1`, body);
      toast(`${text}: ${slave.hostname}`, "ok");
      onClose();
      done();
    } catch (e) {
      setError(e as ApiError);
    }
  };
  return (
    <Dialog title={`${text} ${slave.hostname}?`} onClose={onClose}>
      <form onSubmit={(e) => (e.preventDefault(), void act(Number(new FormData(e.currentTarget).get("grace") ?? 60)))} style={{ display: "contents" }}>
        <div className="body">
          {error && <Problem error={error} />}
          {drain ? (
            <>
              <p>{slave.TASK_RUNNING === 0 ? "No task runs on it." : `Its ${plural(slave.TASK_RUNNING, "task")} ${slave.TASK_RUNNING === 1 ? "is" : "are"} ended and started elsewhere by the frameworks.`} No new ones are placed on it until it is reactivated.</p>
              <label className="field">Seconds that tasks get to end by themselves<input type="number" name="grace" min={0} max={86400} defaultValue={60} /></label>
            </>
          ) : <p>New tasks may be placed on it again.</p>}
        </div>
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <button type="submit" data-first className={`button ${drain ? "danger" : "primary"}`}>{text}</button>
        </footer>
      </form>
    </Dialog>
  );
}

const stateHealth: Record<string, number> = { TASK_RUNNING: 1, TASK_FINISHED: 1, TASK_FAILED: 3, TASK_LOST: 3, TASK_ERROR: 3, TASK_UNREACHABLE: 4, TASK_KILLED: 4, TASK_GONE: 3, TASK_DROPPED: 3 };
const word = (state: string) => state.replace(/^TASK_/, "").toLowerCase().replaceAll("_", " ");
const ended = (state: string) => ["TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_LOST", "TASK_ERROR", "TASK_GONE", "TASK_DROPPED", "TASK_GONE_BY_OPERATOR"].includes(state);

function Tasks() {
  const { params } = useRoute();
  const { data, error, again } = useLoad(async (signal) => {
    const [tasks, sum] = await Promise.all([get<{ tasks: Task[] }>(`${master}/tasks?limit=20000&order=desc`, signal), summary(signal)]);
    const names = new Map(sum.frameworks.map((f) => [f.id, f.name]));
    const hosts = new Map(sum.slaves.map((s) => [s.id, s.hostname]));
    return tasks.tasks.map((t) => ({ ...t, framework: names.get(t.framework_id) ?? t.framework_id, host: hosts.get(t.slave_id) ?? t.slave_id, at: t.statuses.at(-1)?.timestamp ?? 0, healthy: t.statuses.at(-1)?.healthy }));
  }, 3000, []);
  type Row = NonNullable<typeof data>[number];
  const rows = useQ(data ?? [], (t) => ({ id: t.id, name: t.name, state: word(t.state), framework: t.framework, node: t.slave_id, host: t.host, role: t.role, cpus: t.resources.cpus, mem: t.resources.mem * 1048576, user: t.user, healthy: t.healthy === undefined ? null : String(t.healthy) }));
  const s = useSort("at", true);
  const open = data?.find((t) => t.id === params.task);
  const columns: Column<Row>[] = [
    { id: "state", label: "State", width: "128px", sort: (r) => r.state, cell: (r) => <><Health value={r.healthy === false ? 2 : (stateHealth[r.state] ?? 0)} /><span className="dim">{word(r.state)}</span></> },
    { id: "name", label: "Task", width: "minmax(160px, 1.2fr)", sort: (r) => r.name, cell: (r) => <b className="clip" style={{ fontWeight: 500 }}>{r.name}</b> },
    { id: "id", label: "Id", width: "minmax(140px, 1.6fr)", sort: (r) => r.id, cell: (r) => <span className="mono faint clip">{r.id}</span> },
    { id: "framework", label: "Framework", width: "minmax(90px, 0.8fr)", sort: (r) => r.framework, cell: (r) => <span className="dim clip">{r.framework}</span> },
    { id: "host", label: "Node", width: "minmax(100px, 0.8fr)", sort: (r) => r.host, cell: (r) => <span className="dim clip">{r.host}</span> },
    { id: "cpus", label: "CPU", width: "70px", align: "right", sort: (r) => r.resources.cpus, cell: (r) => <span className="num">{count(r.resources.cpus)}</span> },
    { id: "mem", label: "Memory", width: "90px", align: "right", sort: (r) => r.resources.mem, cell: (r) => <span className="num">{mb(r.resources.mem)}</span> },
    { id: "at", label: "Since", width: "120px", sort: (r) => r.at, cell: (r) => <span className="faint" title={stamp(r.at * 1000)}>{ago(r.at * 1000)}</span> },
  ];
  return (
    <div style={{ display: "grid", gridTemplateColumns: open ? "minmax(0,1fr) auto" : "minmax(0,1fr)", flex: 1, minHeight: 0 }}>
      <div style={{ display: "flex", flexDirection: "column", minHeight: 0, minWidth: 0 }}>
        <div className="toolbar">
          <Filter value={params.q ?? ""} onChange={(q) => setParams({ q }, true)} label="Filter tasks" example="state:failed" fields={["name", "state", "framework", "host", "node", "role", "cpus", "mem", "id", "healthy"]} />
          <div className="segmented" role="group" aria-label="Which tasks">
            {([["", "All"], ["state:running", "Running"], ["state:failed", "Failed"]] as const).map(([q, l]) => <button key={l} type="button" aria-pressed={(params.q ?? "") === q} onClick={() => setParams({ q }, true)}>{l}</button>)}
          </div>
          <span className="grow" />
          <span className="faint">{plural(rows.length, "task")}</span>
        </div>
        <div className="content fixed">
          {error && <Problem error={error} retry={again} />}
          {!data && !error ? <Loading what="Asking the master" /> : <Table label="Tasks" columns={columns} rows={rows} id={(r) => r.id} current={params.task} onOpen={(r) => setParams({ task: r.id })} {...s} empty={<Empty icon="task" title={params.q ? "No task matches" : "No task yet"}><p>Run one: <code className="mono">orchestrator execute --command 'echo hello'</code></p></Empty>} />}
        </div>
      </div>
      {open && <TaskPanel key={open.id} task={open} again={again} />}
    </div>
  );
}

function TaskPanel({ task: t, again }: { task: Task & { framework: string; host: string }; again: () => void }) {
  const [tab, setTab] = useState("sandbox");
  const [killing, setKilling] = useState(false);
  const close = () => setParams({ task: "" });
  const container = t.statuses.map((s) => s.container_status?.container_id?.value).filter(Boolean).at(-1);
  const kill = async (grace: string) => {
    try {
      const resp = await fetch(`${master}/api/orchestrator/v1/kill`, { method: "POST", headers: { "Content-Type": "application/x-www-form-urlencoded", "X-CSRF-Token": session.get()?.csrf ?? "" }, body: new URLSearchParams({ framework_id: t.framework_id, task_id: t.id, ...(grace ? { grace } : {}) }) });
      if (!resp.ok) throw new Error((await resp.text()).slice(0, 300));
      toast(`${t.name} is being killed; its framework decides whether it is started again`, "ok");
      again();
    } catch (e) {
      toast((e as Error).message, "crit");
    }
    setKilling(false);
  };
  return (
    <aside className="details" aria-label={`Task ${t.name}`} style={{ gridColumn: 2 }}>
      <header>
        <div className="row">
          <Health value={stateHealth[t.state] ?? 0} />
          <span className="dim">{word(t.state)}</span>
          <span className="grow" />
          <Button small kind="ghost" icon="close" label="Close the task" onClick={close} />
        </div>
        <div><h2>{t.name}</h2><span className="mono faint">{t.id}</span></div>
        <div className="row wrap" style={{ gap: 6 }}>
          {container && <Button small icon="container" onClick={() => navigate("/containers", { q: container, node: "" })}>Container</Button>}
          <Button small icon="map" onClick={() => navigate("/map", { view: "containers", find: `task=${JSON.stringify(t.id)}` })}>On the map</Button>
          {!ended(t.state) && may("operator") && <Button small icon="kill" kind="danger" onClick={() => setKilling(true)}>Kill</Button>}
        </div>
      </header>
      <div className="tabs" role="tablist" aria-label="Parts">
        {[["sandbox", "Sandbox"], ["history", "History"]].map(([id, l]) => <button key={id} type="button" role="tab" aria-selected={tab === id} onClick={() => setTab(id)}>{l}</button>)}
      </div>
      <div className="scroll" tabIndex={0} role="region" aria-label="Part shown">
        {tab === "sandbox" ? <section><Files source={sandbox(t)} /></section> : (
          <>
            <section>
              {[...t.statuses].reverse().map((s, i) => (
                <div key={i} className="reason"><Health value={stateHealth[s.state] ?? 0} /><span><b>{word(s.state)}</b> <span className="faint">{stamp(s.timestamp * 1000)}</span>{s.message && <><br /><span className="dim">{s.message}</span></>}</span></div>
              ))}
            </section>
            <section>
              <dl className="facts">
                <dt>Framework</dt><dd>{t.framework}</dd>
                <dt>Node</dt><dd>{t.host}</dd>
                <dt>Role</dt><dd>{t.role}</dd>
                {t.user && <><dt>User</dt><dd>{t.user}</dd></>}
                <dt>CPU</dt><dd className="num">{t.resources.cpus}</dd>
                <dt>Memory</dt><dd className="num">{mb(t.resources.mem)}</dd>
                {t.resources.ports && <><dt>Ports</dt><dd className="mono">{t.resources.ports}</dd></>}
                {container && <><dt>Container</dt><dd className="mono">{container}</dd></>}
              </dl>
            </section>
          </>
        )}
      </div>
      {killing && (
        <Dialog title={`Kill ${t.name}?`} onClose={() => setKilling(false)}>
          <form onSubmit={(e) => (e.preventDefault(), void kill(String(new FormData(e.currentTarget).get("grace"))))} style={{ display: "contents" }}>
            <div className="body">
              <p>It is asked to end, and ended after the grace period. Its framework hears of it and may start another one.</p>
              <label className="field">Grace period, such as 5secs; empty: the task's own<input type="text" name="grace" pattern="\d+(\.\d+)?(ms|secs|mins|hrs)" /></label>
            </div>
            <footer><Button onClick={() => setKilling(false)}>Cancel</Button><button type="submit" data-first className="button danger">Kill</button></footer>
          </form>
        </Dialog>
      )}
    </aside>
  );
}

/** A task's sandbox, which its agent serves. */
function sandbox(t: Task): Source {
  const base = `${api}/proxy/agent/${encodeURIComponent(t.slave_id)}/files`;
  const root = `/frameworks/${t.framework_id}/executors/${t.executor_id || t.id}/runs/latest`;
  // A read at -1 tells it.
  const size = async (path: string) => (await get<{ offset: number }>(`${base}/read?path=${encodeURIComponent(path)}&offset=-1`)).offset;
  return {
    key: t.id,
    root,
    size,
    list: async (path, signal) => {
      // Viewers may read the two logs, and see no other file.
      if (!may("operator"))
        return Promise.all(["stdout", "stderr"].map(async (name): Promise<Entry> => ({ name, type: "file", size: await size(`${path}/${name}`).catch((e: ApiError) => (e.status === 404 ? 0 : Promise.reject(e))), mode: "", mtime_ms: 0, target: "" })));
      const r = await get<{ path: string; mode: string; size: number; mtime: number }[]>(`${base}/browse?path=${encodeURIComponent(path)}`, signal);
      return r.map((f): Entry => ({ name: f.path.slice(f.path.lastIndexOf("/") + 1), type: f.mode[0] === "d" ? "dir" : f.mode[0] === "l" ? "link" : "file", size: f.size, mode: f.mode, mtime_ms: f.mtime * 1000, target: "" }));
    },
    read: async (path, offset, length) => {
      const parts: Uint8Array[] = [];
      // An agent gives at most 64 KB at once.
      for (let at = offset; at < offset + length; ) {
        const r = await get<{ data: string; offset: number }>(`${base}/read?path=${encodeURIComponent(path)}&offset=${at}&length=${offset + length - at}`);
        const b = new TextEncoder().encode(r.data);
        if (b.length === 0) break;
        parts.push(b);
        at += b.length;
      }
      return new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer());
    },
    href: (path) => `${base}/download?path=${encodeURIComponent(path)}`,
  };
}

function Frameworks() {
  const { params } = useRoute();
  const { data, error, again } = useLoad(summary, 3000, []);
  const rows = useQ(data?.frameworks ?? [], (f) => ({ id: f.id, name: f.name, host: f.hostname, active: String(f.active), tasks: f.TASK_RUNNING, cpus: f.used_resources.cpus, mem: f.used_resources.mem * 1048576 }));
  const s = useSort("name");
  const total = (data?.slaves ?? []).reduce((a, x) => add(a, x.resources), zero);
  const open = data?.frameworks.find((f) => f.id === params.framework);
  const columns: Column<Framework>[] = [
    { id: "name", label: "Framework", width: "minmax(150px, 1.2fr)", sort: (r) => r.name, cell: (r) => <><Health value={r.active ? 1 : r.connected ? 2 : 3} /><b className="clip" style={{ fontWeight: 500 }}>{r.name}</b></> },
    { id: "id", label: "Id", width: "minmax(120px, 1.2fr)", sort: (r) => r.id, cell: (r) => <span className="mono faint clip">{r.id}</span> },
    { id: "state", label: "State", width: "120px", sort: (r) => Number(r.active), cell: (r) => <span className="dim">{r.active ? "active" : r.connected ? "inactive" : "disconnected"}</span> },
    { id: "tasks", label: "Tasks", width: "80px", align: "right", sort: (r) => r.TASK_RUNNING, cell: (r) => <span className="num">{r.TASK_RUNNING + r.TASK_STAGING}</span> },
    { id: "failed", label: "Failed", width: "80px", align: "right", sort: (r) => r.TASK_FAILED, cell: (r) => <span className={`num ${r.TASK_FAILED ? "h3" : "faint"}`}>{r.TASK_FAILED}</span> },
    { id: "cpu", label: "CPU", width: "minmax(140px, 1fr)", align: "right", sort: (r) => r.used_resources.cpus, cell: (r) => share(r.used_resources.cpus, total.cpus, count(r.used_resources.cpus), "CPU of the cluster") },
    { id: "mem", label: "Memory", width: "minmax(140px, 1fr)", align: "right", sort: (r) => r.used_resources.mem, cell: (r) => share(r.used_resources.mem, total.mem, mb(r.used_resources.mem), "Memory of the cluster") },
    { id: "offers", label: "Offered CPU", width: "100px", align: "right", sort: (r) => r.offered_resources.cpus, cell: (r) => <span className="num dim">{count(r.offered_resources.cpus)}</span> },
  ];
  return (
    <div style={{ display: "grid", gridTemplateColumns: open ? "minmax(0,1fr) auto" : "minmax(0,1fr)", flex: 1, minHeight: 0 }}>
      <div style={{ display: "flex", flexDirection: "column", minHeight: 0, minWidth: 0 }}>
        <div className="toolbar">
          <Filter value={params.q ?? ""} onChange={(q) => setParams({ q }, true)} label="Filter frameworks" example="active:false" fields={["name", "host", "active", "tasks", "cpus", "mem", "id"]} />
          <span className="grow" />
          <span className="faint">{plural(rows.length, "framework")}</span>
        </div>
        <div className="content fixed">
          {error && <Problem error={error} retry={again} />}
          {!data && !error ? <Loading what="Asking the master" /> : <Table label="Frameworks" columns={columns} rows={rows} id={(r) => r.id} current={params.framework} onOpen={(r) => setParams({ framework: r.id })} {...s} empty={<Empty icon="framework" title="No framework"><p>No scheduler is registered with this master.</p></Empty>} />}
        </div>
      </div>
      {open && <FrameworkPanel key={open.id} f={open} />}
    </div>
  );
}

interface Explanation {
  roles: { role: string; subscribed: boolean; active: boolean; suppressed: boolean; paused: boolean; share: number; ahead: number; filters: number; filter_ends?: string; agents: Record<string, number>; guarantees?: Record<string, number>; limits?: Record<string, number>; consumed?: Record<string, number> }[];
}

/** What keeps offers from a framework, role by role. */
function FrameworkPanel({ f }: { f: Framework }) {
  const { data, error, again } = useLoad<Explanation>((s) => get(`${master}/api/orchestrator/v1/explain?framework_id=${encodeURIComponent(f.id)}`, s), 3000, [f.id]);
  return (
    <aside className="details" aria-label={`Framework ${f.name}`} style={{ gridColumn: 2 }}>
      <header>
        <div className="row"><Health value={f.active ? 1 : 3} text={false} /><h2 className="grow clip">{f.name}</h2><Button small kind="ghost" icon="close" label="Close the framework" onClick={() => setParams({ framework: "" })} /></div>
        <span className="mono faint">{f.id}</span>
        <div className="row"><Button small icon="task" onClick={() => navigate("/cluster/tasks", { q: `framework:${JSON.stringify(f.name)}` })}>Its tasks</Button></div>
      </header>
      <div className="scroll" tabIndex={0} role="region" aria-label="Offers">
        {error && <Problem error={error} retry={again} />}
        {!data && !error && <Loading what="Asking the master" />}
        {data?.roles.map((r) => (
          <section key={r.role} aria-label={`Role ${r.role}`}>
            <header><h3>Role {r.role}</h3><span className="faint num">share {r.share.toFixed(3)}</span></header>
            {!r.subscribed && <p className="reason"><Health value={2} />It has left this role and gets no offers in it.</p>}
            {r.subscribed && !r.active && <p className="reason"><Health value={3} />It is not connected: its scheduler must subscribe again.</p>}
            {r.suppressed && <p className="reason"><Health value={4} />It has asked for no offers: its scheduler must revive them.</p>}
            {r.paused && <p className="reason"><Health value={2} />The master waits for nodes to come back after a fail-over.</p>}
            {r.ahead > 0 && <p className="dim">{r.ahead} others with a smaller share come first.</p>}
            {r.filters > 0 && <p className="dim">It declined offers: {r.filters} filters are in force{r.filter_ends ? `, the first until ${new Date(r.filter_ends).toLocaleTimeString("en-GB")}` : ""}.</p>}
            {Object.entries(r.agents ?? {}).sort((a, b) => b[1] - a[1]).map(([why, n]) => <div key={why} className="reason"><Icon name="node" size={14} /><span><b className="num">{n}</b> {n === 1 ? "node" : "nodes"}: {why}</span></div>)}
            {r.limits && <p className="dim">Quota: {Object.entries(r.limits).map(([k, v]) => `${k} ${r.consumed?.[k] ?? 0} of ${v}`).join(", ")}</p>}
          </section>
        ))}
      </div>
    </aside>
  );
}
