import { describe, expect, test } from "vitest";
import { Grid, inDirection, nearestEdge, within } from "../src/graph/grid";
import { degree, Gap, neighbours, Picture, type Diff, type EdgeColumns, type Frame, type NodeColumns } from "../src/graph/picture";

type NodeRow = { h: number; id: string; x?: number; y?: number; m?: number | null; label?: string; health?: number };

function nodeColumns(rows: NodeRow[]): NodeColumns {
  return {
    h: rows.map((r) => r.h), id: rows.map((r) => r.id), label: rows.map((r) => r.label ?? r.id), minor: rows.map(() => ""), kind: rows.map(() => "container"),
    shape: rows.map(() => "hexagon"), n: rows.map(() => 1), state: rows.map(() => "running"), health: rows.map((r) => r.health ?? 1), reason: rows.map(() => ""),
    box: rows.map(() => 0), x: rows.map((r) => r.x ?? 0), y: rows.map((r) => r.y ?? 0), m: rows.map((r) => r.m ?? null), z: rows.map(() => null),
    pseudo: rows.map(() => 0), hit: rows.map(() => 0),
  };
}

function edgeColumns(rows: [h: number, s: number, d: number][]): EdgeColumns {
  return {
    h: rows.map((r) => r[0]), s: rows.map((r) => r[1]), d: rows.map((r) => r[2]), n: rows.map(() => 1), port: rows.map(() => 80), proto: rows.map(() => "tcp"),
    tx: rows.map(() => 0), rx: rows.map(() => 0), fail: rows.map(() => 0), rtt: rows.map(() => null), ev: rows.map(() => "both"),
  };
}

const totals = { nodes: 3, edges: 2, hidden_nodes: 0, hidden_edges: 0, ok: 3, warn: 0, crit: 0, stale: 0 };

function frame(nodes: NodeRow[], edges: [number, number, number][]): Frame {
  return {
    type: "frame", sub: 1, view: "containers", rev: 1, at: 1, live: true, group: "none", layout: "force", metric: "cpu", size: "", totals,
    nodes: nodeColumns(nodes), edges: edgeColumns(edges), boxes: [],
  };
}

const start = () => {
  const p = new Picture();
  p.frame(frame([{ h: 1, id: "a", x: 0, y: 0, m: 5 }, { h: 2, id: "b", x: 100, y: 0 }, { h: 3, id: "c", x: 0, y: 100 }], [[10, 1, 2], [11, 2, 3]]));
  return p;
};
const diff = (d: Partial<Diff>): Diff => ({ type: "diff", sub: 1, rev: 2, at: 2, ...d });

