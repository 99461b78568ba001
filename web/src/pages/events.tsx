import { useMemo } from "react";
import { events } from "../api/live";
import { openNode } from "../estate";
import { clock, healthNames, stamp } from "../format";
import { match, record } from "../query/match";
import { check, parse } from "../query/parse";
import { navigate, setParams, useRoute } from "../router";
import { useStore } from "../store";
import { Filter } from "../ui/filter";
import { Button, Empty, Health } from "../ui/parts";
import { viewOf } from "./details";

/** What has happened, newest first. */
export function Events() {
  const list = useStore(events);
  const { params } = useRoute();
  const shown = useMemo(() => {
    if (!params.q || check(params.q)) return list;
    const q = parse(params.q);
    return list.filter((e) => match(q, record({ kind: e.kind, name: e.label, id: e.id, what: e.what, from: e.from, to: e.to, text: e.text, health: healthNames[e.severity] })));
  }, [list, params.q]);
  return (
    <>
      <div className="toolbar">
        <Filter value={params.q ?? ""} onChange={(q) => setParams({ q }, true)} label="Filter events" example="-health:ok" fields={["kind", "name", "what", "from", "to", "text", "health"]} />
        <span className="grow" />
        <span className="faint num">{shown.length} of the last {list.length}</span>
      </div>
      <div className="content timeline" tabIndex={0} role="region" aria-label="Events">
        {shown.length === 0 && <Empty icon="events" title={list.length ? "No event matches" : "Nothing has happened yet"}><p>Nodes that appear, change their state or their health, and what people do to them, is listed here as it happens.</p></Empty>}
        {shown.map((e) => (
          <div key={`${e.at} ${e.seq}`} className="linkrow">
            <time dateTime={new Date(e.at).toISOString()} title={stamp(e.at)}>{clock(e.at)}</time>
            <Health value={e.severity} />
            <button type="button" className="clip" onClick={() => openNode(e.id)}><b>{e.label}</b></button>
            <span className="dim clip">{say(e)}</span>
            <span className="end">
              {e.kind}
              <Button small kind="ghost" icon="clock" label={`See the map as it was at ${clock(e.at)}`} onClick={() => navigate("/map", { at: String(e.at), node: e.id, ...(viewOf(e.kind) === "containers" ? {} : { view: viewOf(e.kind) }) })} />
            </span>
          </div>
        ))}
      </div>
    </>
  );
}

function say(e: { what: string; from: string; to: string; text: string }): string {
  const tail = e.text ? `: ${e.text}` : "";
  switch (e.what) {
    case "appeared":
      return `appeared${e.to ? `, ${e.to}` : ""}${tail}`;
    case "gone":
      return `is gone${tail}`;
    case "state":
      return `${e.from || "?"} → ${e.to}${tail}`;
    case "health":
      return `health ${e.from} → ${e.to}${tail}`;
    default:
      return `${e.what}${e.to ? ` ${e.to}` : ""}${tail}`;
  }
}
