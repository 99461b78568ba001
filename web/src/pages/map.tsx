import { useCallback, useEffect, useRef, useState, type PointerEvent as ReactPointer } from "react";
import { api, may, request, type ApiError } from "../api/client";
import type { Feed } from "../api/live";
import type { MetricDef } from "../api/types";
import { openNode, usePicture, useViewState, type ViewState } from "../estate";
import { healthNames, metric as formatted, plural } from "../format";
import { within } from "../graph/grid";
import { degree, neighbours, type Picture } from "../graph/picture";
import { Renderer } from "../graph/renderer";
import { useActions } from "../keys";
import { withHealth } from "../query/narrow";
import { setParams, useRoute } from "../router";
import { useStore } from "../store";
import { theme } from "../theme";
import { Button, Empty, Health, Loading, Problem, save, toast } from "../ui/parts";
import { control } from "./controls";
import { dock } from "./dock";
import { Outline, walk } from "./outline";
import { ViewBar } from "./viewbar";
import { NoProbes } from "./welcome";

export function MapPage() {
  const vs = useViewState("containers");
  const { params } = useRoute();
  const look = useStore(theme);
  const host = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const renderer = useRef<Renderer | null>(null);
  const [selected, setSelected] = useState<Set<string>>(new Set());
  const [cursor, setCursor] = useState("");
  const [lassoing, setLassoing] = useState(false);
  const [outline, setOutline] = useState(false);
  const [tip, setTip] = useState<{ x: number; y: number; node: number; edge: number } | null>(null);
  const [said, setSaid] = useState("");
  const fitted = useRef("");
  const frameKey = JSON.stringify([vs.view, { ...vs.options, metric: "", size: "", flows: false, find: "", at: 0 }]);

  const changed = useCallback(
    (feed: Feed, kind: "frame" | "diff") => {
      const r = renderer.current;
      if (!r) return;
      r.picture = feed.picture;
      if (feed.picture.view === vs.view && feed.picture.count > 0) {
        // Another view is shown whole; the same one stays where its reader has moved it.
        const first = fitted.current === "";
        if (first || (kind === "frame" && fitted.current !== frameKey)) {
          fitted.current = frameKey;
          r.fit(!first);
        } else r.settle();
      }
      if (kind === "frame") r.drawNow();
      else r.invalidate();
    },
    // The key holds the view.
    // eslint-disable-next-line react-hooks/exhaustive-deps
    [frameKey],
  );
  const { feed, error, loaded, version } = usePicture(vs.view, vs.options, changed);
  const pic = feed.current?.picture;
  const chosen = present(selected, pic);

  useEffect(() => {
    const r = new Renderer(canvas.current!);
    renderer.current = r;
    r.onComplete = () => {
      // Once: a page that is open for days must not note each.
      if (performance.getEntriesByName("first-complete-frame").length === 0) performance.mark("first-complete-frame");
      canvas.current!.dataset.drawn = `${r.picture.count}/${r.picture.edges}`;
    };
    const o = new ResizeObserver((list) => r.resize(list[0].contentRect.width, list[0].contentRect.height));
    o.observe(host.current!);
    const wheel = (e: WheelEvent) => {
      e.preventDefault();
      const b = host.current!.getBoundingClientRect();
      if (e.ctrlKey || !e.shiftKey) r.zoom(Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0016) * (e.ctrlKey ? 4 : 1)), e.clientX - b.left, e.clientY - b.top);
      else r.pan(-e.deltaX - e.deltaY, 0);
    };
    // What lies on the map, such as its list, is scrolled.
    const el = canvas.current!.parentElement!;
    el.addEventListener("wheel", wheel, { passive: false });
    (window as unknown as { mapRenderer: Renderer }).mapRenderer = r;
    return () => {
      o.disconnect();
      el.removeEventListener("wheel", wheel);
      r.destroy();
    };
  }, []);
  useEffect(() => renderer.current?.themeChanged(), [look]);
  // What is selected in one view is not there in another: nobody should stop what they no longer see.
  useEffect(() => setSelected((was) => (was.size ? new Set() : was)), [vs.view]);
  useEffect(() => {
    renderer.current?.setLook({ colour: vs.colour, metricMax: vs.metric?.max ?? 0, sized: !!vs.options.size, flows: !!vs.options.flows });
  }, [vs.colour, vs.metric, vs.options.size, vs.options.flows]);
  useEffect(() => {
    const r = renderer.current!;
    r.selected = selected.size ? selected : new Set(vs.node ? [vs.node] : []);
    r.cursor = cursor;
    r.invalidate();
  }, [selected, vs.node, cursor, version]);
  useEffect(() => {
    const r = renderer.current!;
    const i = r.picture.find(vs.node);
    if (vs.node && i >= 0) r.reveal(i);
    if (vs.node) setCursor(vs.node);
    // Only when another node is opened, or when its picture has come.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [vs.node, loaded]);

  const say = (i: number) => pic && i >= 0 && setSaid(describe(pic, i, vs));
  const moveTo = (i: number) => {
    if (!pic || i < 0) return;
    setCursor(pic.id[i]);
    renderer.current!.hover = -1;
    renderer.current!.reveal(i);
    say(i);
  };
  const current = () => (pic ? pic.find(cursor || vs.node) : -1);
  const open = (i: number) => {
    if (!pic || i < 0) return;
    if (pic.kind[i] === "group") expand(pic.id[i]);
    else openNode(pic.id[i]);
  };
  const expanded = vs.options.expand ?? [];
  const expand = (id: string) => setParams({ expand: (expanded.includes(id) ? expanded.filter((x) => x !== id) : [...expanded, id]).join("\n") });

  // Pointer

  const drag = useRef<{ x: number; y: number; moved: boolean; lasso: boolean } | null>(null);
  const place = (e: ReactPointer) => {
    const b = host.current!.getBoundingClientRect();
    return [e.clientX - b.left, e.clientY - b.top] as const;
  };
  // Fingers on the map: two of them zoom and pan, and are no drag.
  const fingers = useRef(new Map<number, readonly [number, number]>());
  const pinch = (e: ReactPointer) => {
    const was = [...fingers.current.values()];
    fingers.current.set(e.pointerId, place(e));
    const now = [...fingers.current.values()];
    const middle = (p: typeof now) => [(p[0][0] + p[1][0]) / 2, (p[0][1] + p[1][1]) / 2];
    const apart = (p: typeof now) => Math.hypot(p[0][0] - p[1][0], p[0][1] - p[1][1]) || 1;
    const [wx, wy] = middle(was), [x, y] = middle(now);
    renderer.current!.pan(x - wx, y - wy);
    renderer.current!.zoom(apart(now) / apart(was), x, y);
  };
  const lift = (e: ReactPointer) => {
    fingers.current.delete(e.pointerId);
    if (e.type !== "pointerup") drag.current = null;
  };
  const down = (e: ReactPointer) => {
    if (e.button !== 0) return;
    const [x, y] = place(e);
    if (e.pointerType === "touch") {
      fingers.current.set(e.pointerId, [x, y]);
      if (fingers.current.size > 1) {
        drag.current = null;
        renderer.current!.lasso = [];
        return;
      }
    }
    drag.current = { x, y, moved: false, lasso: lassoing || e.shiftKey };
    e.currentTarget.setPointerCapture(e.pointerId);
    if (drag.current.lasso) renderer.current!.lasso = [[x, y]];
  };
  const move = (e: ReactPointer) => {
    const r = renderer.current!;
    const [x, y] = place(e);
    const d = drag.current;
    if (fingers.current.has(e.pointerId)) {
      if (fingers.current.size === 2) return pinch(e);
      fingers.current.set(e.pointerId, [x, y]);
    }
    if (d) {
      if (!d.moved && Math.hypot(x - d.x, y - d.y) < 4) return;
      if (!d.moved) setTip(null);
      d.moved = true;
      if (d.lasso) r.lasso.push([x, y]);
      else {
        r.hover = -1;
        r.pan(x - d.x, y - d.y);
        d.x = x;
        d.y = y;
      }
      r.invalidate();
      return;
    }
    const node = r.nodeAt(x, y);
    const edge = node < 0 ? r.edgeAt(x, y) : -1;
    if (node !== r.hover || edge !== r.hoverEdge) {
      r.hover = node;
      r.hoverEdge = edge;
      r.invalidate();
    }
    if (node >= 0 || edge >= 0) setTip({ x, y, node, edge });
    else if (tip) setTip(null);
  };
  const up = (e: ReactPointer) => {
    const d = drag.current;
    lift(e);
    drag.current = null;
    const r = renderer.current!;
    if (!d || !pic) return;
    if (d.lasso && d.moved) {
      const ids = within(pic, r.lasso.map(([x, y]) => r.toWorld(x, y))).filter((i) => !pic.pseudo[i]).map((i) => pic.id[i]);
      r.lasso = [];
      setLassoing(false);
      setSelected(new Set(e.ctrlKey || e.metaKey ? [...selected, ...ids] : ids));
      r.invalidate();
      return;
    }
    r.lasso = [];
    if (d.moved) return;
    const [x, y] = place(e);
    const i = r.nodeAt(x, y);
    if (i < 0) {
      const box = r.boxAt(x, y);
      if (box) return expand(box);
      setSelected(new Set());
      if (vs.node) setParams({ node: "" });
      return;
    }
    setCursor(pic.id[i]);
    if (e.ctrlKey || e.metaKey) {
      const next = new Set(selected);
      if (!next.delete(pic.id[i])) next.add(pic.id[i]);
      setSelected(next);
    } else {
      setSelected(new Set());
      openNode(pic.id[i]);
    }
  };

  // Keyboard

  const arrow = (dx: number, dy: number) => () => pic && moveTo(walk(pic, current(), dx, dy));
  const step = (by: number) => () => {
    if (!pic || pic.count === 0) return;
    const order = Array.from({ length: pic.count }, (_, i) => i).sort((a, b) => pic.ty[a] - pic.ty[b] || pic.tx[a] - pic.tx[b]);
    moveTo(order[(order.indexOf(current()) + by + order.length) % order.length]);
  };
  const metrics = vs.def?.metrics ?? [];
  const cycle = (by: number) => () => metrics.length && setParams({ m: metrics[(metrics.findIndex((m) => m.id === vs.metric?.id) + by + metrics.length) % metrics.length].id, colour: "metric" });
  const focusOn = (id: string) => setParams({ focus: id, hops: params.hops || "2" });
  useActions(
    [
      { id: "map-right", keys: ["arrowright"], label: "Walk along a connection", section: "Map", run: arrow(1, 0) },
      { id: "map-left", keys: ["arrowleft"], label: "Walk along a connection", section: "Map", run: arrow(-1, 0) },
      { id: "map-up", keys: ["arrowup"], label: "Walk along a connection", section: "Map", run: arrow(0, -1) },
      { id: "map-down", keys: ["arrowdown"], label: "Walk along a connection", section: "Map", run: arrow(0, 1) },
      { id: "map-next", keys: ["n"], label: "Next node", section: "Map", run: step(1) },
      { id: "map-prev", keys: ["p"], label: "Previous node", section: "Map", run: step(-1) },
      { id: "map-open", keys: ["enter"], label: "Open", section: "Map", run: () => open(current()) },
      { id: "map-fit", keys: ["0"], label: "Fit everything in", section: "Map", run: () => renderer.current!.fit(), palette: true },
      { id: "map-in", keys: ["+", "="], label: "Zoom in", section: "Map", run: () => renderer.current!.zoom(1.35) },
      { id: "map-out", keys: ["-"], label: "Zoom out", section: "Map", run: () => renderer.current!.zoom(1 / 1.35) },
      { id: "map-centre", keys: ["c"], label: "Centre on the marked node", section: "Map", run: () => current() >= 0 && renderer.current!.centre(current()) },
      { id: "map-focus", keys: ["f"], label: "Only the marked node and its neighbours", section: "Map", run: () => (params.focus ? setParams({ focus: "", hops: "" }) : current() >= 0 && focusOn(pic!.id[current()])) },
      { id: "map-expand", keys: ["x"], label: "Open or close the marked group", section: "Map", run: () => pic && current() >= 0 && pic.kind[current()] === "group" && expand(pic.id[current()]) },
      { id: "map-select", keys: ["space"], label: "Select the marked node", section: "Map", run: () => pic && current() >= 0 && toggle(pic.id[current()]) },
      { id: "map-metric", keys: [">"], label: "Next metric", section: "Map", run: cycle(1) },
      { id: "map-metric-back", keys: ["<"], label: "Previous metric", section: "Map", run: cycle(-1) },
      { id: "map-logs", keys: ["l"], label: "Logs of what is marked or selected", section: "Map", run: () => pic && logsOf(chosen.length ? chosen : current() >= 0 ? [pic.id[current()]] : [], pic) },
      { id: "map-shell", keys: ["s"], label: "Shell in the marked container", section: "Map", run: () => pic && current() >= 0 && shellIn(pic.id[current()], pic) },
      { id: "map-outline", keys: ["o"], label: "The map as a list", section: "Map", run: () => setOutline((v) => !v), palette: true },
      { id: "map-lasso", keys: ["w"], label: "Lasso", section: "Map", run: () => setLassoing((v) => !v), palette: true },
      { id: "map-flows", keys: ["v"], label: "Show flows", section: "Map", run: () => setParams({ flows: params.flows ? "" : "1" }, true), palette: true },
      { id: "map-png", keys: [], label: "Save the map as PNG", section: "Map", run: () => void png(), palette: true },
      { id: "map-csv", keys: [], label: "Save the nodes as CSV", section: "Map", run: () => csvOf(vs), palette: true },
      ...(selected.size ? [{ id: "map-clear", keys: ["escape"], label: "Clear the selection", section: "Map", run: () => setSelected(new Set()) }] : []),
    ],
    // They close over what is shown.
    [version, cursor, selected, vs, params],
  );
  const toggle = (id: string) => {
    const next = new Set(selected);
    if (!next.delete(id)) next.add(id);
    setSelected(next);
  };
  const png = async () => {
    const blob = await renderer.current!.png();
    if (blob) save(`map-${vs.view.replace(/[^\w.-]/g, "-")}.png`, blob);
    else toast("The browser could not make a picture of the map", "crit");
  };

  // The numbers are of what is shown: choosing one narrows that down, choosing it again goes back.
  const health = (name: string) => setParams({ q: withHealth(params.q ?? "", name) });
  const t = pic?.totals;
  return (
    <>
      <ViewBar vs={vs} map />
      <div className="map" ref={host}>
        <div
          className={`surface ${lassoing ? "lasso" : tip && tip.node >= 0 ? "pointing" : ""}`}
          role="application"
          aria-roledescription="map"
          aria-label={`Map of ${vs.def?.label.toLowerCase() ?? vs.view}: ${t ? `${plural(t.nodes, "node")}, ${plural(t.edges, "connection")}` : "loading"}`}
          aria-describedby="map-how"
          tabIndex={0}
          onPointerDown={down}
          onPointerMove={move}
          onPointerUp={up}
          onPointerCancel={lift}
          onPointerLeave={() => {
            setTip(null);
            renderer.current!.hover = renderer.current!.hoverEdge = -1;
            renderer.current!.invalidate();
          }}
          onDoubleClick={(e) => {
            const b = host.current!.getBoundingClientRect();
            open(renderer.current!.nodeAt(e.clientX - b.left, e.clientY - b.top));
          }}
        >
          <canvas ref={canvas} aria-hidden="true" />
        </div>
        <p id="map-how" hidden>Arrow keys walk along connections, N and P go through all nodes, Enter opens, O shows the map as a list.</p>
        <p className="sr-only" role="status" aria-live="polite">{said}</p>
        {pic && loaded && <Outline pic={pic} version={version} shown={outline} cursor={cursor} onGo={moveTo} onOpen={open} onClose={() => setOutline(false)} vs={vs} />}
        {error && <Problem error={{ message: error }} />}
        {!loaded && !error && <Loading what="Waiting for the picture" />}
        {loaded && pic && pic.count === 0 && (params.q || params.focus ? <Empty icon="search" title="Nothing matches">
          <p>No {vs.def?.label.toLowerCase()} match {params.focus ? "this focus" : <code className="mono">{params.q}</code>}.</p>
          <Button onClick={() => setParams({ q: "", focus: "", hops: "" })}>Show everything</Button>
        </Empty> : <NoProbes what={vs.def?.label.toLowerCase() ?? "nodes"} view={vs.view} />)}
        {tip && pic && <Tip pic={pic} tip={tip} vs={vs} width={host.current?.clientWidth ?? 0} height={host.current?.clientHeight ?? 0} />}
        {chosen.length > 0 && pic ? (
          <Bulk ids={chosen} pic={pic} clear={() => setSelected(new Set())} />
        ) : (
          t && loaded && pic!.count > 0 && (
            <div className="float health-strip" role="group" aria-label="Health">
              {t.crit > 0 && <button type="button" onClick={() => health("crit")} title="Show only these"><Health value={3} />{t.crit} critical</button>}
              {t.warn > 0 && <button type="button" onClick={() => health("warn")} title="Show only these"><Health value={2} />{t.warn} warning</button>}
              {t.stale > 0 && <button type="button" onClick={() => health("stale")} title="Show only these"><Health value={4} />{t.stale} stale</button>}
              <button type="button" onClick={() => health("ok")} title="Show only these"><Health value={1} />{t.ok.toLocaleString("en-GB")} ok</button>
              <span className="sep" />
              <span className="legend">
                {plural(t.nodes, "node")} · {plural(t.edges, "connection")}
                {t.hidden_nodes + t.hidden_edges > 0 && <span className="h2"> · {(t.hidden_nodes + t.hidden_edges).toLocaleString("en-GB")} more not shown</span>}
              </span>
              {vs.metric && <span className="legend">{vs.metric.label} 0 <span className="ramp" aria-hidden="true" /> {formatted(scale(pic!, vs.metric), vs.metric.format)}</span>}
            </div>
          )
        )}
        <div className="float tools" role="group" aria-label="Map tools">
          <Button kind="ghost" icon="plus" label="Zoom in" onClick={() => renderer.current!.zoom(1.35)} />
          <Button kind="ghost" icon="minus" label="Zoom out" onClick={() => renderer.current!.zoom(1 / 1.35)} />
          <Button kind="ghost" icon="fit" label="Fit everything in" onClick={() => renderer.current!.fit()} />
          <Button kind="ghost" icon="lasso" label="Lasso" aria-pressed={lassoing} onClick={() => setLassoing(!lassoing)} />
          <Button kind="ghost" icon="flows" label="Show flows" aria-pressed={!!params.flows} onClick={() => setParams({ flows: params.flows ? "" : "1" }, true)} />
          <Button kind="ghost" icon="list" label="The map as a list" aria-pressed={outline} onClick={() => setOutline(!outline)} />
          <Button kind="ghost" icon="image" label="Save as PNG" onClick={() => void png()} />
        </div>
      </div>
    </>
  );
}

/** The value at the upper end of the colours: what one can have, or the most that is seen. */
function scale(p: Picture, m: MetricDef): number {
  let top = m.max;
  if (p.metric === m.id) for (let i = 0; i < p.count; i++) if (p.m[i] > top) top = p.m[i];
  return top;
}

export function describe(p: Picture, i: number, vs: ViewState): string {
  const parts = [p.label[i], p.kind[i], p.n[i] > 1 ? `stands for ${p.n[i]}` : p.minor[i], p.state[i], healthNames[p.health[i]], p.reason[i]];
  if (vs.metric && !Number.isNaN(p.m[i])) parts.push(`${vs.metric.label} ${formatted(p.m[i], vs.metric.format)}`);
  parts.push(plural(degree(p, i), "connection"));
  return parts.filter(Boolean).join(", ");
}

function Tip({ pic, tip, vs, width, height }: { pic: Picture; tip: { x: number; y: number; node: number; edge: number }; vs: ViewState; width: number; height: number }) {
  const style = { ...(tip.x > width - 350 ? { right: width - tip.x + 14 } : { left: tip.x + 16 }), ...(tip.y > height - 150 ? { bottom: height - tip.y + 12 } : { top: tip.y + 14 }) };
  if (tip.node >= 0 && tip.node < pic.count) {
    const i = tip.node;
    return (
      <div className="tip" style={style} aria-hidden="true">
        <b>{pic.label[i]}</b>
        <span className="dim">{pic.kind[i]}{pic.minor[i] && ` · ${pic.minor[i]}`}</span>
        {pic.health[i] > 0 && <span className="row"><Health value={pic.health[i]} text />{pic.reason[i] && <span className="dim">{pic.reason[i]}</span>}</span>}
        {vs.metric && !Number.isNaN(pic.m[i]) && <span>{vs.metric.label} <b>{formatted(pic.m[i], vs.metric.format)}</b></span>}
        {vs.size && !Number.isNaN(pic.z[i]) && <span>{vs.size.label} <b>{formatted(pic.z[i], vs.size.format)}</b></span>}
        <span className="faint">{plural(neighbours(pic, i).length, "neighbour")}</span>
      </div>
    );
  }
  if (tip.edge < 0 || tip.edge >= pic.edges) return null;
  const e = tip.edge;
  const l = pic.link;
  return (
    <div className="tip" style={style} aria-hidden="true">
      <b>{pic.label[l.s[e]]} → {pic.label[l.d[e]]}</b>
      <span className="dim">{pic.proto[e]}{pic.port[e] ? ` port ${pic.port[e]}` : ", several ports"} · {plural(pic.en[e], "connection")} open</span>
      {(pic.etx[e] > 0 || pic.erx[e] > 0) && <span>{formatted(pic.etx[e], "bytes_per_second")} there, {formatted(pic.erx[e], "bytes_per_second")} back</span>}
      {!Number.isNaN(pic.rtt[e]) && <span>round trip {formatted(pic.rtt[e], "ms")}</span>}
      {pic.fail[e] > 0 && <span className="h3">{pic.fail[e].toFixed(1)} failed connects a second</span>}
      <span className="faint">seen by {pic.ev[e] === "both" ? "both ends" : `the ${pic.ev[e]}`}</span>
    </div>
  );
}

/** Those of the selected that are still shown: nothing is done to what nobody sees. */
export function present(selected: ReadonlySet<string>, pic: Picture | undefined): string[] {
  return [...selected].filter((id) => pic && pic.find(id) >= 0);
}

export function logsOf(ids: string[], pic: Picture) {
  const list = ids.filter((id) => ["container", "pod", "task"].includes(pic.kind[pic.find(id)])).slice(0, 20);
  if (!list.length) return toast("Only containers, pods and tasks have logs", "crit");
  dock.logs(list, list.map((id) => pic.label[pic.find(id)]));
}

/** Opens a shell where there is one. A host's is opened in its details, where it says so. */
export function shellIn(id: string, pic: Picture) {
  const i = pic.find(id);
  if (i < 0 || !["container", "task"].includes(pic.kind[i])) return toast("Only containers and tasks have a shell", "crit");
  dock.shell(id, pic.label[i]);
}

export function Bulk({ ids, pic, clear }: { ids: string[]; pic: Picture; clear: () => void }) {
  const names = ids.map((id) => pic.label[pic.find(id)] ?? id);
  const operator = may("operator");
  return (
    <div className="bulk" role="group" aria-label="With the selected">
      {ids.length} selected
      <Button small icon="logs" onClick={() => logsOf(ids, pic)}>Logs</Button>
      {operator && (
        <>
          <Button small icon="restart" onClick={() => control("restart", "Restart", ids, names, true)}>Restart</Button>
          <Button small icon="stop" onClick={() => control("stop", "Stop", ids, names, true)}>Stop</Button>
          <Button small icon="kill" kind="danger" onClick={() => control("kill", "Kill", ids, names, true)}>Kill</Button>
        </>
      )}
      <Button small kind="ghost" icon="close" label="Clear the selection" onClick={clear} />
    </div>
  );
}

/** The monitor's own export of the view: all its nodes, not only those that are drawn. */
export function csvOf(vs: ViewState) {
  const o = vs.options;
  const q = new URLSearchParams({ view: vs.view, q: o.q ?? "", group: o.group ?? "auto", metric: o.metric ?? "", size: o.size ?? "", format: "csv" });
  if (o.focus) {
    q.set("focus", o.focus);
    q.set("hops", String(o.hops ?? 1));
  }
  for (const id of o.expand ?? []) q.append("expand", id);
  for (const [k, v] of Object.entries(o.opts ?? {})) q.set("opt." + k, v);
  if (o.at) q.set("at", String(o.at));
  request("GET", `${api}/topology?${q}`).then(async (r) => save(`${vs.view.replace(/[^\w.-]/g, "-")}.csv`, await r.blob()), (e: ApiError) => toast(`The export failed: ${e.message}`, "crit"));
}

