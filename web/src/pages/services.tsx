// Pages of services, from Marathon's own API through the monitor.

import { useMemo, useState } from "react";
import { api, get, may, send, type ApiError } from "../api/client";
import { useLoad } from "../estate";
import { ago, bytes, count, duration, plural, stamp } from "../format";
import { match, record } from "../query/match";
import { check, parse } from "../query/parse";
import { navigate, setParams, useRoute } from "../router";
import { createStore, useStore } from "../store";
import { Filter } from "../ui/filter";
import { Bar, Button, Dialog, Empty, Health, Loading, Problem, toast } from "../ui/parts";
import { Icon } from "../ui/icons";
import { Table, type Column } from "../ui/table";

const marathon = `${api}/proxy/marathon/v2`;

interface AppTask {
  id: string;
  host: string;
  ports: number[];
  state: string;
  slaveId: string;
  startedAt?: string;
  stagedAt?: string;
  version: string;
  healthCheckResults?: { alive: boolean; lastFailureCause?: string }[];
}

export interface AppInfo {
  id: string;
  cmd?: string;
  cpus: number;
  mem: number;
  instances: number;
  version: string;
  labels: Record<string, string>;
  container?: { docker?: { image: string } };
  healthChecks?: unknown[];
  tasksStaged: number;
  tasksRunning: number;
  tasksHealthy: number;
  tasksUnhealthy: number;
  deployments: { id: string }[];
  tasks?: AppTask[];
  lastTaskFailure?: { message: string; state: string; timestamp: string; host: string };
  versionInfo?: { lastScalingAt: string; lastConfigChangeAt: string };
}

interface Deployment {
  id: string;
  version: string;
  affectedApps: string[];
  affectedPods?: string[];
  currentActions: { action: string; app?: string; pod?: string; readinessCheckResults?: unknown[] }[];
  steps: { actions: { action: string; app?: string; pod?: string }[] }[];
  currentStep: number;
  totalSteps: number;
  deadline?: string;
  paused?: string | boolean;
  canary?: unknown;
}

interface Why {
  wanted: number;
  running: number;
  healthy: number;
  waiting: number;
  reasons: string[];
  refusedOffers?: { reason: string; declined: number; processed: number }[];
  lastUnusedOffers?: { offer: { hostname: string }; reason: string[]; detail?: string; timestamp: string }[];
}

export default function Services({ part }: { part: string }) {
  return (
    <>
      {part === "deployments" ? <Deployments /> : <Apps />}
      <Locked />
    </>
  );
}

const path = (id: string) => `${marathon}/apps/${id.replace(/^\//, "").split("/").map(encodeURIComponent).join("/")}`;

/** How long a failure counts against an app that runs again: one that crashes over and over runs most of the time. */
const lately = 120_000;

export function health(a: AppInfo, now = Date.now()): [number, string] {
  if (a.instances === 0 && a.tasksRunning === 0) return [4, "suspended"];
  if (a.tasksUnhealthy > 0) return [3, `${a.tasksUnhealthy} unhealthy`];
  if (a.tasksRunning < a.instances) return [2, a.tasksStaged ? "starting" : "waiting"];
  if (a.deployments.length) return [2, "deploying"];
  if (a.healthChecks?.length && a.tasksHealthy < a.instances) return [2, "health not known yet"];
  if (a.lastTaskFailure && now - Date.parse(a.lastTaskFailure.timestamp) < lately) return [2, "failed lately"];
  return [1, "running"];
}

/** What is wanted of an app that is being deployed. */
const locked = createStore<{ go: () => void } | null>(null);

/** f is given what to add to its path: nothing, or, when the person wants it although a deployment has locked the app, force=true. */
async function act(f: (force: string) => Promise<unknown>, done: string, again: () => void, force = "") {
  try {
    await f(force);
    toast(done, "ok");
    again();
  } catch (e) {
    const { status, message } = e as ApiError;
    if (status === 409 && !force && /locked/.test(message)) locked.set({ go: () => void act(f, done, again, "?force=true") });
    else toast(message, "crit");
  }
}

