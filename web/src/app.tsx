import { Component, lazy, Suspense, useEffect, useState, type ReactNode } from "react";
import { login, loginProblem, logout, may, session, status, type ApiError } from "./api/client";
import { failover, others, stay } from "./api/failover";
import { connection, live } from "./api/live";
import { usePolling, useViewState, views } from "./estate";
import { ago, clock, duration, plural, stamp } from "./format";
import { actions, shown, useActions } from "./keys";
import { Details } from "./pages/details";
import { Controls } from "./pages/controls";
import { Dock, dock } from "./pages/dock";
import { Events } from "./pages/events";
import { MapPage } from "./pages/map";
import { Resources } from "./pages/resources";
import { TablePage } from "./pages/tables";
import { TimeTravel } from "./pages/timetravel";
import { href, navigate, setParams, useRoute } from "./router";
import { keptStore, useStore } from "./store";
import { choice, themes } from "./theme";
import { Icon } from "./ui/icons";
import { Palette } from "./ui/palette";
import { Button, Dialog, Empty, Item, Kbd, Loading, Popover, Toasts } from "./ui/parts";

// Pages that are not opened first are loaded when they are.
const Cluster = lazy(() => import("./pages/cluster"));
const Services = lazy(() => import("./pages/services"));
const System = lazy(() => import("./pages/system"));

export const narrow = keptStore("narrow", false);

export function App() {
  const who = useStore(session);
  if (who === undefined) return <Loading what="Looking who is there" />;
  if (who === null) return <Login />;
  return <Shell />;
}

function Mark({ size = 22 }: { size?: number }) {
  return (
    <svg width={size} height={size} viewBox="0 0 32 32" aria-hidden="true">
      <path d="M7 24 16 7l9 17" fill="none" stroke="var(--line-strong)" strokeWidth="2.6" strokeLinejoin="round" />
      <circle cx="16" cy="7.500" r="4.600" fill="var(--accent)" />
      <circle cx="7" cy="24" r="4.600" fill="var(--kind-d)" />
      <circle cx="25" cy="24" r="4.600" fill="var(--kind-e)" />
    </svg>
  );
}

