import { useEffect, useId, useLayoutEffect, useRef, useState, type ButtonHTMLAttributes, type ReactNode } from "react";
import { healthNames } from "../format";
import { createStore, useStore } from "../store";
import { Icon } from "./icons";

export function Button({ icon, kind = "plain", small, children, label, ...rest }: { icon?: string; kind?: "plain" | "primary" | "danger" | "ghost"; small?: boolean; label?: string } & ButtonHTMLAttributes<HTMLButtonElement>) {
  return (
    <button type="button" {...rest} className={`button ${kind} ${small ? "small" : ""} ${children ? "" : "square"} ${rest.className ?? ""}`} aria-label={label} title={rest.title ?? label}>
      {icon && <Icon name={icon} size={small ? 14 : 16} />}
      {children}
    </button>
  );
}

const marks = ["M8 8h.01", "M4.500 8.300 7 10.800l4.500-5", "M8 3 14 13H2z", "M8 1.800 14.200 8 8 14.200 1.800 8z", "M4.500 8h7"];

/** Health as shape, colour and (for those who listen) text. */
export function Health({ value, text }: { value: number; text?: boolean }) {
  const filled = value === 2 || value === 3;
  return (
    <span className={`health h${value}`}>
      <svg width="14" height="14" viewBox="0 0 16 16" fill={filled ? "currentColor" : "none"} stroke="currentColor" strokeWidth={filled ? 1 : 1.8} strokeLinecap="round" strokeLinejoin="round" role="img" aria-label={text ? undefined : healthNames[value]} aria-hidden={text ? true : undefined}>
        {value === 1 || value === 4 || value === 0 ? <circle cx="8" cy="8" r="6.500" strokeWidth="1.300" opacity={value === 1 ? 0.45 : 0.7} strokeDasharray={value === 1 ? undefined : "2.500 2.500"} /> : null}
        <path d={marks[value] ?? marks[0]} />
      </svg>
      {text && <span>{healthNames[value]}</span>}
    </span>
  );
}

export function StateText({ state }: { state: string }) {
  if (!state) return null;
  return <span className={`state ${state}`}>{state}</span>;
}

export function Bar({ value, max = 100, label, tone }: { value: number; max?: number; label: string; tone?: string }) {
  const share = Number.isFinite(value) && max > 0 ? Math.max(0, Math.min(1, value / max)) : 0;
  const level = tone ?? (share > 0.9 ? "crit" : share > 0.75 ? "warn" : "ok");
  return (
    <span className="bar" role="meter" aria-valuenow={Math.round(share * 100)} aria-valuemin={0} aria-valuemax={100} aria-label={label}>
      <span className={`fill ${level}`} style={{ width: `${share * 100}%` }} />
    </span>
  );
}

export function Empty({ icon = "map", title, children }: { icon?: string; title: string; children?: ReactNode }) {
  return (
    <div className="empty">
      <div className="empty-mark">
        <Icon name={icon} size={26} />
      </div>
      <h2>{title}</h2>
      <div className="empty-text">{children}</div>
    </div>
  );
}

export function Loading({ what }: { what: string }) {
  return (
    <div className="loading" role="status">
      <span className="spinner" />
      {what}
    </div>
  );
}

export function Problem({ error, retry }: { error: { message: string; hint?: string; status?: number }; retry?: () => void }) {
  return (
    <div className="problem" role="alert">
      <Health value={error.status === 403 ? 2 : 3} />
      <div>
        <b>{error.message}</b>
        {error.hint && <p>{error.hint}</p>}
      </div>
      {retry && <Button small onClick={retry}>Try again</Button>}
    </div>
  );
}

export function Chip({ children, onRemove, label, tone }: { children: ReactNode; onRemove?: () => void; label?: string; tone?: string }) {
  return (
    <span className={`chip ${tone ?? ""}`}>
      {children}
      {onRemove && (
        <button type="button" onClick={onRemove} aria-label={label ?? "Remove"}>
          <Icon name="close" size={12} />
        </button>
      )}
    </span>
  );
}

