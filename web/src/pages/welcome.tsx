import { status } from "../api/client";
import { copy, Button, Empty } from "../ui/parts";
import { useStore } from "../store";

/** What is shown where there is nothing yet: why, and what to do. */
export function NoProbes({ what, view }: { what: string; view: string }) {
  const st = useStore(status);
  const command = `orchestrator probe --monitors ${location.origin} --token-file /etc/orchestrator/probe.token`;
  if (st && st.probes.connected + st.probes.stale === 0)
    return (
      <Empty icon="probe" title="No host reports yet">
        <p>Run one probe on every host. It finds containers, processes and who talks to whom by itself.</p>
        <Command text={command} />
        <p className="faint">An administrator makes the probe's token under Access.</p>
      </Empty>
    );
  return (
    <Empty icon={view === "hosts" ? "host" : "container"} title={`No ${what} to show`}>
      <p>{st?.probes.connected === 1 ? "The host reports" : `${st?.probes.connected ?? 0} hosts report`}, and there {what === "containers" ? "is no container running" : `are no ${what}`} right now. They appear here by themselves.</p>
      {what === "containers" && st?.cluster.marathon && <Command text={`orchestrator app run web.json`} />}
    </Empty>
  );
}

export function Command({ text }: { text: string }) {
  return (
    <div className="command">
      <code>{text}</code>
      <Button small kind="ghost" icon="file" label="Copy the command" onClick={() => copy(text)} />
    </div>
  );
}
