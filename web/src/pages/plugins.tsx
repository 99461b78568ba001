// The plugins of all probes: how each is, what went wrong with it, and what it brings to the map.

import { api, get } from "../api/client";
import { openNode, useLoad, views } from "../estate";
import { navigate, setParams, useRoute } from "../router";
import { Button, Chip, Empty, Health, Loading, Problem } from "../ui/parts";
import { Table, type Column } from "../ui/table";

interface Plugin {
  id: string;
  label: string;
  description: string;
  interfaces: string[];
  state: string;
  message: string;
  probe: string;
  host: string;
  probe_state: string;
}

const stateHealth: Record<string, number> = { ok: 1, degraded: 2, failed: 3, off: 4 };

/** What is known of a plugin whose probe is away is old. */
const health = (p: Plugin) => (p.probe_state === "connected" ? (stateHealth[p.state] ?? 0) : 4);
const hostname = (p: Plugin) => p.host.slice(p.host.indexOf(";") + 1);
const does: Record<string, string> = { reporter: "reports", controller: "acts" };

interface Brought {
  view: string;
  metric: string;
  label: string;
}

/** What nodes of the usual views have of a plugin now: its metrics are named <plugin>.<metric>. */
async function brought(plugin: string, stop: AbortSignal): Promise<Brought[]> {
  const lists = await Promise.all(["hosts", "containers", "processes", "pods"].map(async (view) => {
    const { fields } = await get<{ fields: { name: string; kind: string }[] }>(`${api}/search/fields?view=${view}`, stop);
    return fields.filter((f) => f.kind === "number" && f.name.startsWith(plugin + ".")).map((f) => {
      const def = views.get().find((d) => d.id === view);
      return { view, metric: f.name, label: `${def?.label ?? view}: ${def?.metrics?.find((m) => m.id === f.name)?.label ?? f.name}` };
    });
  }));
  return lists.flat();
}

export function Plugins() {
  const { params } = useRoute();
  const { data, error, again } = useLoad((s) => get<{ plugins: Plugin[] }>(`${api}/plugins`, s), 3000, []);
  const key = (p: Plugin) => `${p.probe} ${p.id}`;
  const open = data?.plugins.find((p) => key(p) === params.plugin);
  const columns: Column<Plugin>[] = [
    { id: "label", label: "Plugin", width: "minmax(150px, 1.2fr)", sort: (p) => p.label || p.id, cell: (p) => <><Health value={health(p)} /><b className="clip" style={{ fontWeight: 500 }}>{p.label || p.id}</b></> },
    { id: "host", label: "Host", width: "minmax(120px, 1fr)", sort: hostname, cell: (p) => <span className="clip">{hostname(p)}</span> },
    { id: "state", label: "State", width: "110px", sort: (p) => p.state, cell: (p) => <span className="dim">{p.state}</span> },
    { id: "does", label: "Does", width: "130px", sort: (p) => p.interfaces.length, cell: (p) => <span className="row" style={{ gap: 4 }}>{p.interfaces.map((i) => <Chip key={i}>{does[i] ?? i}</Chip>)}</span> },
    { id: "message", label: "Last error", width: "minmax(200px, 2.4fr)", sort: (p) => p.message, cell: (p) => <span className="clip dim" title={p.message}>{p.message || "none"}</span> },
  ];
  const brings = useLoad((stop) => (open ? brought(open.id, stop) : Promise.resolve([])), 10_000, [open?.id]).data ?? [];
  return (
    <div style={{ display: "grid", gridTemplateColumns: open ? "minmax(0,1fr) auto" : "minmax(0,1fr)", flex: 1, minHeight: 0 }}>
      <div className="content fixed">
        {error && <Problem error={error} retry={again} />}
        {!data && !error ? <Loading what="Reading" /> : !data?.plugins.length ? (
          <Empty icon="probe" title="No probe has a plugin"><p>A plugin is a program with a socket in <code className="mono">/var/run/scope/plugins</code> on a host with a probe. It appears here by itself.</p></Empty>
        ) : (
          <Table
            label="Plugins" columns={columns} rows={data?.plugins ?? []} id={key} current={params.plugin} onOpen={(p) => setParams({ plugin: key(p) })}
            sort={{ id: params.sort || "label", desc: params.desc === "1" }} onSort={(s) => setParams({ sort: s.id, desc: s.desc ? "1" : "" }, true)}
            empty={null}
          />
        )}
      </div>
      {open && (
        <aside className="details" aria-label={`Plugin ${open.label || open.id}`} style={{ gridColumn: 2 }}>
          <header>
            <div className="row"><Health value={health(open)} /><h2 className="grow clip">{open.label || open.id}</h2><Button small kind="ghost" icon="close" label="Close the plugin" onClick={() => setParams({ plugin: "" })} /></div>
            <div className="row"><Button small icon="host" onClick={() => openNode(open.host)}>Its host</Button></div>
          </header>
          <div className="scroll" tabIndex={0} role="region" aria-label="About the plugin">
            <section aria-label="State">
              <h3>How it is</h3>
              <div className="reason"><Health value={health(open)} /><span><b>{open.state}</b>{open.probe_state !== "connected" && <span className="faint"> when its probe was last heard</span>}{open.message && <><br /><span className="dim">{open.message}</span></>}</span></div>
              {open.description && <p className="dim">{open.description}</p>}
            </section>
            {brings.length > 0 && (
              <section aria-label="What it measures">
                <h3>What it measures</h3>
                <div className="labels">
                  {brings.map((x) => (
                    <button type="button" key={x.view + x.metric} className="chip" title="Show it on the map" onClick={() => navigate("/map", { view: x.view, m: x.metric, colour: "metric" })}>{x.label}</button>
                  ))}
                </div>
              </section>
            )}
            <section aria-label="Facts">
              <dl className="facts">
                <dt>Id</dt><dd className="mono">{open.id}</dd>
                <dt>Probe</dt><dd>{open.probe}</dd>
                <dt>It</dt><dd>{open.interfaces.map((i) => does[i] ?? i).join(" and ") || "has not said"}</dd>
              </dl>
            </section>
          </div>
        </aside>
      )}
    </div>
  );
}
