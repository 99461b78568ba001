import { useEffect, useRef, useState } from "react";
import { get, may, nodePath } from "../api/client";
import { live } from "../api/live";
import type { Control, Metric, NodeDetail } from "../api/types";
import { openNode, useLoad } from "../estate";
import { ago, bytes, clock, duration, healthNames, metric as formatted, plural, stamp } from "../format";
import { useActions } from "../keys";
import { navigate, route, setParams, useRoute } from "../router";
import { Button, Empty, Health, Item, Loading, Popover, Problem, StateText, copy } from "../ui/parts";
import { Icon } from "../ui/icons";
import { Sparkline } from "../ui/sparkline";
import { control } from "./controls";
import { dock } from "./dock";
import { containerFiles, Files } from "./files";

const icons: Record<string, string> = { stop: "stop", start: "play", restart: "restart", pause: "pause", unpause: "play", kill: "kill", remove: "close", logs: "logs", exec: "shell", attach: "shell", files: "files", "host-exec": "shell", signal: "events" };
const kindPlural: Record<string, string> = { process: "processes" };

/** Everything about one node, beside the page. */
export function Details({ id }: { id: string }) {
  const at = Number(useRoute().params.at) || 0;
  const { data, error, again } = useLoad<NodeDetail>((signal) => get(nodePath(id), signal), 5000, [id]);
  const [tab, setTab] = useState("overview");
  const close = () => setParams({ node: "" });
  const d = data;
  const controls = d?.controls ?? [];
  const has = (c: string) => controls.find((x) => x.id === c && x.allowed);
  useActions(
    [
      { id: "d-logs", keys: ["l"], label: "Logs", section: "Details", run: () => d && has("logs") && dock.logs([id], [d.label]) },
      { id: "d-shell", keys: ["s"], label: "Shell", section: "Details", run: () => d && has("exec") && dock.shell(id, d.label) },
      { id: "d-restart", keys: [], label: `Restart ${d?.label ?? ""}`, section: "Details", run: () => d && has("restart") && act(has("restart")!, d), palette: !!has("restart") },
      { id: "d-stop", keys: [], label: `Stop ${d?.label ?? ""}`, section: "Details", run: () => d && has("stop") && act(has("stop")!, d), palette: !!has("stop") },
    ],
    [d],
  );
  // What was known of a node that is gone would pass for what it is now.
  if (error && (!d || error.status === 404))
    return (
      <aside className="details" aria-label="Details">
        <header><div className="row"><h2 className="grow">{error.status === 404 ? (d?.label ?? "It is gone") : "Details"}</h2><Button small kind="ghost" icon="close" label="Close the details" onClick={close} /></div></header>
        {error.status === 404 ? <Empty icon="kill" title="This node is no longer there"><p>It has ended, or its host has left. {at > 0 ? `The picture shows it as it was at ${clock(at)}; its details are not kept.` : "Go back in time to see it as it was."}</p></Empty> : <Problem error={error} retry={again} />}
      </aside>
    );
  if (!d)
    return (
      <aside className="details" aria-label="Details"><Loading what="Reading" /></aside>
    );
  const tabs = [
    { id: "overview", label: "Overview" },
    ...(d.edges_total ? [{ id: "connections", label: `Links ${d.edges_total}` }] : []),
    ...(d.kind === "container" || d.kind === "host" ? [{ id: "processes", label: "Processes" }, { id: "sockets", label: "Sockets" }] : []),
    ...(has("files") && may("operator") ? [{ id: "files", label: "Files" }] : []),
    ...(d.kind === "container" && may("operator") ? [{ id: "raw", label: "Inspect" }] : []),
  ];
  const shown = tabs.some((t) => t.id === tab) ? tab : "overview";
  return (
    <aside className="details" aria-label={`Details of ${d.label}`}>
      <header>
        <div className="row">
          <span className="chip">{d.kind}</span>
          {d.state && <StateText state={d.state} />}
          {d.since_ms > 0 && <span className="faint" title={stamp(d.since_ms)}>for {duration(d.at - d.since_ms)}</span>}
          <span className="grow" />
          <Button small kind="ghost" icon="link" label="Copy the id" onClick={() => copy(d.id)} />
          <Button small kind="ghost" icon="close" label="Close the details" onClick={close} />
        </div>
        <div>
          <h2>{d.label}</h2>
          {d.minor && <span className="dim">{d.minor}</span>}
        </div>
        <div className="row wrap" style={{ gap: 6 }}>
          <Actions d={d} controls={controls} />
          <Button small icon="focus" onClick={() => navigate("/map", { ...(route.get().path === "/map" ? route.get().params : { view: viewOf(d.kind) }), focus: d.id, hops: "2", node: d.id })}>Focus</Button>
        </div>
        {d.stale && <div className="verdict h4"><span className="row"><Health value={4} text /> last heard {ago(d.at)}</span></div>}
        {!d.stale && d.health !== 1 && (
          <div className={`verdict h${d.health}`}>
            <span className="row"><span className={`h${d.health}`}><Health value={d.health} text /></span></span>
            {d.reasons.map((r) => <span key={r.code} className="dim">{r.text}{r.since_ms > 0 && <span className="faint"> · for {duration(d.at - r.since_ms)}</span>}</span>)}
          </div>
        )}
        {at > 0 && <span className="faint">Figures are those of now; the picture is of the past.</span>}
        {error && <Problem error={{ ...error, message: `This is from ${clock(d.at)}: ${error.message}` }} retry={again} />}
      </header>
      {tabs.length > 1 && (
        <div className="tabs" role="tablist" aria-label="Parts">
          {tabs.map((t) => <button key={t.id} type="button" role="tab" aria-selected={t.id === shown} onClick={() => setTab(t.id)}>{t.label}</button>)}
        </div>
      )}
      <div className="scroll" tabIndex={0} role="region" aria-label="Part shown">
        {shown === "overview" && <Overview d={d} />}
        {shown === "connections" && <Connections d={d} />}
        {shown === "processes" && <Processes id={id} />}
        {shown === "sockets" && <Sockets id={id} />}
        {shown === "files" && <section><Files source={containerFiles(id)} /></section>}
        {shown === "raw" && <Raw id={id} />}
      </div>
    </aside>
  );
}

