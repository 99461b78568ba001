import { useEffect, useMemo, useState } from "react";
import { openNode, usePicture, useViewState } from "../estate";
import { metric as formatted } from "../format";
import { degree } from "../graph/picture";
import { useActions } from "../keys";
import { setParams, useRoute } from "../router";
import { Bar, Button, Empty, Health, Loading, Problem, StateText } from "../ui/parts";
import { Table, type Column } from "../ui/table";
import { Bulk, logsOf, present, shellIn } from "./map";
import { ViewBar } from "./viewbar";
import { NoProbes } from "./welcome";

interface Row {
  id: string;
  label: string;
  minor: string;
  kind: string;
  n: number;
  state: string;
  health: number;
  reason: string;
  m: number;
  z: number;
  links: number;
}

const second: Record<string, string> = { hosts: "mem_used", containers: "mem", processes: "mem" };

/** Nodes of a view as a table. */
export function TablePage({ family }: { family: string }) {
  const { params } = useRoute();
  const vs = useViewState(family, { group: "none", size: params.z === "none" ? "" : (params.z ?? second[family] ?? "mem"), layout: "grid", opts: useOpts(family, params) });
  const { feed, error, loaded, version } = usePicture(vs.view, vs.options);
  const [selected, setSelected] = useState<Set<string>>(new Set());
  useEffect(() => setSelected((was) => (was.size ? new Set() : was)), [vs.view]);
  const pic = feed.current?.picture;
  const sort = { id: params.sort || "health", desc: params.desc !== "0" };
  const z = vs.def?.metrics.find((m) => m.id === vs.options.size);

  const rows = useMemo(() => {
    const out: Row[] = [];
    if (!pic) return out;
    for (let i = 0; i < pic.count; i++) {
      if (pic.pseudo[i]) continue;
      out.push({ id: pic.id[i], label: pic.label[i], minor: pic.minor[i], kind: pic.kind[i], n: pic.n[i], state: pic.state[i], health: pic.health[i], reason: pic.reason[i], m: pic.m[i], z: pic.z[i], links: degree(pic, i) });
    }
    return out;
    // The picture is changed in place; version tells when.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [pic, version]);
  const tops = useMemo(() => {
    let m = 0, zz = 0;
    for (const r of rows) {
      if (r.m > m) m = r.m;
      if (r.z > zz) zz = r.z;
    }
    return { m: vs.metric?.max || m, z: z?.max || zz };
  }, [rows, vs.metric, z]);

  const severity = [1, 0, 3, 4, 2];
  const value = (v: number, def: typeof z, top: number) =>
    Number.isNaN(v) ? <span className="faint">–</span> : (
      <span className="barcell">
        <Bar value={v} max={top} label={def!.label} tone={def!.format === "percent" ? undefined : "soft"} />
        <span className="num right">{formatted(v, def!.format)}</span>
      </span>
    );
  const columns: Column<Row>[] = [
    { id: "health", label: "Health", width: "84px", sort: (r) => severity[r.health], text: (r) => ["unknown", "ok", "warn", "crit", "stale"][r.health], cell: (r) => <span title={r.reason}><Health value={r.health} /></span> },
    { id: "label", label: "Name", width: "minmax(170px, 2fr)", sort: (r) => r.label, cell: (r) => <><b className="clip" style={{ fontWeight: 500 }}>{r.label}</b>{r.n > 1 && <span className="chip num">{r.n}</span>}</> },
    { id: "minor", label: family === "hosts" ? "Machine" : family === "processes" ? "PID and place" : "Host", width: "minmax(110px, 1.2fr)", sort: (r) => r.minor, cell: (r) => <span className="dim clip">{r.minor}</span> },
    { id: "state", label: "State", width: "minmax(90px, 0.7fr)", sort: (r) => r.state, cell: (r) => <StateText state={r.state} /> },
    ...(vs.metric ? [{ id: "m", label: vs.metric.label, width: "minmax(150px, 1fr)", align: "right" as const, sort: (r: Row) => r.m, cell: (r: Row) => value(r.m, vs.metric, tops.m) }] : []),
    ...(z ? [{ id: "z", label: z.label, width: "minmax(150px, 1fr)", align: "right" as const, sort: (r: Row) => r.z, cell: (r: Row) => value(r.z, z, tops.z) }] : []),
    { id: "links", label: "Connections", width: "104px", align: "right", sort: (r) => r.links, cell: (r) => <span className="num dim">{r.links}</span> },
    { id: "reason", label: "What is wrong", width: "minmax(160px, 1.6fr)", sort: (r) => r.reason, cell: (r) => <span className="dim clip" title={r.reason}>{r.reason}</span> },
  ];
  const chosen = present(selected, pic);
  const marked = () => (chosen.length ? chosen : vs.node ? [vs.node] : []);
  useActions(
    [
      { id: "t-logs", keys: ["l"], label: "Logs of what is selected or open", section: "Tables", run: () => pic && logsOf(marked(), pic) },
      { id: "t-shell", keys: ["s"], label: "Shell in the open container", section: "Tables", run: () => pic && vs.node && shellIn(vs.node, pic) },
      { id: "t-map", keys: ["m"], label: "Show the same on the map", section: "Tables", run: () => toMap(), palette: true },
      ...(selected.size ? [{ id: "t-clear", keys: ["escape"], label: "Clear the selection", section: "Tables", run: () => setSelected(new Set()) }] : []),
    ],
    [selected, vs.node, pic, params],
  );
  const toMap = () => {
    const { sort: _, desc: __, ...rest } = params;
    history.pushState(null, "", "/map?" + new URLSearchParams({ ...rest, view: vs.view }));
    dispatchEvent(new PopStateEvent("popstate"));
  };
  return (
    <>
      <ViewBar vs={vs} family={family} />
      <div className="content fixed">
        {error && <Problem error={{ message: error }} />}
        {!loaded && !error ? <Loading what="Waiting for the table" /> : (
          <Table
            label={vs.def?.label ?? vs.view}
            columns={columns}
            rows={rows}
            id={(r) => r.id}
            current={vs.node}
            onOpen={(r) => openNode(r.id)}
            selected={selected}
            onSelect={setSelected}
            sort={sort}
            onSort={(s) => setParams({ sort: s.id, desc: s.desc ? "" : "0" }, true)}
            empty={params.q ? <Empty icon="search" title="Nothing matches"><p>Nothing here matches <code className="mono">{params.q}</code>.</p><Button onClick={() => setParams({ q: "" })}>Show everything</Button></Empty> : <NoProbes what={vs.def?.label.toLowerCase() ?? "nodes"} view={vs.view} />}
          />
        )}
        {chosen.length > 0 && pic && <Bulk ids={chosen} pic={pic} clear={() => setSelected(new Set())} />}
      </div>
    </>
  );
}

/** A table of processes shows those without connections too, unless that was chosen otherwise. */
function useOpts(family: string, params: Record<string, string>): Record<string, string> {
  return useMemo(() => {
    const out: Record<string, string> = family === "processes" ? { unconnected: "show" } : {};
    for (const [k, v] of Object.entries(params)) if (k.startsWith("o.")) out[k.slice(2)] = v;
    return out;
  }, [family, params]);
}