function Locked() {
  const l = useStore(locked);
  if (!l) return null;
  const close = () => locked.set(null);
  return (
    <Dialog title="It is being deployed" onClose={close}>
      <div className="body"><p>A deployment has locked it. It can be ended where it stands, and this done instead.</p></div>
      <footer><Button onClick={close}>Wait for it</Button><Button kind="danger" onClick={() => (close(), l.go())}>End it and go on</Button></footer>
    </Dialog>
  );
}

function Apps() {
  const { params } = useRoute();
  const { data, error, again } = useLoad((s) => get<{ apps: AppInfo[] }>(`${marathon}/apps?embed=apps.tasks&embed=apps.counts&embed=apps.deployments&embed=apps.lastTaskFailure`, s), 2500, []);
  const all = useMemo(() => data?.apps ?? [], [data]);
  const rows = useMemo(() => {
    if (!params.q || check(params.q)) return all;
    const q = parse(params.q);
    return all.filter((a) => match(q, record({ id: a.id, name: a.id, state: health(a)[1], health: ["unknown", "ok", "warn", "crit", "stale"][health(a)[0]], instances: a.instances, running: a.tasksRunning, cpus: a.cpus, mem: a.mem * 1048576, cmd: a.cmd, image: a.container?.docker?.image, ...Object.fromEntries(Object.entries(a.labels).map(([k, v]) => [`label.${k}`, v])) })));
  }, [all, params.q]);
  const open = all.find((a) => a.id === params.app);
  const order = [1, 0, 3, 4, 2];
  const columns: Column<AppInfo>[] = [
    { id: "health", label: "Health", width: "76px", sort: (a) => order[health(a)[0]], cell: (a) => <Health value={health(a)[0]} /> },
    { id: "id", label: "App", width: "minmax(170px, 1.6fr)", sort: (a) => a.id, cell: (a) => <b className="clip" style={{ fontWeight: 500 }}>{a.id}</b> },
    { id: "state", label: "State", width: "150px", sort: (a) => health(a)[1], cell: (a) => <><span className="dim clip">{health(a)[1]}</span>{a.deployments.length > 0 && <span className="spinner" />}</> },
    { id: "instances", label: "Instances", width: "minmax(160px, 1fr)", sort: (a) => a.instances, cell: (a) => (
      <span className="barcell" style={{ gridTemplateColumns: "1fr 54px" }}><Bar value={a.healthChecks?.length ? a.tasksHealthy : a.tasksRunning} max={Math.max(a.instances, a.tasksRunning)} label="Instances that are good" tone={health(a)[0] === 3 ? "crit" : a.tasksRunning < a.instances ? "warn" : "health"} /><span className="num right">{a.tasksRunning} / {a.instances}</span></span>
    ) },
    { id: "cpus", label: "CPU", width: "80px", align: "right", sort: (a) => a.cpus, cell: (a) => <span className="num">{count(a.cpus)}</span> },
    { id: "mem", label: "Memory", width: "90px", align: "right", sort: (a) => a.mem, cell: (a) => <span className="num">{bytes(a.mem * 1048576)}</span> },
    { id: "what", label: "Runs", width: "minmax(140px, 1.6fr)", cell: (a) => <span className="mono faint clip">{a.container?.docker?.image ?? a.cmd}</span> },
    { id: "changed", label: "Changed", width: "120px", sort: (a) => a.version, cell: (a) => <span className="faint" title={stamp(Date.parse(a.version))}>{ago(Date.parse(a.version))}</span> },
  ];
  const [creating, setCreating] = useState(false);
  return (
    <div style={{ display: "grid", gridTemplateColumns: open ? "minmax(0,1fr) auto" : "minmax(0,1fr)", flex: 1, minHeight: 0 }}>
      <div style={{ display: "flex", flexDirection: "column", minHeight: 0, minWidth: 0 }}>
        <div className="toolbar">
          <Filter value={params.q ?? ""} onChange={(q) => setParams({ q }, true)} label="Filter apps" example="-state:running" fields={["id", "state", "health", "instances", "running", "cpus", "mem", "cmd", "image"]} />
          <span className="grow" />
          <span className="faint">{plural(rows.length, "app")}</span>
          {may("operator") && <Button small kind="primary" icon="plus" onClick={() => setCreating(true)}>New app</Button>}
        </div>
        <div className="content fixed">
          {error && <Problem error={error} retry={again} />}
          {!data && !error ? <Loading what="Asking Marathon" /> : <Table label="Apps" columns={columns} rows={rows} id={(a) => a.id} current={params.app} onOpen={(a) => setParams({ app: a.id })} sort={{ id: params.sort || "id", desc: params.desc === "1" }} onSort={(s) => setParams({ sort: s.id, desc: s.desc ? "1" : "" }, true)} empty={<Empty icon="app" title={params.q ? "No app matches" : "No app yet"}><p>An app is a service that is kept running: as many instances as you want, replaced when they die.</p>{may("operator") && <Button kind="primary" onClick={() => setCreating(true)}>New app</Button>}</Empty>} />}
        </div>
      </div>
      {open && <AppPanel key={open.id} app={open} again={again} />}
      {creating && <NewApp onClose={() => setCreating(false)} again={again} />}
    </div>
  );
}