/** The view in which nodes of a kind are. */
export function viewOf(kind: string): string {
  return { host: "hosts", process: "processes", task: "tasks", app: "apps", framework: "frameworks", agent: "agents", image: "containers-by-image", pod: "pods", controller: "controllers", service: "services" }[kind] ?? "containers";
}

/** Shows all nodes of a kind that have a label, on the map when the page that is open is of other things. */
function withLabel(d: NodeDetail, name: string, value: string) {
  const q = `label.${name}=${/[\s()"]/.test(value) || value === "" ? JSON.stringify(value) : value}`;
  const view = viewOf(d.kind);
  const { path, params } = route.get();
  if ((path === "/map" && (params.view || "containers") === view) || (path === `/${view}` && !params.view)) setParams({ q });
  else navigate("/map", { q, node: d.id, ...(view === "containers" ? {} : { view }) });
}

function act(c: Control, d: NodeDetail, args: Record<string, string> = {}) {
  control(c.id, c.label, [d.id], [d.label], c.danger || c.id === "restart", args);
}

function Actions({ d, controls }: { d: NodeDetail; controls: Control[] }) {
  const first = controls.filter((c) => ["logs", "exec", "host-exec"].includes(c.id));
  const rest = controls.filter((c) => !["logs", "exec", "host-exec", "attach", "files"].includes(c.id));
  return (
    <>
      {first.map((c) => (
        <Button
          key={c.id}
          small
          icon={icons[c.id]}
          disabled={!c.allowed}
          title={c.allowed ? c.label : c.why_not}
          onClick={() => (c.id === "logs" ? dock.logs([d.id], [d.label]) : dock.shell(d.id, d.label))}
        >
          {c.label}
        </Button>
      ))}
      {rest.length > 0 && (
        <Popover small icon="more" label="Actions">
          {(close) =>
            rest.flatMap((c) =>
              c.id === "signal"
                ? ["SIGTERM", "SIGHUP", "SIGKILL"].map((s) => (
                    <Item key={s} icon="events" danger={s === "SIGKILL"} disabled={!c.allowed} note={c.why_not} onPick={() => (close(), act({ ...c, label: `Send ${s} to`, danger: true }, d, { signal: s }))}>{`Send ${s}`}</Item>
                  ))
                : [
                    <Item key={c.id} icon={icons[c.id] ?? "right"} danger={c.danger} disabled={!c.allowed} note={c.why_not} onPick={() => (close(), act(c, d))}>
                      {c.label}
                    </Item>,
                  ],
            )
          }
        </Popover>
      )}
    </>
  );
}

