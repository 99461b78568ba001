import { useEffect, useState } from "react";
import { api, get, may, send, type ApiError } from "../api/client";
import type { Saved } from "../api/types";
import { views, type ViewState } from "../estate";
import { navigate, route, setParams, useRoute } from "../router";
import { useStore } from "../store";
import { Filter } from "../ui/filter";
import { Button, Chip, Dialog, Item, Pick, Popover, toast } from "../ui/parts";
import { csvOf } from "./map";

const groupNames: Record<string, string> = { none: "nothing", auto: "automatic" };
const colours = [{ id: "health", label: "health" }, { id: "metric", label: "metric" }, { id: "kind", label: "kind" }] as const;

/** What is shown and how: view, filter, grouping, colours, options, saved views. */
export function ViewBar({ vs, map, family }: { vs: ViewState; map?: boolean; family?: string }) {
  const { params } = useRoute();
  const defs = useStore(views);
  const [saving, setSaving] = useState(false);
  const list = family ? defs.filter((d) => d.id === family || d.parent === family || (family === "containers" && d.count > 0 && !["hosts", "processes", "processes-by-name"].includes(d.id))) : defs.filter((d) => d.count > 0 || ["containers", "hosts", "processes"].includes(d.id));
  // Containers can be put together, and grouped, by the value of any label that they have.
  const [labels, setLabels] = useState<string[]>([]);
  const labelled = vs.def?.kind === "container" || vs.view.startsWith("label:");
  useEffect(() => {
    if (!labelled) return setLabels([]);
    const stop = new AbortController();
    get<{ fields: { name: string }[] }>(`${api}/search/fields?view=containers`, stop.signal).then((r) => setLabels(r.fields.filter((f) => f.name.startsWith("label.")).map((f) => f.name.slice(6)).slice(0, 20)), () => {});
    return () => stop.abort();
  }, [labelled]);
  const label = (d: (typeof defs)[number]) => (d.parent ? `${defs.find((x) => x.id === d.parent)?.label ?? ""} ${d.label}` : d.label);
  const metrics = vs.def?.metrics ?? [];
  const changed = (vs.def?.options ?? []).filter((o) => params["o." + o.id] && params["o." + o.id] !== o.default).length;
  return (
    <div className="toolbar">
      {list.length > 1 && <Pick label="View" value={vs.view} options={[...list.map((d) => ({ id: d.id, label: label(d) })), ...labels.map((l) => ({ id: `label:${l}`, label: `By label ${l}` }))]} onChange={(view) => setParams({ view: view === (family ?? "containers") ? "" : view, group: "", expand: "", focus: "", "o.state": "" })} />}
      <Filter value={params.q ?? ""} view={vs.view} onChange={(q) => setParams({ q }, true)} />
      {map && <Pick label="Group" value={vs.options.group ?? "auto"} options={(vs.def?.groups ?? ["auto", "none"]).map((g) => ({ id: g, label: groupNames[g] ?? `by ${g}` })).concat(vs.view.startsWith("label:") ? [] : labels.map((l) => ({ id: `label:${l}`, label: `by label ${l}` })))} onChange={(group) => setParams({ group: group === "auto" ? "" : group, expand: "" })} />}
      {map && <Pick label="Colour" value={vs.colour} options={[...colours]} onChange={(c) => setParams({ colour: c === "health" ? "" : c }, true)} />}
      {metrics.length > 0 && <Pick label={map ? "Fill" : "Metric"} value={vs.metric?.id ?? "none"} options={[{ id: "none", label: "nothing" }, ...metrics.map((m) => ({ id: m.id, label: m.label }))]} onChange={(m) => setParams({ m: m === "cpu" ? "" : m }, true)} />}
      {metrics.length > 0 && <Pick label={map ? "Size" : "Second"} value={vs.options.size || "none"} options={[{ id: "none", label: map ? "equal" : "nothing" }, ...metrics.map((m) => ({ id: m.id, label: m.label }))]} onChange={(z) => setParams({ z: z === "none" && map ? "" : z }, true)} />}
      <Popover small icon="more" label="More options" button={changed ? <span>{changed} changed</span> : undefined}>
        {(close) => (
          <>
            {map && <div className="cap">Layout</div>}
            {map && ["auto", "layered", "force", "grid"].map((l) => <Item key={l} selected={(vs.options.layout ?? "auto") === l} onPick={() => (setParams({ layout: l === "auto" ? "" : l }), close())}>{l === "auto" ? "automatic" : l}</Item>)}
            {(vs.def?.options ?? []).map((o) => (
              <div key={o.id} role="group" aria-label={o.label}>
                <div className="cap">{o.label}</div>
                {o.values.map((v) => <Item key={v} selected={(params["o." + o.id] ?? o.default) === v} onPick={() => setParams({ ["o." + o.id]: v === o.default ? "" : v })}>{v}</Item>)}
              </div>
            ))}
          </>
        )}
      </Popover>
      <SavedViews onSave={() => setSaving(true)} />
      <Button small kind="ghost" icon="csv" label="Save as CSV" onClick={() => csvOf(vs)} />
      {params.find && <Chip tone="accent" onRemove={() => setParams({ find: "" })} label="End the search"><span className="clip">marked: {params.find}</span></Chip>}
      {params.focus && (
        <Chip tone="accent" onRemove={() => setParams({ focus: "", hops: "" })} label="End the focus">
          focus, {vs.options.hops} {vs.options.hops === 1 ? "hop" : "hops"}
          <button type="button" aria-label="One hop less" onClick={() => setParams({ hops: String(Math.max(1, (vs.options.hops ?? 1) - 1)) })}>–</button>
          <button type="button" aria-label="One hop more" onClick={() => setParams({ hops: String(Math.min(20, (vs.options.hops ?? 1) + 1)) })}>+</button>
        </Chip>
      )}
      {(vs.options.expand?.length ?? 0) > 0 && <Chip onRemove={() => setParams({ expand: "" })} label="Close all groups">{vs.options.expand!.length} open</Chip>}
      {saving && <SaveView vs={vs} onClose={() => setSaving(false)} />}
    </div>
  );
}

