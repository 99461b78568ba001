// Pages about the monitor itself: probes, who may log in, what was done; and ZooKeeper replication where it is watched.

import { useState } from "react";
import { api, get, may, send, type ApiError } from "../api/client";
import type { Probe } from "../api/types";
import { openNode, useLoad } from "../estate";
import { ago, bytes, count, duration, metric, plural, stamp } from "../format";
import { setParams, useRoute } from "../router";
import { Button, Chip, Dialog, Empty, Health, Loading, Problem, toast } from "../ui/parts";
import { Table, type Column } from "../ui/table";
import { Plugins } from "./plugins";
import { Command, NoProbes } from "./welcome";

export default function System({ part }: { part: string }) {
  switch (part) {
    case "access":
      return <Access />;
    case "audit":
      return <Audit />;
    case "plugins":
      return <Plugins />;
    case "zksync":
      return <ZkSync />;
    default:
      return <Probes />;
  }
}

const stateHealth: Record<string, number> = { connected: 1, stale: 2, lost: 3, ok: 1, degraded: 2, off: 4, failed: 3 };

function Probes() {
  const { params } = useRoute();
  const { data, error, again } = useLoad((s) => get<{ probes: Probe[] }>(`${api}/probes`, s), 3000, []);
  const open = data?.probes.find((p) => p.id === params.probe);
  const worst = (p: Probe) => Math.max(0, ...p.collectors.map((c) => ({ failed: 2, degraded: 1 })[c.state] ?? 0));
  const columns: Column<Probe>[] = [
    { id: "host", label: "Host", width: "minmax(150px, 1.4fr)", sort: (p) => p.hostname, cell: (p) => <><Health value={stateHealth[p.state] ?? 0} /><b className="clip" style={{ fontWeight: 500 }}>{p.hostname}</b></> },
    { id: "state", label: "State", width: "110px", sort: (p) => p.state, cell: (p) => <span className="dim">{p.state}</span> },
    { id: "sources", label: "Sources", width: "minmax(190px, 2fr)", sort: worst, cell: (p) => <span className="row clip" style={{ gap: 4 }}>{p.collectors.filter((c) => c.state !== "ok").map((c) => <span key={c.name} title={c.message}><Chip tone={c.state === "failed" ? "crit" : c.state === "degraded" ? "warn" : ""}>{c.name} {c.state}</Chip></span>)}{p.collectors.every((c) => c.state === "ok") && <span className="faint">all ok</span>}</span> },
    { id: "cpu", label: "CPU", width: "80px", align: "right", sort: (p) => p.cpu_percent, cell: (p) => <span className="num">{p.cpu_percent.toFixed(1)} %</span> },
    { id: "mem", label: "Memory", width: "90px", align: "right", sort: (p) => p.memory_bytes, cell: (p) => <span className="num">{bytes(p.memory_bytes)}</span> },
    { id: "lag", label: "Lag", width: "80px", align: "right", sort: (p) => p.lag_ms, cell: (p) => <span className="num">{p.lag_ms} ms</span> },
    { id: "dropped", label: "Dropped", width: "90px", align: "right", sort: (p) => p.dropped, cell: (p) => <span className={`num ${p.dropped ? "h2" : "faint"}`}>{count(p.dropped)}</span> },
    { id: "version", label: "Version", width: "90px", sort: (p) => p.version, cell: (p) => <span className="faint">{p.version}</span> },
    { id: "last", label: "Heard", width: "120px", sort: (p) => p.last_ms, cell: (p) => <span className="faint">{ago(p.last_ms)}</span> },
  ];
  return (
    <div style={{ display: "grid", gridTemplateColumns: open ? "minmax(0,1fr) auto" : "minmax(0,1fr)", flex: 1, minHeight: 0 }}>
      <div className="content fixed">
        {error && <Problem error={error} retry={again} />}
        {!data && !error ? <Loading what="Reading" /> : <Table label="Probes" columns={columns} rows={data?.probes ?? []} id={(p) => p.id} current={params.probe} onOpen={(p) => setParams({ probe: p.id })} sort={{ id: params.sort || "host", desc: params.desc === "1" }} onSort={(s) => setParams({ sort: s.id, desc: s.desc ? "1" : "" }, true)} empty={<NoProbes what="probes" view="hosts" />} />}
      </div>
      {open && (
        <aside className="details" aria-label={`Probe on ${open.hostname}`} style={{ gridColumn: 2 }}>
          <header>
            <div className="row"><Health value={stateHealth[open.state] ?? 0} /><h2 className="grow clip">{open.hostname}</h2><Button small kind="ghost" icon="close" label="Close the probe" onClick={() => setParams({ probe: "" })} /></div>
            <div className="row"><Button small icon="host" onClick={() => openNode(open.host)}>The host</Button></div>
          </header>
          <div className="scroll" tabIndex={0} role="region" aria-label="Part shown">
            <section aria-label="Sources">
              <h3>Where it looks</h3>
              {open.collectors.map((c) => <div key={c.name} className="reason"><Health value={stateHealth[c.state] ?? 0} /><span><b>{c.name}</b> <span className="faint">{c.state}</span>{c.message && <><br /><span className="dim">{c.message}</span></>}</span></div>)}
            </section>
            {open.plugins.length > 0 && <section aria-label="Plugins"><h3>Plugins</h3>{open.plugins.map((c) => <div key={c.id} className="reason"><Health value={stateHealth[c.state] ?? 0} /><span><b>{c.label}</b> <span className="dim">{c.message}</span></span></div>)}</section>}
            <section aria-label="Facts">
              <dl className="facts">
                <dt>It allows</dt><dd>{open.policy.length ? open.policy.join(", ") : "nothing"}</dd>
                <dt>Connected</dt><dd>{ago(open.connected_ms)}</dd>
                <dt>Clock</dt><dd className="num">{open.clock_skew_ms} ms off</dd>
                <dt>Looks every</dt><dd className="num">{duration(open.interval_ms)}</dd>
              </dl>
            </section>
          </div>
        </aside>
      )}
    </div>
  );
}

