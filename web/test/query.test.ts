import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { match, record } from "../src/query/match";
import { parse, QueryError, type Expr } from "../src/query/parse";

interface Vector {
  q: string;
  ast?: unknown;
  error?: number;
}

const vectors: Vector[] = JSON.parse(readFileSync(new URL("../../internal/topology/query/testdata/vectors.json", import.meta.url), "utf8"));

function tree(e: Expr): unknown {
  switch (e.op) {
    case "all":
      return ["all"];
    case "and":
    case "or":
      return [e.op, ...e.args.map(tree)];
    case "not":
      return ["not", tree(e.arg)];
    case "text":
    case "re":
      return [e.op, e.value];
    case "exists":
      return ["exists", e.field];
    case "num":
      return ["num", e.field, e.cmp, e.number];
    default:
      return [e.op, e.field, e.value];
  }
}

test("the vectors are there", () => expect(vectors.length).toBeGreaterThan(80));

describe.each(vectors)("$q", (v) => {
  test("as in Go", () => {
    if (v.error !== undefined) {
      let err: unknown;
      try {
        parse(v.q);
      } catch (e) {
        err = e;
      }
      expect(err).toBeInstanceOf(QueryError);
      expect((err as QueryError).column).toBe(v.error);
    } else expect(tree(parse(v.q))).toEqual(v.ast);
  });
});

// The table of TestMatch in internal/topology/query.
const d = record({ label: "Web.1", minor: "vm1", "label.app": "shop", cpu: "75", host: "vm1", state: "running" });
const table: Record<string, boolean> = {
  "": true, web: true, "WEB.1": true, shop: true, db: false, "-db": true, "/^web/": true, "/^eb/": false,
  "host:VM": true, "host=vm": false, "host=VM1": true, "host!=vm2": true, "host!=vm1": false, "nothing!=x": false,
  "app:shop": true, "label.app=shop": true, "app:*": true, "pod:*": false, "-pod:*": true, "state:/^run/": true,
  "cpu>50%": true, "cpu<50%": false, "cpu>=75": true, "cpu>75": false, "cpu<=75": true, "cpu=75": true, "cpu!=75": false, "cpu!=74": true,
  "mem>1": false, "mem!=1": false, "web (cpu<50 or host:vm1)": true, "web (cpu<50 or host:vm2)": false,
};
test.each(Object.entries(table))("match %s", (q, want) => expect(match(parse(q), d)).toBe(want));