function NewApp({ onClose, again }: { onClose: () => void; again: () => void }) {
  const [error, setError] = useState<ApiError | null>(null);
  const start = JSON.stringify({ id: "/web", cmd: "python3 -m http.server $PORT0", cpus: 0.1, mem: 64, instances: 2, portDefinitions: [{ port: 0 }] }, null, 2);
  const submit = async (text: string) => {
    try {
      const app = JSON.parse(text);
      await send("POST", `${marathon}/apps`, app);
      toast("It is being deployed", "ok");
      onClose();
      again();
      navigate("/services", { app: app.id.startsWith("/") ? app.id : "/" + app.id });
    } catch (e) {
      setError(e as ApiError);
    }
  };
  return (
    <Dialog title="New app" onClose={onClose} wide>
      <form onSubmit={(e) => (e.preventDefault(), void submit(String(new FormData(e.currentTarget).get("json"))))} style={{ display: "contents" }}>
        <div className="body">
          {error && <Problem error={error} />}
          <label className="field">Definition, as Marathon takes it<textarea name="json" rows={16} defaultValue={start} spellCheck={false} /></label>
        </div>
        <footer><Button onClick={onClose}>Cancel</Button><button type="submit" className="button primary">Run</button></footer>
      </form>
    </Dialog>
  );
}

