import { createStore } from "../store";
import type { Session, Status } from "./types";

/** What the monitor answers when it can't or may not: docs/reference/monitor-api.md. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;
  readonly hint: string;
  constructor(status: number, code: string, message: string, hint = "") {
    super(message);
    this.status = status;
    this.code = code;
    this.hint = hint;
  }
}

/** undefined: not known yet; null: nobody is logged in. */
export const session = createStore<Session | null | undefined>(undefined);
export const status = createStore<Status | null>(null);

export function may(role: "viewer" | "operator" | "admin"): boolean {
  const order = ["viewer", "operator", "admin"];
  const s = session.get();
  return !!s && order.indexOf(s.role) >= order.indexOf(role);
}

export async function request(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const csrf = session.get()?.csrf;
  if (method !== "GET" && csrf) headers["X-CSRF-Token"] = csrf;
  let resp: Response;
  try {
    resp = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin" });
  } catch (e) {
    if (signal?.aborted) throw e;
    throw new ApiError(0, "unreachable", "the monitor does not answer", "the page tries again by itself");
  }
  if (resp.ok) return resp;
  const text = await resp.text();
  let err = new ApiError(resp.status, "error", text.slice(0, 300) || `HTTP ${resp.status}`);
  try {
    const j = JSON.parse(text);
    if (j.error) err = new ApiError(resp.status, j.error.code, j.error.message, j.error.hint);
    else if (j.message) err = new ApiError(resp.status, "error", j.details ? `${j.message}: ${detailed(j.details)}` : j.message);
  } catch {
    // Not JSON: the text says it.
  }
  if (resp.status === 401 && session.get()) session.set(null);
  throw err;
}

/** Marathon's list of what is wrong where, for people. */
export function detailed(details: unknown): string {
  if (typeof details === "string") return details;
  if (!Array.isArray(details) || !details.every((d) => Array.isArray(d?.errors))) return JSON.stringify(details);
  return details.map((d) => `${d.path ? d.path + ": " : ""}${d.errors.join(", ")}`).join("; ");
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await request("GET", path, undefined, signal)).json() as Promise<T>;
}

export async function send<T>(method: "POST" | "PUT" | "DELETE", path: string, body?: unknown): Promise<T> {
  const resp = await request(method, path, body);
  const text = await resp.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

export const api = "/api/v1";
export const nodePath = (id: string) => `${api}/nodes/${encodeURIComponent(id)}`;

/** Why a socket of a node was refused, which browsers do not say: it is gone, or not allowed. "" when neither. */
export async function refused(id: string, controls: string[]): Promise<string> {
  try {
    const d = await get<{ controls: { id: string; allowed: boolean; why_not: string }[] }>(nodePath(id));
    const c = d.controls.find((x) => controls.includes(x.id));
    return c && !c.allowed ? c.why_not : "";
  } catch (e) {
    return (e as ApiError).status === 404 ? "It is no longer there" : "";
  }
}

/**
 * The session of the token in the address, of the cookie, or that another monitor has handed over to this page, in this order.
 * What the address holds is taken out of it at once.
 */
export async function begin() {
  const m = /^#token=(.+)$/.exec(location.hash);
  const brought = new URLSearchParams(location.hash.slice(1)).get("handover");
  if (m || brought) history.replaceState(null, "", location.pathname + location.search);
  if (m)
    try {
      session.set(await send<Session>("POST", `${api}/login`, { token: decodeURIComponent(m[1]) }));
      return;
    } catch (e) {
      loginProblem.set((e as ApiError).message);
    }
  for (;;) {
    try {
      session.set(await get<Session>(`${api}/session`));
      return;
    } catch (e) {
      if ((e as ApiError).status === 401 || (e as ApiError).status === 403) {
        if (brought)
          try {
            session.set(await send<Session>("POST", `${api}/login`, { handover: brought }));
            return;
          } catch (err) {
            loginProblem.set((err as ApiError).message);
          }
        session.set(null);
        return;
      }
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
}

/** The monitors that a page may go to: not its own, and from one with TLS to none without. */
export function candidates(replicas: string[], here: { origin: string; protocol: string }): string[] {
  return replicas.filter((o) => o !== here.origin && (here.protocol !== "https:" || o.startsWith("https://")));
}

export const loginProblem = createStore("");

export async function login(body: { token: string } | { user: string; password: string }) {
  session.set(await send<Session>("POST", `${api}/login`, body));
  loginProblem.set("");
}

export async function logout() {
  await send("POST", `${api}/logout`).catch(() => {});
  session.set(null);
}
