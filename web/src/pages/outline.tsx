// The map for those who don't see it: the same nodes and connections as a list, sharing the map's mark.

import { useMemo, useState } from "react";
import type { ViewState } from "../estate";
import { healthNames, metric as formatted } from "../format";
import { inDirection } from "../graph/grid";
import { neighbours, type Picture } from "../graph/picture";
import { Button, Health } from "../ui/parts";

/** Where an arrow key leads: along a connection when there is one that way, else to the nearest node that way. */
export function walk(p: Picture, from: number, dx: number, dy: number): number {
  if (p.count === 0) return -1;
  if (from < 0) return 0;
  const along = inDirection(p, from, dx, dy, neighbours(p, from));
  if (along >= 0) return along;
  return inDirection(p, from, dx, dy, Array.from({ length: p.count }, (_, i) => i));
}

const most = 200;

export function Outline({ pic, version, shown, cursor, onGo, onOpen, onClose, vs }: { pic: Picture; version: number; shown: boolean; cursor: string; onGo: (i: number) => void; onOpen: (i: number) => void; onClose: () => void; vs: ViewState }) {
  const [all, setAll] = useState(most);
  const rows = useMemo(() => {
    const rank = [3, 2, 1, 0, 1]; // by health: what needs a look first, the outside world last
    return Array.from({ length: pic.count }, (_, i) => i).sort((a, b) => rank[pic.health[a]] - rank[pic.health[b]] || pic.label[a].localeCompare(pic.label[b]) || pic.h[a] - pic.h[b]);
    // The picture is changed in place; version tells when.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [pic, version]);
  const at = pic.find(cursor);
  return (
    <section className={`outline ${shown ? "" : "sr-only"}`} aria-label="The map as a list">
      <header>
        <h2>{vs.def?.label ?? "Nodes"} and connections</h2>
        {shown && <Button small kind="ghost" icon="close" label="Close the list" onClick={onClose} />}
      </header>
      <ul>
        {rows.slice(0, all).map((i) => (
          <li key={pic.h[i]}>
            <button type="button" aria-current={i === at ? "true" : undefined} tabIndex={shown ? 0 : -1} onClick={() => (i === at ? onOpen(i) : onGo(i))}>
              <Health value={pic.health[i]} />
              <span className="clip">{pic.label[i]}</span>
              <span className="faint clip">{pic.minor[i]}</span>
              {pic.state[i] && <span className="sr-only">, {pic.state[i]}</span>}
              {pic.reason[i] && <span className="sr-only">, {healthNames[pic.health[i]]}: {pic.reason[i]}</span>}
              {vs.metric && !Number.isNaN(pic.m[i]) && <span className="faint num" style={{ marginLeft: "auto" }}>{formatted(pic.m[i], vs.metric.format)}</span>}
            </button>
            {i === at && (
              <ul aria-label={`Connections of ${pic.label[i]}`}>
                {neighbours(pic, i).slice(0, 50).map((o) => (
                  <li key={pic.h[o]}>
                    <button type="button" tabIndex={shown ? 0 : -1} onClick={() => onGo(o)}>
                      <span className="faint">{direction(pic, i, o)}</span>
                      <span className="clip">{pic.label[o]}</span>
                    </button>
                  </li>
                ))}
              </ul>
            )}
          </li>
        ))}
      </ul>
      {rows.length > all && <Button small kind="ghost" tabIndex={shown ? 0 : -1} onClick={() => setAll(all + 500)}>Show more of {rows.length.toLocaleString("en-GB")}</Button>}
    </section>
  );
}

function direction(p: Picture, i: number, o: number): string {
  const l = p.link;
  let out = false, back = false;
  for (let k = l.from[i]; k < l.from[i + 1]; k++) {
    const e = l.list[k];
    if (l.s[e] === i && l.d[e] === o) out = true;
    if (l.d[e] === i && l.s[e] === o) back = true;
  }
  return out && back ? "to and from" : out ? "to" : "from";
}