function SavedViews({ onSave }: { onSave: () => void }) {
  return (
    <Popover small kind="ghost" icon="save" label="Saved views">
      {(close) => <SavedList close={close} onSave={onSave} />}
    </Popover>
  );
}

function SavedList({ close, onSave }: { close: () => void; onSave: () => void }) {
  const [list, setList] = useState<Saved[]>([]);
  const load = () => void get<{ saved: Saved[] }>(`${api}/saved`).then((r) => setList(r.saved), () => {});
  useEffect(load, []);
  return (
    <>
      <Item icon="plus" onPick={() => (close(), onSave())}>Save this view</Item>
      {list.length > 0 && <div className="cap">Saved</div>}
      {list.map((s) => (
        <div className="row" key={s.id} style={{ gap: 0 }}>
          <Item
            icon={s.shared ? "users" : "save"}
            onPick={() => {
              close();
              const { path, ...params } = s.options;
              navigate(path ?? "/map", params);
            }}
          >
            {s.name}
          </Item>
          <Button small kind="ghost" icon="close" label={`Delete ${s.name}`} onClick={() => void send("DELETE", `${api}/saved/${s.id}`).then(load, (e: ApiError) => toast(e.message, "crit"))} />
        </div>
      ))}
    </>
  );
}

function SaveView({ vs, onClose }: { vs: ViewState; onClose: () => void }) {
  const [shared, setShared] = useState(false);
  const submit = async (name: string) => {
    const { path, params } = route.get();
    const { node: _, at: __, ...rest } = params;
    try {
      await send("POST", `${api}/saved`, { name, shared, view: vs.view, options: { ...rest, path } });
      toast(`Saved as ${name}`, "ok");
      onClose();
    } catch (e) {
      toast((e as ApiError).message, "crit");
    }
  };
  return (
    <Dialog title="Save this view" onClose={onClose}>
      <form onSubmit={(e) => (e.preventDefault(), void submit(String(new FormData(e.currentTarget).get("name")).trim()))} style={{ display: "contents" }}>
        <div className="body">
          <label className="field">Name<input type="text" name="name" required maxLength={200} /></label>
          {may("operator") && <label className="row"><input type="checkbox" checked={shared} onChange={(e) => setShared(e.target.checked)} /> Share with everybody</label>}
        </div>
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <button type="submit" className="button primary">Save</button>
        </footer>
      </form>
    </Dialog>
  );
}