interface User {
  name: string;
  role: string;
  created_ms: number;
}
interface Token {
  id: string;
  name: string;
  role: string;
  kind: string;
  created_ms: number;
  expires_ms: number;
}

function Access() {
  const users = useLoad((s) => get<{ users: User[] }>(`${api}/users`, s), 0, []);
  const tokens = useLoad((s) => get<{ tokens: Token[] }>(`${api}/tokens`, s), 0, []);
  const [adding, setAdding] = useState<"user" | "token" | null>(null);
  const [secret, setSecret] = useState("");
  if (!may("admin")) return <Empty icon="users" title="For administrators"><p>Users and tokens are shown to administrators only.</p></Empty>;
  const remove = (path: string, again: () => void) => void send("DELETE", path).then(again, (e: ApiError) => toast(e.message, "crit"));
  return (
    <div className="content cards" tabIndex={0} role="region" aria-label="Access" style={{ alignContent: "start" }}>
      {(users.error || tokens.error) && <Problem error={(users.error ?? tokens.error)!} retry={() => (users.again(), tokens.again())} />}
      <div className="card">
        <div className="row"><h2 className="grow">Users</h2><Button small icon="plus" onClick={() => setAdding("user")}>User</Button></div>
        {users.data?.users.length === 0 && <p className="dim">Nobody has a name and password yet; people log in with tokens.</p>}
        <table className="mini"><tbody>{users.data?.users.map((u) => <tr key={u.name}><th scope="row">{u.name}</th><td>{u.role}</td><td className="faint">since {stamp(u.created_ms)}</td><td className="right"><Button small kind="ghost" icon="close" label={`Remove ${u.name}`} onClick={() => remove(`${api}/users/${encodeURIComponent(u.name)}`, users.again)} /></td></tr>)}</tbody></table>
      </div>
      <div className="card">
        <div className="row"><h2 className="grow">Tokens</h2><Button small icon="plus" onClick={() => setAdding("token")}>Token</Button></div>
        {tokens.data?.tokens.length === 0 && <p className="dim">None was made yet. A probe on another host needs one, and so does a script.</p>}
        <table className="mini"><tbody>{tokens.data?.tokens.map((t) => <tr key={t.id}><th scope="row">{t.name}</th><td>{t.kind === "probe" ? "probe" : t.role}</td><td className="faint">since {stamp(t.created_ms)}</td><td className="faint">{t.expires_ms ? `ends ${stamp(t.expires_ms)}` : "does not end"}</td><td className="right"><Button small kind="ghost" icon="close" label={`Remove ${t.name}`} onClick={() => remove(`${api}/tokens/${t.id}`, tokens.again)} /></td></tr>)}</tbody></table>
      </div>
      {adding === "user" && <Add title="New user" onClose={() => setAdding(null)} submit={async (f) => { await send("PUT", `${api}/users/${encodeURIComponent(String(f.get("name")))}`, { role: f.get("role"), password: f.get("password") }); users.again(); }}>
        <label className="field">Name<input type="text" name="name" required pattern="[A-Za-z0-9][A-Za-z0-9._@-]{0,63}" autoComplete="off" /></label>
        <label className="field">Password, at least 8 characters<input type="password" name="password" required minLength={8} maxLength={72} autoComplete="new-password" /></label>
        <label className="field">Role<select name="role" defaultValue="viewer"><option>viewer</option><option>operator</option><option>admin</option></select></label>
      </Add>}
      {adding === "token" && <Add title="New token" onClose={() => setAdding(null)} submit={async (f) => { const role = String(f.get("role")); const r = await send<{ secret: string }>("POST", `${api}/tokens`, { name: f.get("name"), ...(role === "probe" ? { kind: "probe" } : { kind: "user", role }), ttl_seconds: Number(f.get("days")) * 86400 }); setSecret(r.secret); tokens.again(); }}>
        <label className="field">Name, for instance of the host<input type="text" name="name" required pattern="[A-Za-z0-9][A-Za-z0-9._@-]{0,63}" autoComplete="off" /></label>
        <label className="field">For<select name="role" defaultValue="probe"><option value="probe">a probe</option><option>viewer</option><option>operator</option><option>admin</option></select></label>
        <label className="field">Days until it ends; 0: it does not<input type="number" name="days" min={0} max={3650} defaultValue={0} /></label>
      </Add>}
      {secret && <Dialog title="The token's secret" onClose={() => setSecret("")}><div className="body"><p>It is shown this once.</p><Command text={secret} /></div><footer><Button kind="primary" onClick={() => setSecret("")}>Done</Button></footer></Dialog>}
    </div>
  );
}