function AppPanel({ app: a, again }: { app: AppInfo; again: () => void }) {
  const [tab, setTab] = useState("instances");
  const [ask, setAsk] = useState<"scale" | "restart" | "remove" | null>(null);
  const [state, text] = health(a);
  const why = useLoad<Why>((s) => get(`${path(a.id)}::why`, s), 3000, [a.id]);
  const reasons = why.data?.reasons ?? [];
  const scale = (instances: number) => {
    setAsk(null);
    void act((force) => send("PUT", path(a.id) + force, { instances }), "Scaling", again);
  };
  return (
    <aside className="details" aria-label={`App ${a.id}`} style={{ gridColumn: 2 }}>
      <header>
        <div className="row"><Health value={state} /><span className="dim">{text}</span><span className="grow" /><Button small kind="ghost" icon="close" label="Close the app" onClick={() => setParams({ app: "" })} /></div>
        <div><h2>{a.id}</h2><span className="dim num">{a.tasksRunning} of {a.instances} running{a.healthChecks?.length ? `, ${a.tasksHealthy} healthy` : ""}</span></div>
        <div className="row wrap" style={{ gap: 6 }}>
          {may("operator") && (
            <>
              <Button small icon="scale" onClick={() => setAsk("scale")}>Scale</Button>
              <Button small icon="restart" onClick={() => setAsk("restart")}>Restart</Button>
              <Button small icon="kill" kind="danger" onClick={() => setAsk("remove")}>Remove</Button>
            </>
          )}
          <Button small icon="map" onClick={() => navigate("/map", { view: "containers", q: `app=${JSON.stringify(a.id)}` })}>Map</Button>
        </div>
        {reasons.length > 0 && (
          <div className={`verdict h${state === 1 ? 2 : state}`}>
            <b>Why it is waiting</b>
            {reasons.map((r) => <span key={r} className="dim">{r}</span>)}
            {why.data?.lastUnusedOffers?.slice(0, 3).map((o, i) => <span key={i} className="faint">{o.offer.hostname}: {o.detail ?? o.reason.join(", ")}</span>)}
          </div>
        )}
        {a.lastTaskFailure && <div className="verdict h3"><b>Last failure, {ago(Date.parse(a.lastTaskFailure.timestamp))}</b><span className="dim">{a.lastTaskFailure.message || a.lastTaskFailure.state} on {a.lastTaskFailure.host}</span></div>}
      </header>
      <div className="tabs" role="tablist" aria-label="Parts">
        {[["instances", "Instances"], ["offers", "Offers"], ["versions", "Versions"], ["definition", "Definition"]].map(([id, l]) => <button key={id} type="button" role="tab" aria-selected={tab === id} onClick={() => setTab(id)}>{l}</button>)}
      </div>
      <div className="scroll" tabIndex={0} role="region" aria-label="Part shown">
        {tab === "instances" && (
          <section>
            {!a.tasks?.length && <p className="faint">No instance runs.</p>}
            <div className="links">
              {a.tasks?.map((t) => {
                const bad = t.healthCheckResults?.some((h) => !h.alive);
                return (
                  <button type="button" key={t.id} className="linkrow" title={t.healthCheckResults?.find((h) => h.lastFailureCause)?.lastFailureCause ?? t.id} onClick={() => navigate("/cluster/tasks", { task: t.id })}>
                    <Health value={bad ? 3 : t.state === "TASK_RUNNING" ? 1 : 2} />
                    <span className="mono clip">{t.id.replace(/^.*instance-/, "").slice(0, 13)}</span>
                    <span className="faint clip">{t.host}{t.ports.length ? `:${t.ports.join(",")}` : ""}</span>
                    {t.version !== a.version && <span className="chip warn">old</span>}
                    <span className="end">{t.startedAt ? ago(Date.parse(t.startedAt)) : t.state.replace("TASK_", "").toLowerCase()}</span>
                  </button>
                );
              })}
            </div>
          </section>
        )}
        {tab === "offers" && (why.error && !why.data ? <Problem error={why.error} retry={why.again} /> : <Offers why={why.data} />)}
        {tab === "versions" && <Versions app={a} again={again} />}
        {tab === "definition" && <Definition id={a.id} version={a.version} />}
      </div>
      {ask === "scale" && (
        <Dialog title={`Scale ${a.id}`} onClose={() => setAsk(null)}>
          <form onSubmit={(e) => (e.preventDefault(), scale(Number(new FormData(e.currentTarget).get("n"))))} style={{ display: "contents" }}>
            <div className="body"><label className="field">Instances (now {a.instances})<input type="number" name="n" min={0} max={100000} defaultValue={a.instances} required /></label></div>
            <footer><Button onClick={() => setAsk(null)}>Cancel</Button><button type="submit" className="button primary">Scale</button></footer>
          </form>
        </Dialog>
      )}
      {ask === "restart" && (
        <Dialog title={`Restart ${a.id}?`} onClose={() => setAsk(null)}>
          <div className="body"><p>All {plural(a.instances, "instance")} are replaced, within the app's upgrade strategy.</p></div>
          <footer><Button onClick={() => setAsk(null)}>Cancel</Button><Button data-first kind="primary" onClick={() => (setAsk(null), void act((force) => send("POST", `${path(a.id)}/restart${force}`), "Restarting", again))}>Restart</Button></footer>
        </Dialog>
      )}
      {ask === "remove" && <Remove id={a.id} onClose={() => setAsk(null)} again={again} />}
    </aside>
  );
}

function Remove({ id, onClose, again }: { id: string; onClose: () => void; again: () => void }) {
  const [typed, setTyped] = useState("");
  return (
    <Dialog title={`Remove ${id}?`} onClose={onClose}>
      <form onSubmit={(e) => (e.preventDefault(), typed === id && (onClose(), setParams({ app: "" }), void act((force) => send("DELETE", path(id) + force), "Removing", again)))} style={{ display: "contents" }}>
        <div className="body">
          <p>All its instances are ended, and the app and its versions are forgotten.</p>
          <label className="field"><span>Type <b>{id}</b> to confirm</span><input type="text" value={typed} onChange={(e) => setTyped(e.target.value)} spellCheck={false} /></label>
        </div>
        <footer><Button onClick={onClose}>Cancel</Button><button type="submit" className="button danger" disabled={typed !== id}>Remove</button></footer>
      </form>
    </Dialog>
  );
}

