// The search grammar (docs/reference/monitor-api.md, part 5). The Go parser is internal/topology/query; both are held
// together by its testdata/vectors.json.

export const MAX_LENGTH = 1000;
export const MAX_TERMS = 100;
export const MAX_DEPTH = 20;

export type Cmp = "<" | "<=" | ">" | ">=";

export type Expr =
  | { op: "all" }
  | { op: "and" | "or"; args: Expr[] }
  | { op: "not"; arg: Expr }
  | { op: "text"; value: string }
  | { op: "re"; value: string; re: RegExp }
  | { op: "has" | "is" | "isnt"; field: string; value: string; number: number | null }
  | { op: "match"; field: string; value: string; re: RegExp }
  | { op: "exists"; field: string }
  | { op: "num"; field: string; cmp: Cmp; number: number };

/** A query that can't be understood, with the column (in characters, from 1) where it goes wrong. */
export class QueryError extends Error {
  readonly column: number;
  constructor(column: number, message: string) {
    super(`column ${column}: ${message}`);
    this.column = column;
  }
}

const units: Record<string, number> = {
  "": 1, "%": 1, b: 1,
  k: 2 ** 10, kb: 2 ** 10, kib: 2 ** 10, m: 2 ** 20, mb: 2 ** 20, mib: 2 ** 20,
  g: 2 ** 30, gb: 2 ** 30, gib: 2 ** 30, t: 2 ** 40, tb: 2 ** 40, tib: 2 ** 40,
  ms: 1, s: 1000, min: 60_000, h: 3_600_000, d: 86_400_000,
};

/** Digits, an optional fraction and a unit; on failure, how many characters were understood. */
function readNumber(w: string): { n: number } | { bad: number } {
  const m = /^\d+(\.\d+)?/.exec(w);
  if (!m) return { bad: 0 };
  const unit = w.slice(m[0].length).toLowerCase();
  if (!Object.hasOwn(units, unit)) return { bad: m[0].length };
  return { n: Number(m[0]) * units[unit] };
}

export function parse(q: string): Expr {
  const p = new Parser(Array.from(q));
  return p.whole();
}

/** The error of a query, or null. */
export function check(q: string): QueryError | null {
  try {
    parse(q);
    return null;
  } catch (e) {
    return e as QueryError;
  }
}

class Parser {
  private pos = 0;
  private terms = 0;
  private readonly in: string[];
  constructor(chars: string[]) {
    this.in = chars;
  }

  whole(): Expr {
    if (this.in.length > MAX_LENGTH) throw new QueryError(MAX_LENGTH + 1, `a query has at most ${MAX_LENGTH} characters`);
    this.space();
    if (this.done()) return { op: "all" };
    const e = this.or(0);
    if (!this.done()) throw this.fail(this.pos, "unexpected )");
    return e;
  }

  private fail(pos: number, message: string) {
    return new QueryError(pos + 1, message);
  }
  private done() {
    return this.pos >= this.in.length;
  }
  private peek(): string {
    return this.in[this.pos] ?? "";
  }
  private space() {
    while (!this.done() && isSpace(this.in[this.pos])) this.pos++;
  }

  /** Takes the word if it comes next, in any case, and stands alone. */
  private keyword(word: string): boolean {
    const end = this.pos + word.length;
    if (end > this.in.length || this.in.slice(this.pos, end).join("").toLowerCase() !== word) return false;
    const after = this.in[end];
    if (after !== undefined && !isSpace(after) && after !== "(" && after !== ")") return false;
    this.pos = end;
    this.space();
    return true;
  }

  private or(depth: number): Expr {
    const list: Expr[] = [];
    do list.push(this.and(depth));
    while (this.keyword("or"));
    return join("or", list);
  }

  private and(depth: number): Expr {
    const list: Expr[] = [];
    for (;;) {
      list.push(this.unary(depth));
      this.space();
      if (this.keyword("and")) continue;
      if (this.done() || this.peek() === ")") return join("and", list);
      const mark = this.pos;
      if (this.keyword("or")) {
        this.pos = mark;
        return join("and", list);
      }
    }
  }

  private unary(depth: number): Expr {
    if (depth > MAX_DEPTH) throw this.fail(this.pos, `nested deeper than ${MAX_DEPTH}`);
    const next = this.in[this.pos + 1];
    const minus = this.peek() === "-" && next !== undefined && !isSpace(next);
    if (minus) this.pos++;
    if (minus || this.keyword("not")) return { op: "not", arg: this.unary(depth + 1) };
    if (this.peek() === "(") {
      this.pos++;
      this.space();
      const e = this.or(depth + 1);
      if (this.peek() !== ")") throw this.fail(this.pos, "expected )");
      this.pos++;
      this.space();
      return e;
    }
    const start = this.pos;
    const e = this.term();
    if (++this.terms > MAX_TERMS) throw this.fail(start, `a query has at most ${MAX_TERMS} terms`);
    this.space();
    return e;
  }