function Login() {
  const problem = useStore(loginProblem);
  const [way, setWay] = useState<"token" | "user">("token");
  const [busy, setBusy] = useState(false);
  const submit = async (f: FormData) => {
    setBusy(true);
    try {
      await login(way === "token" ? { token: String(f.get("token")).trim().replace(/^.*#token=/, "") } : { user: String(f.get("user")), password: String(f.get("password")) });
    } catch (e) {
      loginProblem.set((e as ApiError).message);
    }
    setBusy(false);
  };
  return (
    <main className="login">
      <form onSubmit={(e) => (e.preventDefault(), void submit(new FormData(e.currentTarget)))}>
        <div className="brand">
          <Mark size={28} /> Orchestrator
        </div>
        <h1 className="sr-only">Log in</h1>
        <div className="segmented" role="group" aria-label="How to log in">
          <button type="button" aria-pressed={way === "token"} onClick={() => setWay("token")}>Token</button>
          <button type="button" aria-pressed={way === "user"} onClick={() => setWay("user")}>Name and password</button>
        </div>
        {way === "token" ? (
          <label className="field">
            Token, or the link that holds it
            <input type="password" name="token" required autoComplete="current-password" autoFocus />
          </label>
        ) : (
          <>
            <label className="field">Name<input type="text" name="user" required autoComplete="username" autoFocus /></label>
            <label className="field">Password<input type="password" name="password" required autoComplete="current-password" /></label>
          </>
        )}
        {problem && <p className="error" role="alert"><Icon name="kill" />{problem}</p>}
        <button type="submit" className="button primary" disabled={busy}>Log in</button>
        <p className="faint">The command that started the monitor printed a link that logs you in.</p>
      </form>
    </main>
  );
}

interface Place {
  id: string;
  label: string;
  icon: string;
  path: string;
  params?: Record<string, string>;
  key?: string;
  section: string;
  when?: () => boolean;
  count?: string;
}

const places: Place[] = [
  { id: "map", label: "Map", icon: "map", path: "/map", key: "g m", section: "Estate" },
  { id: "hosts", label: "Hosts", icon: "host", path: "/hosts", key: "g h", section: "Estate", count: "hosts" },
  { id: "containers", label: "Containers", icon: "container", path: "/containers", key: "g c", section: "Estate", count: "containers" },
  { id: "processes", label: "Processes", icon: "process", path: "/processes", key: "g p", section: "Estate", count: "processes" },
  { id: "resources", label: "Resources", icon: "resources", path: "/resources", key: "g r", section: "Estate" },
  { id: "events", label: "Events", icon: "events", path: "/events", key: "g e", section: "Estate" },
  { id: "cluster", label: "Overview", icon: "cluster", path: "/cluster", key: "g o", section: "Cluster", when: () => !!status.get()?.cluster.master },
  { id: "nodes", label: "Nodes", icon: "node", path: "/cluster/nodes", key: "g n", section: "Cluster", when: () => !!status.get()?.cluster.master },
  { id: "tasks", label: "Tasks", icon: "task", path: "/cluster/tasks", key: "g t", section: "Cluster", when: () => !!status.get()?.cluster.master },
  { id: "frameworks", label: "Frameworks", icon: "framework", path: "/cluster/frameworks", key: "g f", section: "Cluster", when: () => !!status.get()?.cluster.master },
  { id: "apps", label: "Apps", icon: "app", path: "/services", key: "g a", section: "Services", when: () => !!status.get()?.cluster.marathon },
  { id: "deployments", label: "Deployments", icon: "deploy", path: "/services/deployments", key: "g d", section: "Services", when: () => !!status.get()?.cluster.marathon },
  { id: "zksync", label: "ZooKeeper sync", icon: "sync", path: "/zksync", key: "g z", section: "Replication", when: () => !!status.get()?.cluster.zksync },
  { id: "probes", label: "Probes", icon: "probe", path: "/system/probes", key: "g b", section: "System" },
  { id: "plugins", label: "Plugins", icon: "link", path: "/system/plugins", key: "g i", section: "System" },
  { id: "access", label: "Access", icon: "users", path: "/system/access", key: "g u", section: "System", when: () => may("admin") },
  { id: "audit", label: "Audit log", icon: "audit", path: "/system/audit", key: "g l", section: "System", when: () => may("admin") },
];

function placeOf(path: string): Place {
  return [...places].sort((a, b) => b.path.length - a.path.length).find((p) => path === p.path || path.startsWith(p.path + "/")) ?? places[0];
}

/** The pages that show the estate, and so can show it as it was. */
const estatePaths = ["/map", "/hosts", "/containers", "/processes", "/resources"];

function Shell() {
  const r = useRoute();
  const slim = useStore(narrow);
  const look = useStore(choice);
  const [palette, setPalette] = useState(false);
  const [help, setHelp] = useState(false);
  usePolling();
  useEffect(() => {
    live.start();
    // What is in the dock or asked in a dialog does not come along: then the person is asked.
    failover.start(() => dock.used || !!document.querySelector("[role=dialog]"));
    return () => {
      failover.stop();
      live.stop();
    };
  }, []);
  useStore(status);
  const place = placeOf(r.path);
  useEffect(() => {
    document.title = `${place.label} · Orchestrator`;
  }, [place]);
  const visible = places.filter((p) => !p.when || p.when());
  const keys = visible.map((p) => p.id).join();
  useActions(
    [
      { id: "palette", keys: ["mod+k", ":"], label: "Search and commands", section: "Everywhere", run: () => setPalette((p) => !p) },
      { id: "help", keys: ["?"], label: "Keyboard shortcuts", section: "Everywhere", run: () => setHelp(true), palette: true },
      { id: "back", keys: ["["], label: "Back", section: "Everywhere", run: () => history.back() },
      { id: "forward", keys: ["]"], label: "Forward", section: "Everywhere", run: () => history.forward() },
      { id: "close", keys: ["escape"], label: "Close the details", section: "Everywhere", run: () => setParams({ node: "" }) },
      { id: "dock", keys: ["`", "mod+`"], label: "Show or hide logs and terminals", section: "Everywhere", run: () => dock.toggle(), palette: true },
      { id: "narrow", keys: ["\\"], label: "Narrow or wide navigation", section: "Everywhere", run: () => narrow.set((n) => !n), palette: true },
      ...themes.map((t) => ({ id: "theme-" + t.id, keys: [], label: `Theme: ${t.label}`, section: "Appearance", run: () => choice.set(t.id), palette: true })),
      { id: "logout", keys: [], label: "Log out", section: "Everywhere", run: () => leave(), palette: true },
    ],
    [],
  );
  useActions(
    visible.map((p) => ({ id: "go-" + p.id, keys: p.key ? [p.key] : [], label: p.label, section: "Go to", run: () => navigate(p.path), palette: true })),
    [keys],
  );
  const node = r.params.node ?? "";
  return (
    <div className={`shell ${slim ? "narrow" : ""}`}>
      <Nav current={place.id} visible={visible} />
      <header className="top">
        <h1 className="wide-only">{place.label}</h1>
        <span className="grow" />
        <button type="button" className="searchbox" onClick={() => setPalette(true)} aria-label="Search and commands">
          <Icon name="search" size={14} />
          <span className="words">Search or run a command</span>
          <Kbd keys={shown("mod+k")} />
        </button>
        <span className="grow" />
        {estatePaths.includes(r.path) && <TimeTravel.Toggle />}
        <LiveChip />
        <Popover kind="ghost" icon={themes.find((t) => t.id === look)!.icon} label="Theme" align="right">
          {(close) => themes.map((t) => <Item key={t.id} icon={t.icon} selected={look === t.id} onPick={() => (choice.set(t.id), close())}>{t.label}</Item>)}
        </Popover>
        <Button kind="ghost" icon="help" label="Keyboard shortcuts" onClick={() => setHelp(true)} />
        <Who />
      </header>
      <div className="main">
        <main className="page" aria-label={place.label}>
          <LostBanner />
          {estatePaths.includes(r.path) && <TimeTravel />}
          <Guard key={r.path}>
            <Suspense fallback={<Loading what="Loading" />}>
              <Page path={r.path} />
            </Suspense>
          </Guard>
        </main>
        {node && <Guard key={node}><Details id={node} /></Guard>}
      </div>
      <Dock />
      {palette && <Palette onClose={() => setPalette(false)} />}
      {help && <Help onClose={() => setHelp(false)} />}
      <Controls />
      <Toasts />
    </div>
  );
}

/** A page that fails takes nothing else with it. */
class Guard extends Component<{ children: ReactNode }, { failed: Error | null }> {
  override state = { failed: null as Error | null };
  static getDerivedStateFromError(failed: Error) {
    return { failed };
  }
  override render() {
    if (!this.state.failed) return this.props.children;
    return (
      <Empty icon="kill" title="This part of the page has failed">
        <p className="mono">{this.state.failed.message}</p>
        <Button onClick={() => this.setState({ failed: null })}>Try again</Button>
      </Empty>
    );
  }
}

function Page({ path }: { path: string }) {
  if (path.startsWith("/cluster")) return <Cluster part={path.split("/")[2] ?? ""} />;
  if (path.startsWith("/services")) return <Services part={path.split("/")[2] ?? ""} />;
  if (path.startsWith("/system") || path === "/zksync") return <System part={path === "/zksync" ? "zksync" : (path.split("/")[2] ?? "probes")} />;
  switch (path) {
    case "/hosts":
      return <TablePage key="hosts" family="hosts" />;
    case "/containers":
      return <TablePage key="containers" family="containers" />;
    case "/processes":
      return <TablePage key="processes" family="processes" />;
    case "/resources":
      return <Resources />;
    case "/events":
      return <Events />;
    default:
      return <MapPage />;
  }
}

function Nav({ current, visible }: { current: string; visible: Place[] }) {
  const defs = useStore(views);
  const st = useStore(status);
  const sections = [...new Set(visible.map((p) => p.section))];
  const bad = st ? st.probes.lost + st.probes.stale : 0;
  return (
    <nav className="nav" aria-label="Main">
      <a className="brand" href="/map" onClick={(e) => (e.preventDefault(), navigate("/map"))} aria-label="Orchestrator, to the map">
        <Mark /> <span className="words">Orchestrator</span>
      </a>
      {sections.map((s) => (
        <div key={s} role="group" aria-label={s} className="nav-part">
          <div className="cap" aria-hidden="true">{s}</div>
          {visible
            .filter((p) => p.section === s)
            .map((p) => {
              const def = p.count ? defs.find((d) => d.id === p.count) : undefined;
              return (
                <a
                  key={p.id}
                  className="go"
                  href={href(p.path)}
                  aria-current={p.id === current ? "page" : undefined}
                  title={p.label}
                  onClick={(e) => {
                    if (e.metaKey || e.ctrlKey || e.shiftKey) return;
                    e.preventDefault();
                    navigate(p.path);
                  }}
                >
                  <Icon name={p.icon} />
                  <span className="words">{p.label}</span>
                  {def && <span className="count">{def.count.toLocaleString("en-GB")}</span>}
                  {p.id === "probes" && bad > 0 && <span className="count bad">{bad}</span>}
                </a>
              );
            })}
        </div>
      ))}
      <div className="bottom">
        <Button kind="ghost" small icon="sidebar" label="Narrow or wide navigation" onClick={() => narrow.set((n) => !n)} />
      </div>
    </nav>
  );
}

/** Ends the session, and with it what it had open: nobody else's terminals are to come back with the next one. */
function leave() {
  dock.clear();
  void logout();
}

function useNow(every: number): number {
  const [now, set] = useState(Date.now());
  useEffect(() => {
    const t = setInterval(() => set(Date.now()), every);
    return () => clearInterval(t);
  }, [every]);
  return now;
}

function LiveChip() {
  const c = useStore(connection);
  const at = useViewState("containers").at;
  const path = useRoute().path;
  if (c.state === "open" && at && estatePaths.includes(path)) return <span className="live past"><i />{clock(at)}</span>;
  return (
    <span className={`live ${c.state}`} title={c.state === "open" ? "Changes are shown as they happen" : "The monitor does not answer"}>
      <i />
      {c.state === "open" ? "Live" : c.state === "lost" ? "Lost" : "Connecting"}
    </span>
  );
}

/** The picture stays when the monitor is gone, and this says how old it is, and where it could go on. */
function LostBanner() {
  const c = useStore(connection);
  const now = useNow(1000);
  const elsewhere = useStore(others);
  const staying = useStore(stay);
  if (c.state !== "lost") return null;
  const there = elsewhere.filter((r) => r.answers);
  return (
    <div className="banner lost" role="alert">
      <Icon name="probe" />
      <span className="grow">
        Connection lost. {c.heard ? <>What you see is <b className="num">{duration(now - c.heard)}</b> old, from {clock(c.heard)}.</> : "Nothing has been heard yet."} Trying again by itself.
        {there.length > 0 && (dock.used ? " Another monitor answers. Logs and terminals would be closed." : " Another monitor answers.")}
        {elsewhere.length > 0 && there.length === 0 && " No other monitor answers either."}
      </span>
      {there.map((r) => <Button key={r.origin} small icon="link" onClick={() => failover.go(r.origin)}>Go on at {new URL(r.origin).host}</Button>)}
      {there.length > 0 && !staying && !dock.used && <Button small kind="ghost" onClick={() => stay.set(true)}>Stay</Button>}
      <Button small onClick={() => live.hurry()}>Try now</Button>
    </div>
  );
}

function Who() {
  const s = useStore(session);
  const st = useStore(status);
  if (!s) return null;
  return (
    <Popover kind="ghost" icon="user" label={`Account: ${s.user}`} align="right">
      {(close) => (
        <>
          <div className="cap">{s.user} · {s.role}</div>
          {st && <div className="item dim">Monitor {st.version}, up {duration(st.now_ms - st.started_ms)}</div>}
          {st && <div className="item dim">{plural(st.probes.connected, "probe")} connected</div>}
          {s.expires_ms > 0 && <div className="item dim">Session ends {stamp(s.expires_ms)}</div>}
          <Item icon="link" onPick={() => (window.open("/api/v1/openapi.json", "_blank", "noopener"), close())}>API description</Item>
          {st?.auth === "on" && <Item icon="close" onPick={leave}>Log out</Item>}
        </>
      )}
    </Popover>
  );
}

function Help({ onClose }: { onClose: () => void }) {
  const list = useStore(actions).filter((a) => a.keys.length);
  const more: [string, string, string[]][] = [
    ["Tables", "Move, page, ends", ["↑", "↓", "PgDn", "End"]],
    ["Tables", "Open · select · select all", ["Enter", "Space", "Ctrl A"]],
  ];
  const sections = [...new Set([...list.map((a) => a.section), ...more.map((m) => m[0])])];
  return (
    <Dialog title="Keyboard" onClose={onClose} wide>
      <div className="body" tabIndex={0}>
        <div className="help-grid">
          {sections.map((s) => (
            <section key={s} aria-label={s}>
              <h3>{s}</h3>
              {[...new Set(list.filter((a) => a.section === s).map((a) => a.label))].map((label) => (
                <div className="row" key={label}><span>{label}</span><Kbd keys={[...new Set(list.filter((a) => a.section === s && a.label === label).flatMap((a) => shown(a.keys[0])))]} /></div>
              ))}
              {more.filter((m) => m[0] === s).map((m) => (
                <div className="row" key={m[1]}><span>{m[1]}</span><Kbd keys={m[2]} /></div>
              ))}
            </section>
          ))}
        </div>
        <p className="dim">Search everywhere with the same words: <code className="mono">web host:vm1 cpu&gt;50% -state:exited (health:warn or health:crit) /^db-[0-9]+/</code></p>
      </div>
    </Dialog>
  );
}

export { ago, useNow };
