import { check, parse } from "./parse";

/** A filter that is narrowed down to one health, or, when that is what it ends with, without it. */
export function withHealth(q: string, name: string): string {
  const cut = q.replace(/(^| )health:(ok|warn|crit|stale)$/, "");
  // What is left of "a or health:crit" is no filter.
  const rest = cut === "" || !check(cut) ? cut : q;
  if (rest !== q && q.endsWith(`health:${name}`)) return rest;
  if (rest === "" || check(rest)) return `health:${name}`;
  const wrapped = rest[0] === "(" && rest.endsWith(")") && !check(rest.slice(1, -1));
  return `${parse(rest).op === "or" && !wrapped ? `(${rest})` : rest} health:${name}`;
}