  private term(): Expr {
    const start = this.pos;
    const c = this.peek();
    if (c === "" || c === ")") throw this.fail(this.pos, "expected a term");
    if (c === '"') return { op: "text", value: this.quoted() };
    if (c === "/") {
      const [value, re] = this.regexp();
      return { op: "re", value, re };
    }
    if (this.keyword("or") || this.keyword("and")) throw this.fail(start, "expected a term");
    const field = this.field();
    if (field !== "") {
      const e = this.comparison(field);
      if (e) return e;
      this.pos = start;
    }
    return { op: "text", value: this.word() };
  }

  /** A letter or _, then letters, digits and ._-/~. */
  private field(): string {
    const start = this.pos;
    while (!this.done()) {
      const ok = this.pos === start ? /[A-Za-z_]/ : /[A-Za-z0-9_.\-/~]/;
      if (!ok.test(this.in[this.pos])) break;
      this.pos++;
    }
    const name = this.in.slice(start, this.pos).join("");
    if (name.length > 6 && name.slice(0, 6).toLowerCase() === "label.") return "label." + name.slice(6);
    return name.toLowerCase();
  }

  private word(): string {
    const start = this.pos;
    while (!this.done() && !isSpace(this.in[this.pos]) && this.in[this.pos] !== "(" && this.in[this.pos] !== ")") this.pos++;
    return this.in.slice(start, this.pos).join("");
  }

  /** What follows a field's name. Without an operator it gives null: the name is a word. */
  private comparison(field: string): Expr | null {
    const mark = this.pos;
    this.space();
    const spaced = this.pos > mark;
    const c = this.in[this.pos];
    const next = this.in[this.pos + 1];
    let op: string;
    if (c === undefined) return null;
    if (c === "<" || c === ">") op = next === "=" ? c + "=" : c;
    else if (spaced) return null;
    else if (c === ":" || c === "=") op = c;
    else if (c === "!" && next === "=") op = "!=";
    else return null;
    this.pos += op.length;
    if (op[0] === "<" || op[0] === ">") {
      const after = this.pos;
      this.space();
      const start = this.pos;
      const w = this.word();
      if (w === "") throw this.fail(after, `expected a value after ${field}${op}`);
      const n = readNumber(w);
      if ("bad" in n) throw this.fail(start + n.bad, "expected a number, such as 50%, 1.5gb or 200ms");
      return { op: "num", field, cmp: op as Cmp, number: n.n };
    }
    const kind = op === ":" ? "has" : op === "=" ? "is" : "isnt";
    if (this.peek() === '"') return { op: kind, field, value: this.quoted(), number: null };
    if (this.peek() === "/" && op === ":") {
      const [value, re] = this.regexp();
      return { op: "match", field, value, re };
    }
    const at = this.pos;
    const value = this.word();
    if (value === "") throw this.fail(at, `expected a value after ${field}${op}`);
    if (value === "*" && op === ":") return { op: "exists", field };
    const n = readNumber(value);
    return { op: kind, field, value, number: "n" in n ? n.n : null };
  }

  private quoted(): string {
    const start = this.pos;
    let out = "";
    for (this.pos++; !this.done(); this.pos++) {
      const c = this.in[this.pos];
      const next = this.in[this.pos + 1];
      if (c === '"') {
        this.pos++;
        return out;
      }
      if (c === "\\" && (next === '"' || next === "\\")) {
        this.pos++;
        out += next;
      } else out += c;
    }
    throw this.fail(start, "the quote is not closed");
  }

  private regexp(): [string, RegExp] {
    const start = this.pos;
    let out = "";
    for (this.pos++; !this.done(); this.pos++) {
      const c = this.in[this.pos];
      if (c === "/") {
        this.pos++;
        if (out === "") throw this.fail(start, "the regular expression is empty");
        try {
          return [out, new RegExp(out, "i")];
        } catch {
          throw this.fail(start, "the regular expression is wrong");
        }
      }
      if (c === "\\" && this.pos + 1 < this.in.length) {
        this.pos++;
        const next = this.in[this.pos];
        out += next === "/" ? "/" : "\\" + next;
      } else out += c;
    }
    throw this.fail(start, "the regular expression is not closed with /");
  }
}

function isSpace(c: string): boolean {
  return c !== "\ufeff" && (/\s/.test(c) || c === "\u0085");
}

function join(op: "and" | "or", args: Expr[]): Expr {
  return args.length === 1 ? args[0] : { op, args };
}