function Add({ title, children, submit, onClose }: { title: string; children: React.ReactNode; submit: (f: FormData) => Promise<void>; onClose: () => void }) {
  const [error, setError] = useState<ApiError | null>(null);
  return (
    <Dialog title={title} onClose={onClose}>
      <form onSubmit={(e) => (e.preventDefault(), submit(new FormData(e.currentTarget)).then(onClose, setError))} style={{ display: "contents" }}>
        <div className="body">{error && <Problem error={error} />}{children}</div>
        <footer><Button onClick={onClose}>Cancel</Button><button type="submit" className="button primary">Make it</button></footer>
      </form>
    </Dialog>
  );
}

interface AuditEntry {
  seq: number;
  at: number;
  user: string;
  role: string;
  from: string;
  action: string;
  object: string;
  outcome: string;
  detail: string;
  bytes: number;
}

function Audit() {
  const { data, error, again } = useLoad((s) => get<{ entries: AuditEntry[] }>(`${api}/audit?limit=1000`, s), 5000, []);
  const [sort, onSort] = useState({ id: "at", desc: true });
  const columns: Column<AuditEntry>[] = [
    { id: "at", label: "When", width: "160px", sort: (e) => e.seq, cell: (e) => <time className="dim">{stamp(e.at)}</time> },
    { id: "user", label: "Who", width: "minmax(100px, 0.7fr)", sort: (e) => e.user, cell: (e) => <><b className="clip" style={{ fontWeight: 500 }}>{e.user || "–"}</b><span className="faint">{e.role}</span></> },
    { id: "from", label: "From", width: "120px", sort: (e) => e.from, cell: (e) => <span className="faint">{e.from}</span> },
    { id: "action", label: "What", width: "minmax(120px, 1fr)", sort: (e) => e.action, cell: (e) => e.action },
    { id: "object", label: "On", width: "minmax(160px, 1.6fr)", sort: (e) => e.object, cell: (e) => <span className="mono faint clip" title={e.object}>{e.object}</span> },
    { id: "outcome", label: "Result", width: "minmax(120px, 1fr)", sort: (e) => e.outcome, cell: (e) => <><Health value={e.outcome === "ok" || /^2/.test(e.outcome) ? 1 : 3} /><span className="clip" title={e.detail}>{e.outcome} {e.detail}</span></> },
  ];
  return <div className="content fixed">{error && <Problem error={error} retry={again} />}{!data ? !error && <Loading what="Reading" /> : <Table label="Audit log" columns={columns} rows={data.entries} id={(e) => String(e.seq)} sort={sort} onSort={onSort} empty={<Empty icon="audit" title="Nothing yet"><p>Logins, controls, shells and changes of users and tokens are recorded here.</p></Empty>} />}</div>;
}