/** A metric's series: 15 seconds apart for the hour, and as they come while one looks. */
function useLive(d: NodeDetail): Record<string, number> {
  const [now, set] = useState<Record<string, number>>({});
  const owner = useRef({});
  useEffect(() => {
    const o = owner.current;
    live.watch(o, [d.id]);
    const off = live.onSeries((_, values) => values[d.id] && set(values[d.id]));
    return () => {
      live.watch(o, []);
      off();
    };
  }, [d.id]);
  return now;
}

const tones: Record<string, string> = { cpu: "accent", mem: "kind-d", net_rx: "kind-a", net_tx: "kind-c", disk_read: "kind-e", disk_write: "kind-f" };

function Overview({ d }: { d: NodeDetail }) {
  const now = useLive(d);
  const [all, setAll] = useState(false);
  const main = d.metrics.filter((m) => ["cpu", "mem", "net_rx", "net_tx", "disk_read", "disk_write", "load1", "disk_used", "fds", "pids", "threads"].includes(m.id));
  const shown = all ? d.metrics : main.slice(0, 6);
  return (
    <>
      {shown.length > 0 && (
        <section aria-label="Metrics">
          <div className="metrics">
            {shown.map((m) => <Chart key={m.id} m={m} now={now[m.id]} />)}
          </div>
          {d.metrics.length > shown.length && <Button small kind="ghost" onClick={() => setAll(true)}>All {d.metrics.length} metrics</Button>}
        </section>
      )}
      {d.parents.length > 0 && (
        <section aria-label="Belongs to">
          <h3>Belongs to</h3>
          <div className="links">{d.parents.map((p) => <LinkTo key={p.id} {...p} end={p.kind} />)}</div>
        </section>
      )}
      {d.children.map((c) => (
        <section key={c.kind} aria-label={c.kind}>
          <header><h3>{kindPlural[c.kind] ?? c.kind + "s"}</h3><span className="faint num">{c.count}</span></header>
          <div className="links">
            {c.items.map((x) => <LinkTo key={x.id} kind={x.kind ?? c.kind} id={x.id} label={x.label} minor={x.minor} health={x.health} end={x.metrics?.cpu !== undefined ? `${formatted(x.metrics.cpu, "percent")}  ${x.metrics.mem ? bytes(x.metrics.mem) : ""}` : (x.state ?? "")} />)}
          </div>
          {c.count > c.items.length && <span className="faint">The {c.items.length} busiest of {c.count}.</span>}
        </section>
      ))}
      {d.metadata.length > 0 && (
        <section aria-label="Facts">
          <h3>Facts</h3>
          <dl className="facts">
            {d.metadata.map((m) => (
              <div key={m.id} style={{ display: "contents" }}>
                <dt>{m.label}</dt>
                <dd>{m.format === "link_node" ? <a href="#" onClick={(e) => (e.preventDefault(), openNode(m.value))}>{m.value}</a> : fact(m.value, m.format)}</dd>
              </div>
            ))}
          </dl>
        </section>
      )}
      {Object.keys(d.labels).length > 0 && (
        <section aria-label="Labels">
          <h3>Labels</h3>
          <div className="labels">
            {Object.entries(d.labels).map(([k, v]) => (
              <button type="button" key={k} className="chip" title="Show all with this label" onClick={() => withLabel(d, k, v)}>
                <span className="faint">{k}</span> {v}
              </button>
            ))}
          </div>
        </section>
      )}
      {d.tables.map((t) => (
        <section key={t.id} aria-label={t.label}>
          <h3>{t.label}</h3>
          <table className="mini">
            <thead><tr>{t.columns.map((c) => <th key={c} scope="col">{c}</th>)}</tr></thead>
            <tbody>{t.rows.slice(0, 100).map((r, i) => <tr key={i}>{r.map((c, k) => <td key={k}>{c}</td>)}</tr>)}</tbody>
          </table>
        </section>
      ))}
    </>
  );
}

