// A table that renders only the rows in sight. Arrow keys move through it, Enter opens, Space selects.

import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState, type KeyboardEvent, type ReactNode } from "react";
import { Icon } from "./icons";

export interface Column<R> {
  id: string;
  label: string;
  /** CSS grid track: "120px", "minmax(160px, 2fr)". */
  width: string;
  align?: "right";
  sort?: (r: R) => string | number;
  cell: (r: R) => ReactNode;
  /** What goes into an exported file; without it the sort value. */
  text?: (r: R) => string | number;
}

interface Props<R> {
  label: string;
  columns: Column<R>[];
  rows: R[];
  id: (r: R) => string;
  onOpen?: (r: R) => void;
  current?: string;
  selected?: ReadonlySet<string>;
  onSelect?: (ids: Set<string>) => void;
  sort: { id: string; desc: boolean };
  onSort: (s: { id: string; desc: boolean }) => void;
  rowHeight?: number;
  empty?: ReactNode;
  autoFocus?: boolean;
}

export function sorted<R>(rows: R[], columns: Column<R>[], sort: { id: string; desc: boolean }): R[] {
  const col = columns.find((c) => c.id === sort.id);
  if (!col?.sort) return rows;
  const keys = rows.map((r) => col.sort!(r));
  const index = rows.map((_, i) => i);
  const dir = sort.desc ? -1 : 1;
  index.sort((a, b) => {
    const x = keys[a], y = keys[b];
    if (typeof x === "number" && typeof y === "number") {
      // What has no value is last in either direction.
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) ? (Number.isNaN(y) ? a - b : 1) : -1;
      return (x - y) * dir || a - b;
    }
    return collator.compare(String(x), String(y)) * dir || a - b;
  });
  return index.map((i) => rows[i]);
}

/** Where the chosen row is now; when it has gone, or none was chosen, the place it had last. */
export function follow<R>(list: R[], id: (r: R) => string, chosen: string | undefined, last: number): number {
  if (list[last] && id(list[last]) === chosen) return last;
  const at = chosen === undefined ? -1 : list.findIndex((r) => id(r) === chosen);
  return at >= 0 ? at : Math.max(0, Math.min(last, list.length - 1));
}

/** How many rows can be selected, and so be acted on, at once. */
const most = 500;

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