/** Moves a list that has been opened so that all of it is in the window: sideways, or above its button, or scrolled. */
function keepInside(list: HTMLElement) {
  list.style.cssText = "";
  const r = list.getBoundingClientRect(), button = list.parentElement!.getBoundingClientRect();
  const past = Math.max(0, r.right - (innerWidth - 8));
  if (past > 0) list.style.translate = `${-Math.min(past, Math.max(0, r.left - 8))}px 0`;
  else if (r.left < 8) list.style.translate = `${8 - r.left}px 0`;
  const below = innerHeight - 8 - r.top, above = button.top - 13;
  if (r.height <= below) return;
  if (above > below) Object.assign(list.style, { top: "auto", bottom: "calc(100% + 5px)" });
  list.style.maxHeight = `${Math.min(innerHeight * 0.6, Math.max(above, below))}px`;
}

/** A button that opens something below it. Escape, a choice, and going elsewhere close it. */
export function Popover({ button, label, children, icon, small, align = "left", kind = "plain" }: { button?: ReactNode; label: string; icon?: string; small?: boolean; align?: "left" | "right"; kind?: "plain" | "ghost"; children: (close: () => void) => ReactNode }) {
  const [open, setOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  const id = useId();
  // What was focused goes with the list: whoever works without a mouse would be at the page's beginning.
  const close = () => {
    setOpen(false);
    root.current?.querySelector("button")?.focus();
  };
  useLayoutEffect(() => {
    if (!open) return;
    const away = (e: Event) => !root.current?.contains(e.target as Node) && setOpen(false);
    const key = (e: KeyboardEvent) => {
      if (e.key === "Escape") {
        e.preventDefault();
        close();
      } else if (e.key === "ArrowDown" || e.key === "ArrowUp") {
        const items = [...(root.current?.querySelectorAll<HTMLElement>(".popover [data-item]:not([disabled])") ?? [])];
        if (!items.length) return;
        e.preventDefault();
        const at = items.indexOf(document.activeElement as HTMLElement);
        items[(at + (e.key === "ArrowDown" ? 1 : items.length - 1) + (at < 0 && e.key === "ArrowUp" ? 1 : 0)) % items.length].focus();
      }
    };
    document.addEventListener("pointerdown", away);
    document.addEventListener("keydown", key, true);
    const list = root.current!.querySelector<HTMLElement>(".popover")!;
    keepInside(list);
    const watch = new ResizeObserver(() => keepInside(list));
    watch.observe(list);
    root.current?.querySelector<HTMLElement>(".popover [data-item], .popover input")?.focus();
    return () => {
      document.removeEventListener("pointerdown", away);
      document.removeEventListener("keydown", key, true);
      watch.disconnect();
    };
  }, [open]);
  return (
    <div className="popover-root" ref={root} onBlur={(e) => e.relatedTarget && !e.currentTarget.contains(e.relatedTarget) && setOpen(false)}>
      <button type="button" className={`button ${kind} ${small ? "small" : ""} ${button ? "" : "square"}`} aria-haspopup="true" aria-expanded={open} aria-controls={open ? id : undefined} aria-label={label} title={label} onClick={() => setOpen(!open)}>
        {icon && <Icon name={icon} size={small ? 14 : 16} />}
        {button}
        {button && <Icon name="chevron" size={12} />}
      </button>
      {open && (
        <div className={`popover at-${align}`} id={id} role="group" aria-label={label}>
          {children(close)}
        </div>
      )}
    </div>
  );
}

export function Item({ children, icon, selected, danger, onPick, disabled, note }: { children: ReactNode; icon?: string; selected?: boolean; danger?: boolean; disabled?: boolean; note?: string; onPick: () => void }) {
  return (
    <button type="button" data-item className={`item ${danger ? "danger" : ""}`} aria-pressed={selected} disabled={disabled} title={note} onClick={onPick}>
      {icon !== undefined && <Icon name={icon} />}
      <span>{children}</span>
      {selected && <Icon name="task" size={14} />}
    </button>
  );
}

/** One of several, as a pop-up list with its name before it. */
export function Pick<T extends string>({ label, value, options, onChange, small = true }: { label: string; value: T; options: { id: T; label: string }[]; onChange: (v: T) => void; small?: boolean }) {
  return (
    <Popover
      small={small}
      label={`${label}: ${options.find((o) => o.id === value)?.label ?? value}`}
      button={
        <span>
          <span className="faint">{label}</span> {options.find((o) => o.id === value)?.label ?? value}
        </span>
      }
    >
      {(close) =>
        options.map((o) => (
          <Item key={o.id} selected={o.id === value} onPick={() => (onChange(o.id), close())}>
            {o.label}
          </Item>
        ))
      }
    </Popover>
  );
}

export function Dialog({ title, onClose, children, wide, className }: { title: string; onClose: () => void; children: ReactNode; wide?: boolean; className?: string }) {
  const ref = useRef<HTMLDivElement>(null);
  const id = useId();
  const leave = useRef(onClose);
  leave.current = onClose;
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    const inside = () => !!ref.current?.contains(document.activeElement);
    ref.current?.querySelector<HTMLElement>("[autofocus], input, textarea, [data-first]")?.focus();
    // What is not to be used yet takes no focus. It must not stay with what the dialog covers.
    if (!inside()) ref.current?.focus();
    const key = (e: KeyboardEvent) => {
      if (e.key === "Escape") {
        e.preventDefault();
        e.stopPropagation();
        leave.current();
      }
      if (e.key !== "Tab") return;
      const list = [...(ref.current?.querySelectorAll<HTMLElement>("button:not([disabled]), input, select, textarea, a[href], [tabindex='0']") ?? [])];
      if (!list.length) return;
      const first = list[0], last = list[list.length - 1];
      if (e.shiftKey && (document.activeElement === first || document.activeElement === ref.current || !inside())) (e.preventDefault(), last.focus());
      else if (!e.shiftKey && (document.activeElement === last || !inside())) (e.preventDefault(), first.focus());
    };
    document.addEventListener("keydown", key, true);
    return () => {
      document.removeEventListener("keydown", key, true);
      before?.focus?.();
    };
    // The dialog lives as long as it is shown.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, []);
  return (
    <div className="veil" onPointerDown={(e) => e.target === e.currentTarget && onClose()}>
      <div className={`dialog ${wide ? "wide" : ""} ${className ?? ""}`} role="dialog" aria-modal="true" aria-labelledby={id} ref={ref} tabIndex={-1}>
        <div className="head">
          <h2 id={id}>{title}</h2>
          <Button kind="ghost" small icon="close" label="Close" onClick={onClose} />
        </div>
        {children}
      </div>
    </div>
  );
}

// Messages that pass by

interface Toast {
  id: number;
  text: string;
  tone: "ok" | "crit" | "info";
}
const toasts = createStore<Toast[]>([]);
let nextToast = 1;

export function toast(text: string, tone: Toast["tone"] = "info") {
  const t = { id: nextToast++, text, tone };
  toasts.set((was) => [...was.slice(-3), t]);
  setTimeout(() => toasts.set((was) => was.filter((x) => x !== t)), tone === "crit" ? 9000 : 4500);
}

export function Toasts() {
  const list = useStore(toasts);
  return (
    <div className="toasts" role="status" aria-live="polite">
      {list.map((t) => (
        <div key={t.id} className={`toast ${t.tone}`}>
          <Health value={t.tone === "crit" ? 3 : 1} />
          {t.text}
          <button type="button" aria-label="Dismiss" onClick={() => toasts.set((was) => was.filter((x) => x !== t))}>
            <Icon name="close" size={12} />
          </button>
        </div>
      ))}
    </div>
  );
}

export async function copy(text: string) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied", "ok");
  } catch {
    // Pages without TLS have no clipboard, but for those of the machine itself.
    if (copyOldWay(text)) toast("Copied", "ok");
    else toast("The browser does not allow copying here", "crit");
  }
}

function copyOldWay(text: string): boolean {
  const before = document.activeElement as HTMLElement | null;
  const field = document.createElement("textarea");
  field.value = text;
  field.style.cssText = "position:fixed;opacity:0";
  // Inside a dialog, whose focus is kept there.
  (document.querySelector("[role=dialog]") ?? document.body).append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  before?.focus();
  return done;
}

export function save(name: string, data: Blob) {
  const a = document.createElement("a");
  a.href = URL.createObjectURL(data);
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10_000);
}

export function Kbd({ keys }: { keys: string[] }) {
  return (
    <span className="keys">
      {keys.map((k, i) => (
        <kbd key={i}>{k}</kbd>
      ))}
    </span>
  );
}