/** Which offers were refused, and for what. */
function Offers({ why }: { why: Why | undefined }) {
  if (!why) return <Loading what="Asking Marathon" />;
  const list = (why.refusedOffers ?? []).filter((r) => r.processed > 0);
  return (
    <section>
      {list.length === 0 ? <p className="faint">{why.waiting ? "No offer has come yet." : "Nothing waits for an offer."}</p> : (
        <>
          <p className="dim">Of the nodes that last made an offer, how many passed each test, in order:</p>
          {list.map((r) => (
            <div key={r.reason} className="metric">
              <div className="row"><span className={r.declined ? "" : "dim"}>{r.reason.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase()}</span><span className="num">{r.declined ? <span className="h3">{r.declined} refused of {r.processed}</span> : `${r.processed} passed`}</span></div>
              <Bar value={r.processed - r.declined} max={r.processed} label="passed" tone={r.declined ? "crit" : "health"} />
            </div>
          ))}
        </>
      )}
      {why.lastUnusedOffers?.map((o, i) => <div key={i} className="reason"><Icon name="node" size={14} /><span><b>{o.offer.hostname}</b> {o.detail ?? o.reason.join(", ")} <span className="faint">{ago(Date.parse(o.timestamp))}</span></span></div>)}
    </section>
  );
}

function Versions({ app, again }: { app: AppInfo; again: () => void }) {
  const { data, error } = useLoad((s) => get<{ versions: string[] }>(`${path(app.id)}/versions`, s), 0, [app.id, app.version]);
  const [shown, setShown] = useState("");
  const old = useLoad(shown ? (s) => get<Record<string, unknown>>(`${path(app.id)}/versions/${shown}`, s) : null, 0, [shown]);
  return (
    <section>
      {error && <Problem error={error} />}
      <div className="links">
        {data?.versions.map((v) => (
          <div key={v} className="linkrow">
            <button type="button" className="grow clip" aria-expanded={shown === v} onClick={() => setShown(shown === v ? "" : v)}>{stamp(Date.parse(v))}</button>
            {v === app.version ? <span className="chip ok">current</span> : may("operator") && <Button small icon="back" onClick={() => void act((force) => send("PUT", path(app.id) + force, { version: v }), "Going back to it", again)}>Roll back</Button>}
          </div>
        ))}
      </div>
      {old.data && <pre className="code" tabIndex={0}>{JSON.stringify(old.data, null, 2)}</pre>}
    </section>
  );
}

function Definition({ id, version }: { id: string; version: string }) {
  const { data, error, again } = useLoad((s) => get<{ app: Record<string, unknown> }>(path(id), s), 0, [id, version]);
  if (error) return <Problem error={error} retry={again} />;
  if (!data) return <Loading what="Reading" />;
  const { tasks: _, deployments: __, lastTaskFailure: ___, tasksRunning: _a, tasksStaged: _b, tasksHealthy: _c, tasksUnhealthy: _d, ...rest } = data.app;
  return <section><pre className="code" tabIndex={0}>{JSON.stringify(rest, null, 2)}</pre></section>;
}

function Deployments() {
  const { data, error, again } = useLoad(async (s) => {
    const [list, apps] = await Promise.all([get<Deployment[]>(`${marathon}/deployments`, s), get<{ apps: AppInfo[] }>(`${marathon}/apps?embed=apps.counts&embed=apps.deployments`, s)]);
    return { list, apps: new Map(apps.apps.map((a) => [a.id, a])) };
  }, 1500, []);
  if (error && !data) return <Problem error={error} retry={again} />;
  if (!data) return <Loading what="Asking Marathon" />;
  return (
    <div className="content" tabIndex={0} role="region" aria-label="Deployments">
      {error && <Problem error={error} retry={again} />}
      {data.list.length === 0 && <Empty icon="deploy" title="Nothing is being deployed"><p>When an app is started, changed or scaled, its steps and what they wait for are shown here.</p></Empty>}
      <div className="cards">
        {data.list.map((d) => <DeploymentCard key={d.id} d={d} apps={data.apps} again={again} />)}
      </div>
    </div>
  );
}