function fact(v: string, format: string) {
  const n = Number(v);
  switch (format) {
    case "time":
      return n ? <time title={stamp(n)}>{stamp(n)}</time> : "–";
    case "duration":
      return duration(n);
    case "bytes":
      return bytes(n);
    case "number":
      return <span className="num">{v}</span>;
    default:
      return v.length > 28 || /[/;:]/.test(v) ? <span className="mono">{v}</span> : v;
  }
}

function Chart({ m, now }: { m: Metric; now: number | undefined }) {
  const value = now ?? m.value;
  const first = m.series.v.findIndex((v) => v !== null);
  // A young node's hour is mostly empty: show from a little before its beginning.
  const skip = Math.max(0, Math.min(first < 0 ? 0 : first - 4, m.series.v.length - 40));
  const values = [...m.series.v.slice(skip), value];
  return (
    <div className="metric">
      <div className="row">
        <span className="dim">{m.label}</span>
        <span><b>{formatted(value, m.format)}</b>{m.max > 0 && m.format === "bytes" && <span className="faint"> of {bytes(m.max)}</span>}</span>
      </div>
      <Sparkline from={m.series.from_ms + skip * m.series.step_ms} step={m.series.step_ms} values={values} max={m.format === "bytes" ? 0 : m.id === "cpu" && Math.max(...values.map((v) => v ?? 0)) < 20 ? 0 : m.max} tone={tones[m.id] ?? "accent"} label={`${m.label} over the last hour, now ${formatted(value, m.format)}`} format={(v) => formatted(v, m.format)} />
    </div>
  );
}

function LinkTo({ id, label, minor, health, end }: { kind: string; id: string; label: string; minor?: string; health: number; end?: string }) {
  return (
    <button type="button" className="linkrow" onClick={() => openNode(id)} title={healthNames[health]}>
      <Health value={health} />
      <span className="clip">{label}</span>
      {minor && <span className="faint clip">{minor}</span>}
      {end && <span className="end">{end}</span>}
    </button>
  );
}

function Connections({ d }: { d: NodeDetail }) {
  return (
    <>
      {(["in", "out"] as const).map((dir) => {
        const list = d.edges.filter((e) => e.dir === dir);
        if (!list.length) return null;
        return (
          <section key={dir} aria-label={dir === "in" ? "Who connects here" : "Where it connects to"}>
            <header><h3>{dir === "in" ? "Who connects here" : "Where it connects to"}</h3><span className="faint num">{list.length}</span></header>
            <div className="links">
              {list.map((e, i) => (
                <button type="button" key={i} className="linkrow" onClick={() => openNode(e.peer.id)} title={`seen by ${e.ev}`}>
                  <Icon name={dir === "in" ? "right" : "left"} size={13} />
                  <span className="clip">{e.peer.label}</span>
                  <span className="faint num">{e.proto === "tcp" ? "" : e.proto} :{e.port}</span>
                  <span className="end">
                    {e.fail > 0 && <span className="h3">{e.fail.toFixed(1)} fail/s  </span>}
                    {e.tx + e.rx > 0 && `${bytes(e.tx + e.rx)}/s  `}
                    {e.rtt != null && `${formatted(e.rtt, "ms")}  `}
                    {e.n} open
                  </span>
                </button>
              ))}
            </div>
          </section>
        );
      })}
      {d.edges_total > d.edges.length && <section><span className="faint">The {d.edges.length} largest of {plural(d.edges_total, "connection")}.</span></section>}
    </>
  );
}

