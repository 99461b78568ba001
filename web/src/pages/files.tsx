import { useLayoutEffect, useRef, useState } from "react";
import { nodePath, request } from "../api/client";
import { useLoad } from "../estate";
import { bytes, stamp } from "../format";
import { Icon } from "../ui/icons";
import { Button, Loading, Problem } from "../ui/parts";

export interface Entry {
  name: string;
  type: string;
  size: number;
  mode: string;
  mtime_ms: number;
  target: string;
}

export interface Source {
  key: string;
  root: string;
  list: (path: string, signal: AbortSignal) => Promise<Entry[]>;
  /** A part of a file. */
  read: (path: string, offset: number, length: number) => Promise<Uint8Array>;
  /** How large it is now. */
  size: (path: string) => Promise<number>;
  href: (path: string) => string;
}

const peek = 65_536;

/** Files of a container, through its probe. */
export function containerFiles(id: string): Source {
  const url = (path: string, rest: string) => `${nodePath(id)}/${rest}path=${encodeURIComponent(path)}`;
  const list = async (path: string, signal?: AbortSignal) => ((await (await request("GET", url(path, "files?"), undefined, signal)).json()) as { entries: Entry[] }).entries;
  return {
    key: id,
    root: "/",
    list,
    size: async (path) => {
      const cut = path.lastIndexOf("/");
      return (await list(path.slice(0, cut) || "/")).find((e) => e.name === path.slice(cut + 1))?.size ?? 0;
    },
    read: async (path, offset, length) => new Uint8Array(await (await request("GET", url(path, `file?offset=${offset}&length=${length}&`))).arrayBuffer()),
    href: (path) => url(path, "file?download=1&"),
  };
}

/** A file's beginning as text; what is no text is shown as a dump. */
export function shownBytes(b: Uint8Array): string {
  if (!b.subarray(0, 4096).includes(0)) return new TextDecoder().decode(b);
  const lines: string[] = [];
  for (let i = 0; i < Math.min(b.length, 4096); i += 16) {
    const part = [...b.subarray(i, i + 16)];
    lines.push(`${i.toString(16).padStart(8, "0")}  ${part.map((x) => x.toString(16).padStart(2, "0")).join(" ").padEnd(48)} ${part.map((x) => (x > 31 && x < 127 ? String.fromCharCode(x) : ".")).join("")}`);
  }
  return lines.join("\n");
}

/** Reads a file's end, given where it was last. A file that has grown faster than it is read, or was cut off, is asked for its size. */
export async function readEnd(source: Pick<Source, "read" | "size">, path: string, was: number): Promise<{ offset: number; bytes: Uint8Array }> {
  const from = (end: number) => Math.max(0, end - peek);
  let offset = from(was);
  let b = await source.read(path, offset, peek * 2);
  if (b.length >= peek * 2 || (b.length === 0 && offset > 0)) {
    offset = from(await source.size(path));
    b = await source.read(path, offset, peek * 2);
  }
  return { offset, bytes: b };
}

/** The end of a file, read again and again while somebody looks. */
function FileView({ source, path, size, back }: { source: Source; path: string; size: number; back: () => void }) {
  const box = useRef<HTMLPreElement>(null);
  const [end, setEnd] = useState(size > peek);
  const at = useRef(size);
  const { data, error, again } = useLoad(async () => {
    const { offset, bytes: b } = end ? await readEnd(source, path, at.current) : { offset: 0, bytes: await source.read(path, 0, peek + 1) };
    if (end) at.current = offset + b.length;
    return { text: shownBytes(end ? b.subarray(-peek) : b.subarray(0, peek)), cut: offset + b.length > peek };
  }, 2000, [source.key, path, end]);
  const text = data?.text;
  useLayoutEffect(() => {
    if (box.current && end) box.current.scrollTop = box.current.scrollHeight;
  }, [text, end]);
  return (
    <div style={{ display: "grid", gap: 9 }}>
      <div className="row wrap">
        <Button small icon="left" onClick={back}>Back</Button>
        <span className="grow" />
        <div className="segmented" role="group" aria-label="Part of the file">
          <button type="button" aria-pressed={!end} onClick={() => setEnd(false)}>Beginning</button>
          <button type="button" aria-pressed={end} onClick={() => setEnd(true)}>End</button>
        </div>
        <a className="button small" href={source.href(path)} download><Icon name="download" size={14} />Download</a>
      </div>
      <b className="mono clip">{path.startsWith(source.root) ? path.slice(source.root.length) : path}</b>
      {error && <Problem error={error} retry={again} />}
      {!data && !error && <Loading what="Reading the file" />}
      {data && <pre className="code" tabIndex={0} ref={box}>{data.text || "(empty)"}</pre>}
      {data?.cut && <p className="faint">The {end ? "last" : "first"} {bytes(peek)}, read again every two seconds.</p>}
    </div>
  );
}

export function Files({ source, start }: { source: Source; start?: string }) {
  const [path, setPath] = useState(start ?? source.root);
  const [file, setFile] = useState<{ path: string; size: number } | null>(null);
  const { data, error, again } = useLoad<Entry[]>((signal) => source.list(path, signal), 0, [source.key, path]);
  const join = (name: string) => (path.endsWith("/") ? path : path + "/") + name;
  const open = (e: Entry) => (e.type === "dir" ? setPath(join(e.name)) : setFile({ path: join(e.name), size: e.size }));
  const parts = path.slice(source.root.length).split("/").filter(Boolean);
  if (file) return <FileView key={file.path} source={source} {...file} back={() => setFile(null)} />;
  return (
    <div style={{ display: "grid", gap: 7 }}>
      <div className="row wrap" style={{ gap: 2 }}>
        <Button small kind="ghost" onClick={() => setPath(source.root)}>/</Button>
        {parts.map((p, i) => (
          <Button small kind="ghost" key={i} onClick={() => setPath(source.root + (source.root.endsWith("/") ? "" : "/") + parts.slice(0, i + 1).join("/"))}>{p}</Button>
        ))}
      </div>
      {error && <Problem error={error} retry={again} />}
      {!data && !error && <Loading what="Reading the directory" />}
      <div className="links">
        {data?.length === 0 && <p className="faint" style={{ padding: 8 }}>Empty.</p>}
        {[...(data ?? [])].sort((a, b) => Number(b.type === "dir") - Number(a.type === "dir") || a.name.localeCompare(b.name)).map((e) => (
          <button type="button" key={e.name} className="linkrow" title={`${e.mode} ${stamp(e.mtime_ms)}`} onClick={() => open(e)}>
            <Icon name={e.type === "dir" ? "files" : e.type === "link" ? "link" : "file"} size={14} />
            <span className="clip mono">{e.name}{e.target && ` → ${e.target}`}</span>
            <span className="end">{e.type === "file" ? bytes(e.size) : ""}</span>
          </button>
        ))}
      </div>
    </div>
  );
}