/** How a link of replication is, as its engine judges it: one that stands by is as good as one that is live, and neither is without its ensembles. */
export function syncHealth(l: Record<string, unknown>): number {
  if (l.error || l.source_error) return 3;
  if (l.phase === "standby") return 1;
  return l.phase === "live" && l.source_quorum !== false && l.target_quorum !== false ? 1 : 2;
}

export function syncValue(key: string, v: unknown): string {
  if (typeof v === "boolean") return v ? "yes" : "no";
  if (typeof v === "number") return !key.endsWith("_ms") ? count(v) : v < 10_000 ? metric(v, "ms") : duration(v);
  return key === "since" && Date.parse(String(v)) > 0 ? stamp(Date.parse(String(v))) : String(v);
}

/** Replication between ZooKeeper ensembles, as its engine tells it. */
function ZkSync() {
  const { data, error, again } = useLoad((s) => get<Record<string, unknown>>(`${api}/proxy/zksync/api/v1/sync/status`, s), 2000, []);
  const conflicts = useLoad((s) => get<unknown[]>(`${api}/proxy/zksync/api/v1/sync/conflicts`, s), 5000, []);
  if (error && !data) return <Problem error={error} retry={again} />;
  if (!data) return <Loading what="Asking the engine" />;
  // Both directions at once tell about each; one direction about itself.
  const links = (data.forward ? [{ name: "Forward", ...(data.forward as object) }, { name: "Back", ...(data.back as object) }] : [data]) as Record<string, unknown>[];
  return (
    <div className="content cards" tabIndex={0} role="region" aria-label="ZooKeeper sync" style={{ alignContent: "start" }}>
      {error && <Problem error={{ ...error, hint: "What is shown is what the engine told last." }} retry={again} />}
      {links.map((l, i) => (
        <article className="card" key={i}>
          <div className="row"><Health value={syncHealth(l)} /><h2>{String(l.name ?? l.path ?? l.source ?? "Replication")}</h2><span className="chip">{String(l.phase ?? l.state ?? "")}</span></div>
          <dl className="facts">
            {Object.entries(l).filter(([k, v]) => v !== null && typeof v !== "object" && v !== "" && k !== "name" && k !== "phase").map(([k, v]) => (
              <div key={k} style={{ display: "contents" }}><dt>{k.replace(/_ms$/, "").replaceAll("_", " ")}</dt><dd className="mono">{syncValue(k, v)}</dd></div>
            ))}
          </dl>
        </article>
      ))}
      <article className="card">
        <h2>{conflicts.data ? plural(conflicts.data.length, "conflict") : "Conflicts"}</h2>
        {!conflicts.data ? <p className="dim">{conflicts.error?.message ?? "Not known yet."}</p> : conflicts.data.length ? <pre className="code" tabIndex={0}>{JSON.stringify(conflicts.data.slice(0, 100), null, 2)}</pre> : <p className="dim">Both sides agree on everything.</p>}
      </article>
    </div>
  );
}