function Processes({ id }: { id: string }) {
  const { data, error, again } = useLoad<{ processes: { pid: number; ppid: number; name: string; cmdline: string; user: string; cpu: number; mem: number; threads: number }[]; truncated: boolean }>((s) => get(`${nodePath(id)}/processes`, s), 3000, [id]);
  if (error) return <Problem error={error} retry={again} />;
  if (!data) return <Loading what="Asking the probe" />;
  return (
    <section>
      <table className="mini">
        <thead><tr><th scope="col">PID</th><th scope="col">Command</th><th scope="col" className="right">CPU</th><th scope="col" className="right">Memory</th></tr></thead>
        <tbody>
          {[...data.processes].sort((a, b) => b.cpu - a.cpu || b.mem - a.mem).map((p) => (
            <tr key={p.pid} title={`${p.cmdline}\nuser ${p.user}, parent ${p.ppid}, ${p.threads} threads`}>
              <td className="num">{p.pid}</td>
              <td><b>{p.name}</b> <span className="faint mono">{p.cmdline.slice(0, 90)}</span></td>
              <td className="num right">{formatted(p.cpu, "percent")}</td>
              <td className="num right">{bytes(p.mem)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {data.truncated && <span className="faint">There are more than are shown.</span>}
    </section>
  );
}

function Sockets({ id }: { id: string }) {
  const { data, error, again } = useLoad<{ sockets: { proto: string; local: string; remote: string; state: string; pid: number }[]; truncated: boolean }>((s) => get(`${nodePath(id)}/sockets`, s), 3000, [id]);
  if (error) return <Problem error={error} retry={again} />;
  if (!data) return <Loading what="Asking the probe" />;
  return (
    <section>
      {data.sockets.length === 0 && <p className="faint">No socket is open.</p>}
      <table className="mini">
        <thead><tr><th scope="col">Local</th><th scope="col">Remote</th><th scope="col">State</th></tr></thead>
        <tbody>{data.sockets.slice(0, 500).map((s, i) => <tr key={i}><td className="mono">{s.proto === "tcp" ? "" : s.proto + " "}{s.local}</td><td className="mono">{s.remote}</td><td>{s.state.toLowerCase()}</td></tr>)}</tbody>
      </table>
    </section>
  );
}

function Raw({ id }: { id: string }) {
  const env = useLoad<{ env: { name: string; value: string; masked: boolean }[] }>((s) => get(`${nodePath(id)}/env`, s), 0, [id]);
  const raw = useLoad<{ runtime: string; document: unknown }>((s) => get(`${nodePath(id)}/inspect`, s), 0, [id]);
  return (
    <>
      <section aria-label="Environment">
        <h3>Environment</h3>
        {env.error && <p className="faint">{env.error.message}</p>}
        {!env.data && !env.error && <Loading what="Asking the probe" />}
        {env.data && <table className="mini env"><tbody>{env.data.env.map((e) => <tr key={e.name}><th scope="row" className="mono">{e.name}</th><td className="mono">{e.masked ? <span className="faint">masked</span> : e.value}</td></tr>)}</tbody></table>}
      </section>
      <section aria-label="Runtime's description">
        <h3>{raw.data?.runtime ?? "Runtime"}</h3>
        {raw.error && <p className="faint">{raw.error.message}</p>}
        {raw.data && <pre className="code" tabIndex={0}>{JSON.stringify(raw.data.document, null, 2)}</pre>}
      </section>
    </>
  );
}