describe("diffs", () => {
  test("a frame fills it", () => {
    const p = start();
    expect([p.count, p.edges, p.find("b"), p.slot(3), p.m[0]]).toEqual([3, 2, 1, 2, 5]);
    expect(Number.isNaN(p.m[1])).toBe(true);
    expect(neighbours(p, 1).sort()).toEqual([0, 2]);
  });
  test("a gap is told", () => expect(() => start().diff(diff({ rev: 3 }))).toThrow(Gap));
  test("a node that goes is replaced by the last one", () => {
    const p = start();
    p.diff(diff({ gone: { nodes: [1], edges: [10] } }));
    expect([p.count, p.edges, p.find("a"), p.id[p.find("c")], p.slot(1)]).toEqual([2, 1, -1, "c", -1]);
    expect(neighbours(p, p.find("b"))).toEqual([p.find("c")]);
    expect(p.label).toEqual(["c", "b"]);
  });
  test("nodes and edges come, and grow beyond what was reserved", () => {
    const p = start();
    const rows: NodeRow[] = [];
    const edges: [number, number, number][] = [];
    for (let i = 0; i < 500; i++) {
      rows.push({ h: 100 + i, id: "n" + i, x: i, y: i });
      edges.push([1000 + i, 1, 100 + i]);
    }
    p.diff(diff({ nodes: nodeColumns(rows), edges: edgeColumns(edges) }));
    expect([p.count, p.edges, degree(p, 0), p.find("n499")]).toEqual([503, 502, 501, 502]);
    expect(p.x[p.find("n7")]).toBe(7);
  });
  test("a changed row keeps its place until it glides", () => {
    const p = start();
    p.diff(diff({ nodes: nodeColumns([{ h: 2, id: "b", x: 200, y: 0, label: "B", health: 3 }]) }));
    expect([p.label[1], p.health[1], p.x[1], p.tx[1], p.moving]).toEqual(["B", 3, 100, 200, true]);
    p.glide(0.5);
    expect([p.x[1], p.moving]).toEqual([150, true]);
    p.glide(1);
    expect([p.x[1], p.moving]).toEqual([200, false]);
  });
  test("values and places alone", () => {
    const p = start();
    const before = p.structure;
    p.diff(diff({ values: { h: [1, 99], m: [7, 1], z: [null, 1] }, moved: { h: [3], x: [9], y: [9] } }));
    expect([p.m[0], p.tx[2], p.structure]).toEqual([7, 9, before]);
  });
  test("a new frame of the same view starts from where nodes were", () => {
    const p = start();
    p.frame({ ...frame([{ h: 1, id: "b", x: 0, y: 0 }, { h: 2, id: "new", x: 5, y: 5 }], []), rev: 9 });
    expect([p.x[0], p.tx[0], p.x[1], p.moving, p.count]).toEqual([100, 0, 5, true, 2]);
  });
  test("random histories leave what a fresh frame would", () => {
    let seed = 7;
    const rand = (n: number) => (seed = (seed * 48271) % 2147483647) % n;
    const p = new Picture();
    p.frame(frame([], []));
    const nodes = new Map<number, NodeRow>();
    const edges = new Map<number, [number, number, number]>();
    for (let step = 0; step < 400; step++) {
      const d = diff({ rev: p.rev + 1, gone: { nodes: [], edges: [] } });
      const newNodes: NodeRow[] = [];
      const newEdges: [number, number, number][] = [];
      const keys = [...nodes.keys()];
      if (keys.length > 20 && rand(2)) {
        const h = keys[rand(keys.length)];
        nodes.delete(h);
        d.gone!.nodes.push(h);
        for (const [e, [, s, t]] of edges) if (s === h || t === h) (edges.delete(e), d.gone!.edges.push(e));
      }
      const row = { h: 1 + rand(60), id: "", x: rand(1000), y: rand(1000) };
      row.id = "n" + row.h;
      if (!d.gone!.nodes.includes(row.h)) (nodes.set(row.h, row), newNodes.push(row));
      const alive = [...nodes.keys()];
      const e: [number, number, number] = [1 + rand(200), alive[rand(alive.length)], alive[rand(alive.length)]];
      if (alive.length && !d.gone!.edges.includes(e[0])) (edges.set(e[0], e), newEdges.push(e));
      p.diff({ ...d, nodes: nodeColumns(newNodes), edges: edgeColumns(newEdges) });
    }
    expect([...p.id].sort()).toEqual([...nodes.values()].map((r) => r.id).sort());
    const held = Array.from({ length: p.edges }, (_, i) => [p.eh[i], p.es[i], p.ed[i]].join()).sort();
    expect(held).toEqual([...edges.values()].map((e) => e.join()).sort());
    p.glide(1);
    for (const r of nodes.values()) expect([p.x[p.find(r.id)], p.y[p.slot(r.h)]]).toEqual([r.x, r.y]);
    const l = p.link;
    for (let i = 0; i < p.edges; i++) expect([p.h[l.s[i]], p.h[l.d[i]]]).toEqual([p.es[i], p.ed[i]]);
  });
});

describe("finding what is under the pointer", () => {
  test("nearest within reach", () => {
    const g = new Grid(start());
    expect([g.nearest(4, 3, 20), g.nearest(50, 50, 20), g.nearest(95, 4, 20), g.nearest(-30, 0, 31), g.nearest(90, 90, 1e6)]).toEqual([0, -1, 1, 0, 1]);
  });
  test("agrees with walking all of them", () => {
    let seed = 3;
    const rand = () => (seed = (seed * 48271) % 2147483647) % 4000;
    const p = new Picture();
    p.frame(frame(Array.from({ length: 2000 }, (_, i) => ({ h: i + 1, id: "n" + i, x: rand() - 2000, y: rand() - 2000 })), []));
    const g = new Grid(p);
    for (let k = 0; k < 300; k++) {
      const x = rand() - 2000, y = rand() - 2000, reach = 10 + (k % 60);
      let best = -1, least = reach * reach;
      for (let i = 0; i < p.count; i++) {
        const d = (p.x[i] - x) ** 2 + (p.y[i] - y) ** 2;
        if (d < least) [best, least] = [i, d];
      }
      const got = g.nearest(x, y, reach);
      expect(got < 0 ? -1 : (p.x[got] - x) ** 2 + (p.y[got] - y) ** 2).toBe(best < 0 ? -1 : least);
    }
  });
  test("edges", () => {
    const p = start();
    expect([nearestEdge(p, 50, 3, 5), nearestEdge(p, 50, 20, 5), nearestEdge(p, 52, 50, 5)]).toEqual([0, -1, 1]);
  });
  test("lasso", () => {
    expect(within(start(), [[-10, -10], [110, -10], [110, 10], [-10, 10]])).toEqual([0, 1]);
    expect(within(start(), [[0, 0], [1, 1]])).toEqual([]);
  });
  test("walking by direction", () => {
    const p = start();
    expect([inDirection(p, 0, 1, 0, [1, 2]), inDirection(p, 0, 0, 1, [1, 2]), inDirection(p, 0, -1, 0, [1, 2])]).toEqual([1, 2, -1]);
  });
});