/** Percentages of a canary, as the app's label gives them. */
export function canarySteps(label: string | undefined): number[] {
  return (label ?? "").split(",").map(Number).filter((n) => n > 0 && n <= 100);
}

function DeploymentCard({ d, apps, again }: { d: Deployment; apps: Map<string, AppInfo>; again: () => void }) {
  const app = apps.get(d.affectedApps[0]);
  const pods = d.affectedPods ?? [];
  const good = app ? (app.healthChecks?.length ? app.tasksHealthy : app.tasksRunning) : 0;
  const canary = app?.labels.ORCHESTRATOR_STRATEGY === "canary" ? canarySteps(app.labels.ORCHESTRATOR_CANARY_STEPS || "10,25,50,75,100") : [];
  const why = useLoad<Why>(app ? (s) => get(`${path(app.id)}::why`, s) : null, 3000, [d.id, app?.id]);
  const info = d.canary && typeof d.canary === "object" ? (Object.values(d.canary as Record<string, unknown>)[0] as Record<string, unknown> | undefined) : undefined;
  const at = Number((d.canary as { step?: number } | undefined)?.step ?? info?.step ?? 0);
  return (
    <article className="card" aria-label={`Deployment of ${[...d.affectedApps, ...pods].join(", ")}`}>
      <div className="row wrap">
        {d.paused ? <Health value={2} /> : <span className="spinner" />}
        <h2 className="clip">{d.affectedApps.map((id) => <a key={id} href="#" onClick={(e) => (e.preventDefault(), navigate("/services", { app: id }))}>{id} </a>)}{pods.map((id) => <span key={id}>{id} </span>)}</h2>
        {pods.length > 0 && <span className="chip">{plural(pods.length, "pod")}</span>}
        <span className="faint mono">{d.id.slice(0, 8)}</span>
        {d.paused && <span className="chip warn">paused</span>}
        {d.deadline && <span className="chip">until {stamp(Date.parse(d.deadline))}</span>}
        <span className="grow" />
        <span className="faint">{duration(Date.now() - Date.parse(d.version))}</span>
        {may("operator") && d.paused && <Button small icon="play" onClick={() => void act(() => send("POST", `${marathon}/deployments/${d.id}/resume`), "It goes on", again)}>Resume</Button>}
        {may("operator") && <Button small icon="back" onClick={() => void act(() => send("DELETE", `${marathon}/deployments/${d.id}`), "Rolling back", again)}>Roll back</Button>}
        {may("operator") && <Button small kind="danger" icon="stop" onClick={() => void act(() => send("DELETE", `${marathon}/deployments/${d.id}?force=true`), "It ends where it stands", again)}>End</Button>}
      </div>
      <ol className="steps" aria-label="Steps">
        {d.steps.map((s, i) => {
          const n = i + 1;
          const state = n < d.currentStep ? "done" : n === d.currentStep ? (d.paused ? "held" : "now") : "";
          return (
            <li key={i} className={state} aria-current={n === d.currentStep ? "step" : undefined}>
              <span className={`step ${state}`} title={s.actions.map((a) => `${a.action} ${a.app ?? a.pod ?? ""}`).join(", ")}>{n < d.currentStep ? "✓" : n}</span>
            </li>
          );
        })}
      </ol>
      <div className="row wrap dim">
        {d.currentActions.map((a, i) => <span key={i}>{a.action.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase()} <b>{a.app ?? a.pod}</b></span>)}
        {app && <span className="num">{good} of {app.instances} good</span>}
      </div>
      {app && <Bar value={good} max={app.instances} label="Instances that are good" tone="health" />}
      {canary.length > 0 && (
        <>
          <h3>Canary</h3>
          <ol className="steps" aria-label="Canary steps">
            {canary.map((pct, i) => {
              const state = i < at ? "done" : i === at ? (d.paused ? "held" : "now") : "";
              return <li key={i} className={state}><span className={`step ${state}`}>{pct} %</span></li>;
            })}
          </ol>
        </>
      )}
      {(why.data?.reasons.length ?? 0) > 0 && (
        <div className="verdict h2">
          <b>Why it is waiting</b>
          {why.data!.reasons.map((r) => <span key={r} className="dim">{r}</span>)}
        </div>
      )}
    </article>
  );
}
