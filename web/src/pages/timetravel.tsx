import { useEffect, useState } from "react";
import { api, get } from "../api/client";
import { useLoad } from "../estate";
import { clock, duration } from "../format";
import { useActions } from "../keys";
import { setParams, useRoute } from "../router";
import { createStore, useStore } from "../store";
import { Button } from "../ui/parts";

interface Range {
  from_ms: number;
  to_ms: number;
  step_ms: number;
  marks: { at: number; severity: number; text: string }[];
}

const open = createStore(false);

/** The bar with which one goes back in time. The time is part of the address. */
export function TimeTravel() {
  const { params } = useRoute();
  const wanted = useStore(open);
  const shown = wanted || !!params.at;
  const at = Number(params.at) || 0;
  const { data } = useLoad<Range>(shown ? (signal) => get(`${api}/replay`, signal) : null, 10_000, [shown]);
  const [playing, setPlaying] = useState(false);
  const to = data?.to_ms ?? Date.now();
  const from = data?.from_ms ?? to - 60_000;
  const go = (t: number) => setParams({ at: t >= to - 500 ? "" : String(Math.max(from, Math.round(t))) }, true);
  useActions(
    [
      { id: "time", keys: ["y"], label: "Time travel: open or close", section: "Time", run: () => toggle(), palette: true },
      { id: "time-back", keys: [","], label: "10 seconds back", section: "Time", run: () => (open.set(true), go((at || Date.now()) - 10_000)) },
      { id: "time-on", keys: ["."], label: "10 seconds on", section: "Time", run: () => at && go(at + 10_000) },
      { id: "time-live", keys: ["shift+l", "L"], label: "Back to now", section: "Time", run: () => setParams({ at: "" }), palette: true },
    ],
    [at, from, to],
  );
  useEffect(() => {
    // It has come to now: it does not go on by itself when somebody goes back again.
    if (!at) return setPlaying(false);
    if (!playing) return;
    const t = setTimeout(() => go(at + 2000), 500);
    return () => clearTimeout(t);
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [playing, at]);
  if (!shown) return null;
  return (
    <div className="scrub" role="group" aria-label="Time travel">
      <Button small icon={playing ? "pause" : "play"} label={playing ? "Pause" : "Play, four times as fast"} disabled={!at} onClick={() => setPlaying(!playing)} />
      <span className="num dim">{clock(from)}</span>
      <div className="track">
        <div className="marks" aria-hidden="true">
          {data?.marks.map((m, i) => <i key={i} className={`s${m.severity}`} title={m.text} style={{ left: `${((m.at - from) / Math.max(1, to - from)) * 100}%` }} />)}
        </div>
        <input type="range" aria-label="Time that is shown" aria-valuetext={at ? clock(at) : "now"} min={from} max={to} step={1000} value={at || to} onChange={(e) => go(Number(e.target.value))} />
      </div>
      <b className="num">{at ? `${clock(at)} · ${duration(to - at)} ago` : "now"}</b>
      <Button small disabled={!at} onClick={() => setParams({ at: "" }, true)}>Now</Button>
      <Button small kind="ghost" icon="close" label="Close time travel" onClick={() => toggle()} />
    </div>
  );
}

function toggle() {
  if (open.get() || new URLSearchParams(location.search).get("at")) {
    open.set(false);
    setParams({ at: "" }, true);
  } else open.set(true);
}

TimeTravel.Toggle = function Toggle() {
  const wanted = useStore(open);
  const on = !!useRoute().params.at || wanted;
  return <Button kind="ghost" icon="clock" label="Time travel" aria-pressed={on} onClick={toggle} />;
};