export function csv<R>(columns: Column<R>[], rows: R[]): string {
  const field = (v: unknown) => {
    let s = String(v ?? "");
    // A spreadsheet must not take a name for a formula.
    if (/^[=+\-@\t\r]/.test(s) && !/^-?[\d.]+$/.test(s)) s = "'" + s;
    return /[",\n\r]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s;
  };
  const cols = columns.filter((c) => c.text || c.sort);
  return [cols.map((c) => field(c.label)), ...rows.map((r) => cols.map((c) => field((c.text ?? c.sort)!(r))))].map((l) => l.join(",")).join("\r\n") + "\r\n";
}

export function Table<R>({ label, columns, rows, id, onOpen, current, selected, onSelect, sort, onSort, rowHeight = 34, empty, autoFocus }: Props<R>) {
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const list = useMemo(() => sorted(rows, columns, sort), [rows, columns, sort]);
  // Rows move while somebody looks at them: what is active is a row, not a place. A key must never act on another one.
  const [chosen, setChosen] = useState<string>();
  const anchor = useRef<string>(undefined);
  const last = useRef(0);
  const active = follow(list, id, chosen, last.current);
  last.current = active;
  const setActive = (i: number) => setChosen(list[i] && id(list[i]));

  useLayoutEffect(() => {
    const el = box.current!;
    const o = new ResizeObserver(() => setHeight(el.clientHeight));
    o.observe(el);
    return () => o.disconnect();
  }, []);
  useEffect(() => {
    if (autoFocus) box.current?.focus();
  }, [autoFocus]);

  const from = Math.max(0, Math.floor(top / rowHeight) - 6);
  const to = Math.min(list.length, Math.ceil((top + height) / rowHeight) + 6);
  const template = (onSelect ? "34px " : "") + columns.map((c) => c.width).join(" ");
  // Head and rows are grids of their own: they agree when both are as wide as the least widths together.
  const minWidth = (onSelect ? 34 : 0) + columns.reduce((a, c) => a + (parseInt(/\d+/.exec(c.width)?.[0] ?? "80") || 80), 0);

  const show = useCallback(
    (i: number) => {
      const el = box.current!;
      const y = i * rowHeight;
      if (y < el.scrollTop) el.scrollTop = y;
      else if (y + rowHeight > el.scrollTop + el.clientHeight - rowHeight) el.scrollTop = y + 2 * rowHeight - el.clientHeight;
    },
    [rowHeight],
  );

  const toggle = (i: number, range: boolean) => {
    if (!onSelect) return;
    const next = new Set(selected);
    const from = range ? list.findIndex((r) => id(r) === anchor.current) : -1;
    if (from >= 0) for (let k = Math.min(from, i); k <= Math.max(from, i); k++) next.add(id(list[k]));
    else if (next.has(id(list[i]))) next.delete(id(list[i]));
    else next.add(id(list[i]));
    anchor.current = id(list[i]);
    onSelect(next);
  };

  const key = (e: KeyboardEvent) => {
    const page = Math.max(1, Math.floor(height / rowHeight) - 2);
    const moves: Record<string, number> = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: list.length - 1, j: active + 1, k: active - 1 };
    if (e.key in moves && !e.ctrlKey && !e.metaKey && !e.altKey) {
      e.preventDefault();
      const next = Math.max(0, Math.min(list.length - 1, moves[e.key]));
      setActive(next);
      show(next);
      if (e.shiftKey && onSelect && list[next]) {
        const sel = new Set(selected);
        if (list[active]) sel.add(id(list[active]));
        sel.add(id(list[next]));
        onSelect(sel);
      }
      return;
    }
    if (!list[active] || e.target !== e.currentTarget) return;
    if (e.key === "Enter") {
      e.preventDefault();
      onOpen?.(list[active]);
    } else if (e.key === " " && onSelect) {
      e.preventDefault();
      toggle(active, e.shiftKey);
    } else if (e.key === "a" && (e.ctrlKey || e.metaKey) && onSelect) {
      e.preventDefault();
      onSelect(new Set(list.slice(0, most).map(id)));
    }
  };

  // As many as may be acted on at once.
  const whole = list.slice(0, most).map(id);
  const all = whole.length > 0 && selected !== undefined && whole.every((r) => selected.has(r));
  const selectAll = () => onSelect?.(all ? new Set() : new Set(whole));
  return (
    <div
      className="table"
      role="grid"
      aria-label={label}
      aria-rowcount={list.length + 1}
      aria-multiselectable={onSelect ? true : undefined}
      aria-activedescendant={list[active] ? `row-${active}` : undefined}
      tabIndex={0}
      ref={box}
      onScroll={(e) => setTop(e.currentTarget.scrollTop)}
      onKeyDown={key}
    >
      <div className="thead" role="row" aria-rowindex={1} style={{ gridTemplateColumns: template, minWidth }}>
        {onSelect && (
          <div role="columnheader">
            <input type="checkbox" tabIndex={-1} aria-label={list.length > most ? `Select the first ${most}` : "Select all"} title={list.length > most ? `Select the first ${most}: no more can be acted on at once` : undefined} checked={all} onChange={selectAll} />
          </div>
        )}
        {columns.map((c) => (
          <div key={c.id} role="columnheader" className={c.align ?? ""} aria-sort={sort.id === c.id ? (sort.desc ? "descending" : "ascending") : undefined}>
            {c.sort ? (
              <button type="button" onClick={() => onSort({ id: c.id, desc: sort.id === c.id ? !sort.desc : c.align === "right" })}>
                {c.label}
                {sort.id === c.id && <span className={`sort ${sort.desc ? "" : "up"}`}><Icon name="chevron" size={12} /></span>}
              </button>
            ) : (
              c.label
            )}
          </div>
        ))}
      </div>
      <div className="tbody" role="rowgroup" style={{ height: list.length * rowHeight, minWidth }}>
        {list.slice(from, to).map((r, k) => {
          const i = from + k;
          const rid = id(r);
          return (
            <div
              key={rid}
              id={`row-${i}`}
              role="row"
              aria-rowindex={i + 2}
              aria-selected={onSelect ? (selected?.has(rid) ?? false) : rid === current}
              className={`tr ${i === active ? "active" : ""} ${rid === current ? "current" : ""} ${selected?.has(rid) ? "selected" : ""}`}
              style={{ top: i * rowHeight, height: rowHeight, gridTemplateColumns: template }}
              onClick={(e) => {
                setActive(i);
                box.current?.focus({ preventScroll: true });
                if (onSelect && (e.ctrlKey || e.metaKey || e.shiftKey)) toggle(i, e.shiftKey);
                else onOpen?.(r);
              }}
            >
              {onSelect && (
                <div role="gridcell" onClick={(e) => e.stopPropagation()}>
                  <input type="checkbox" tabIndex={-1} aria-label={`Select row ${i + 1}`} checked={selected?.has(rid) ?? false} onChange={(e) => toggle(i, (e.nativeEvent as MouseEvent).shiftKey)} />
                </div>
              )}
              {columns.map((c) => (
                <div key={c.id} role="gridcell" className={c.align ?? ""}>
                  {c.cell(r)}
                </div>
              ))}
            </div>
          );
        })}
      </div>
      {list.length === 0 && empty}
    </div>
  );
}
