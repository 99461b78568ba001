import type { Cmp, Expr } from "./parse";

/** What a query is matched against. */
export interface Doc {
  /** The texts that a bare word searches. */
  texts(): string[];
  /** The values of a field; none when it is not there. */
  field(name: string): string[];
  /** A metric, or an attribute that is a number. */
  number(name: string): number | undefined;
}

export function match(e: Expr, d: Doc): boolean {
  switch (e.op) {
    case "all":
      return true;
    case "and":
      return e.args.every((a) => match(a, d));
    case "or":
      return e.args.some((a) => match(a, d));
    case "not":
      return !match(e.arg, d);
    case "num": {
      const v = d.number(e.field);
      return v !== undefined && compare(v, e.cmp, e.number);
    }
    case "text": {
      const fold = e.value.toLowerCase();
      return d.texts().some((s) => s.toLowerCase().includes(fold));
    }
    case "re":
      return d.texts().some((s) => e.re.test(s));
    case "match":
      return d.field(e.field).some((s) => e.re.test(s));
    case "exists":
      return d.field(e.field).length > 0;
    case "has": {
      const fold = e.value.toLowerCase();
      return d.field(e.field).some((s) => s.toLowerCase().includes(fold));
    }
    case "is":
    case "isnt": {
      if (e.number !== null) {
        const v = d.number(e.field);
        if (v !== undefined) return (v === e.number) === (e.op === "is");
      }
      const values = d.field(e.field);
      const fold = e.value.toLowerCase();
      return values.length > 0 && values.some((s) => s.toLowerCase() === fold) === (e.op === "is");
    }
  }
}

function compare(v: number, op: Cmp, n: number): boolean {
  switch (op) {
    case "<":
      return v < n;
    case "<=":
      return v <= n;
    case ">":
      return v > n;
    case ">=":
      return v >= n;
  }
}

/** A document of plain fields; bare words search all of them. */
export function record(fields: Record<string, string | number | undefined | null>): Doc {
  const get = (name: string) => (Object.hasOwn(fields, name) ? fields[name] : undefined);
  return {
    texts: () => Object.values(fields).flatMap((v) => (v === undefined || v === null ? [] : [String(v)])),
    field: (name) => {
      const v = get(name) ?? get("label." + name);
      return v === undefined || v === null ? [] : [String(v)];
    },
    number: (name) => {
      const v = get(name);
      if (typeof v === "number") return v;
      return v !== undefined && v !== null && v !== "" && Number.isFinite(Number(v)) ? Number(v) : undefined;
    },
  };
}
