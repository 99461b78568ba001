import { useMemo, useRef, useState, useLayoutEffect } from "react";
import { openNode, usePicture } from "../estate";
import { bytes, metric as formatted, plural } from "../format";
import { setParams, useRoute } from "../router";
import { check, parse } from "../query/parse";
import { match, record } from "../query/match";
import { Bar, Empty, Health, Loading, Pick, Problem } from "../ui/parts";
import { Filter } from "../ui/filter";
import { NoProbes } from "./welcome";

const rowHeight = 72;

interface HostRow {
  id: string;
  name: string;
  minor: string;
  health: number;
  cpu: number;
  used: number;
  mem: number;
  inside: { id: string; label: string; cpu: number; mem: number; health: number }[];
}

/** Hosts as what they have, and containers as what they take of it. */
export function Resources() {
  const { params } = useRoute();
  const at = params.at ? { at: Number(params.at) } : {};
  const hosts = usePicture("hosts", { group: "none", metric: "cpu", size: "mem_used", layout: "grid", ...at });
  const boxes = usePicture("containers", { group: "none", metric: "cpu", size: "mem", layout: "grid", opts: { system: "show" }, ...at });
  const hostMem = usePicture("hosts", { group: "none", metric: "mem", size: "cpu_cores", layout: "grid", ...at });
  const by = params.by ?? "cpu";
  const scroll = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(800);
  useLayoutEffect(() => {
    const o = new ResizeObserver(() => setHeight(scroll.current!.clientHeight));
    o.observe(scroll.current!);
    return () => o.disconnect();
  }, []);

  const rows = useMemo(() => {
    const hp = hosts.feed.current?.picture, bp = boxes.feed.current?.picture, mp = hostMem.feed.current?.picture;
    if (!hp || !bp || !mp) return [] as HostRow[];
    const of = new Map<string, number[]>();
    for (let i = 0; i < bp.count; i++) {
      if (bp.pseudo[i]) continue;
      const host = bp.id[i].split(";")[1];
      const list = of.get(host);
      if (list) list.push(i);
      else of.set(host, [i]);
    }
    const q = params.q && !check(params.q) ? parse(params.q) : null;
    const out: HostRow[] = [];
    for (let i = 0; i < hp.count; i++) {
      if (hp.pseudo[i] || hp.kind[i] !== "host") continue;
      const name = hp.id[i].split(";")[1];
      const cpu = hp.m[i], used = hp.z[i];
      const mem = mp.m[mp.find(hp.id[i])] ?? NaN;
      const inside = (of.get(name) ?? []).map((b) => ({ id: bp.id[b], label: bp.label[b], cpu: bp.m[b] || 0, mem: bp.z[b] || 0, health: bp.health[b] }));
      if (q && !match(q, record({ host: name, name: hp.label[i], label: hp.label[i], health: ["unknown", "ok", "warn", "crit", "stale"][hp.health[i]], cpu, mem, mem_used: used, containers: inside.length }))) continue;
      out.push({ id: hp.id[i], name: hp.label[i], minor: hp.minor[i], health: hp.health[i], cpu, used, mem, inside });
    }
    const key = { cpu: (r: HostRow) => -(r.cpu || 0), mem: (r: HostRow) => -(r.used || 0), name: () => 0 }[by as "cpu"] ?? (() => 0);
    return out.sort((a, b) => key(a) - key(b) || a.name.localeCompare(b.name, "en", { numeric: true }));
    // Pictures are changed in place; versions tell when.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [hosts.version, boxes.version, hostMem.version, params.q, by]);

  const from = Math.max(0, Math.floor(top / rowHeight) - 3);
  const to = Math.min(rows.length, Math.ceil((top + height) / rowHeight) + 3);
  const error = hosts.error || boxes.error || hostMem.error;
  const loaded = hosts.loaded && boxes.loaded && hostMem.loaded;
  const sum = (f: (r: HostRow) => number) => rows.reduce((a, r) => a + (f(r) || 0), 0);
  return (
    <>
      <div className="toolbar">
        <Filter value={params.q ?? ""} onChange={(q) => setParams({ q }, true)} label="Filter hosts" example="mem_used>80%" fields={["host", "health", "cpu", "mem", "mem_used", "containers"]} />
        <Pick label="Busiest first by" value={by} options={[{ id: "cpu", label: "CPU" }, { id: "mem", label: "memory" }, { id: "name", label: "name" }]} onChange={(v) => setParams({ by: v === "cpu" ? "" : v }, true)} />
        <span className="grow" />
        {rows.length > 0 && <span className="dim num">{plural(rows.length, "host")} · {formatted(sum((r) => r.cpu) / rows.length, "percent")} CPU · {formatted(sum((r) => r.used) / rows.length, "percent")} memory · {plural(sum((r) => r.inside.length), "container")}</span>}
      </div>
      <div className="content" ref={scroll} onScroll={(e) => setTop(e.currentTarget.scrollTop)} tabIndex={0} role="region" aria-label="Hosts and what they are used for">
        {error && <Problem error={{ message: error }} />}
        {!loaded && !error && rows.length === 0 && <Loading what="Waiting for the hosts" />}
        {loaded && rows.length === 0 && (params.q ? <Empty icon="search" title="No host matches"><p><code className="mono">{params.q}</code></p></Empty> : <NoProbes what="hosts" view="hosts" />)}
        <div className="hosts" style={{ position: "relative", height: rows.length * rowHeight + 28, display: "block" }}>
          {rows.slice(from, to).map((r, k) => (
            <div key={r.id} className="hostrow" style={{ position: "absolute", top: 14 + (from + k) * rowHeight, left: 16, right: 16, height: rowHeight - 8 }}>
              <button type="button" className="row" onClick={() => openNode(r.id)}>
                <Health value={r.health} />
                <span className="clip">
                  <b>{r.name}</b>
                  <br />
                  <span className="faint">{r.minor} · {plural(r.inside.length, "container")}</span>
                </span>
              </button>
              <Lane name="CPU" value={r.cpu} text={formatted(r.cpu, "percent")} items={r.inside.map((x) => ({ ...x, share: x.cpu, text: formatted(x.cpu, "percent") }))} />
              <Lane name="Memory" value={r.used} text={`${formatted(r.used, "percent")}${Number.isNaN(r.mem) ? "" : `, ${bytes(r.mem)}`}`} items={r.inside.map((x) => ({ ...x, share: r.mem ? (x.mem / r.mem) * r.used : 0, text: bytes(x.mem) }))} />
            </div>
          ))}
        </div>
      </div>
    </>
  );
}

/** One resource of a host: how much is used, and by which containers. */
function Lane({ name, value, text, items }: { name: string; value: number; text: string; items: { id: string; label: string; share: number; text: string; health: number }[] }) {
  const big = items.filter((x) => x.share > 0.15).sort((a, b) => b.share - a.share).slice(0, 40);
  return (
    <div className="lane">
      <div className="row"><span>{name}</span><span>{text}</span></div>
      <div className="segments" role="group" aria-label={`${name} by container`}>
        {big.map((x) => (
          <button type="button" key={x.id} tabIndex={-1} aria-label={`${x.label}: ${x.text}`} title={`${x.label}: ${x.text}`} onClick={() => openNode(x.id)} style={{ width: `${Math.min(100, x.share)}%`, background: x.health === 3 ? "var(--crit)" : x.health === 2 ? "var(--warn)" : `color-mix(in srgb, var(--accent) ${40 + Math.min(50, x.share * 4)}%, var(--surface))` }} />
        ))}
      </div>
      <Bar value={value} label={`${name} of the host`} />
    </div>
  );
}
