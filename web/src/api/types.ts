// Shapes of the monitor's API: docs/reference/monitor-api.md. Later versions may add keys.

export interface Session {
  user: string;
  role: "viewer" | "operator" | "admin";
  csrf: string;
  expires_ms: number;
}

export interface Status {
  version: string;
  now_ms: number;
  started_ms: number;
  replica: string;
  replicas?: string[];
  probes: { connected: number; stale: number; lost: number };
  entities: Record<string, number>;
  edges: number;
  auth: "on" | "off";
  cluster: { master: boolean; marathon: boolean; zksync?: boolean };
  replay: { from_ms: number; to_ms: number };
}

export type Format = "percent" | "bytes" | "bytes_per_second" | "count" | "ms";

export interface MetricDef {
  id: string;
  label: string;
  format: Format;
  max: number;
}

export interface ViewDef {
  id: string;
  label: string;
  kind: string;
  parent: string;
  count: number;
  warn: number;
  crit: number;
  groups: string[];
  options: { id: string; label: string; values: string[]; default: string }[];
  metrics: MetricDef[];
}

export interface Options {
  q?: string;
  find?: string;
  group?: string;
  expand?: string[];
  metric?: string;
  size?: string;
  focus?: string;
  hops?: number;
  layout?: string;
  flows?: boolean;
  at?: number;
  opts?: Record<string, string>;
}

export interface Event {
  seq: number;
  at: number;
  id: string;
  kind: string;
  label: string;
  what: string;
  from: string;
  to: string;
  text: string;
  severity: number;
}

export interface Ref {
  kind: string;
  id: string;
  label: string;
  health: number;
}

export interface Control {
  id: string;
  label: string;
  group: string;
  role: string;
  danger: boolean;
  allowed: boolean;
  why_not: string;
}

export interface Series {
  from_ms: number;
  step_ms: number;
  v: (number | null)[];
}

export interface Metric extends MetricDef {
  value: number;
  series: Series;
}

export interface NodeDetail {
  id: string;
  kind: string;
  label: string;
  minor: string;
  state: string;
  health: number;
  reasons: { code: string; severity: number; text: string; since_ms: number }[];
  since_ms: number;
  stale: boolean;
  at: number;
  metadata: { id: string; label: string; value: string; format: string }[];
  labels: Record<string, string>;
  metrics: Metric[];
  tables: { id: string; label: string; columns: string[]; rows: string[][] }[];
  parents: Ref[];
  children: { kind: string; count: number; items: (Ref & { minor: string; state: string; metrics: Record<string, number> })[] }[];
  edges: { dir: "in" | "out"; peer: Ref; proto: string; port: number; n: number; new: number; fail: number; tx: number; rx: number; rtt: number | null; retrans: number; ev: string }[];
  edges_total: number;
  controls: Control[];
  probe: { id: string; state: string } | null;
}

export interface SearchResult {
  id: string;
  kind: string;
  label: string;
  minor: string;
  state: string;
  health: number;
  view: string;
}

export interface Saved {
  id: string;
  name: string;
  owner: string;
  shared: boolean;
  view: string;
  options: Record<string, string>;
  created_ms: number;
  updated_ms: number;
}

export interface Probe {
  id: string;
  host: string;
  hostname: string;
  version: string;
  state: string;
  connected_ms: number;
  last_ms: number;
  lag_ms: number;
  clock_skew_ms: number;
  cpu_percent: number;
  memory_bytes: number;
  dropped: number;
  interval_ms: number;
  policy: string[];
  collectors: { name: string; state: string; message: string }[];
  plugins: { id: string; label: string; state: string; message: string }[];
}
