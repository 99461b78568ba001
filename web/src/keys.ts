// Every shortcut of the page, so that the help sheet and the palette list what is there and nothing else.

import { useEffect } from "react";
import { createStore } from "./store";

export interface Action {
  id: string;
  /** "g m" is a sequence, "mod+k" is Ctrl or Cmd. Several are alternatives. */
  keys: string[];
  label: string;
  section: string;
  run: () => void;
  /** Shown in the palette too. */
  palette?: boolean;
}

export const actions = createStore<Action[]>([]);

/** Offers actions as long as the component is there. */
export function useActions(list: Action[], deps: unknown[]) {
  useEffect(() => {
    actions.set((was) => [...was, ...list]);
    return () => actions.set((was) => was.filter((a) => !list.includes(a)));
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, deps);
}

let pending = "";
let pendingAt = 0;

export function keyName(e: KeyboardEvent): string {
  if (isLeave(e)) return "mod+`";
  let k = e.key;
  if (k === " ") k = "space";
  if (k.length === 1) k = e.ctrlKey || e.metaKey ? k.toLowerCase() : k;
  let name = k.length === 1 ? k : k.toLowerCase();
  if (e.altKey) name = "alt+" + name;
  if (e.ctrlKey || e.metaKey) name = "mod+" + name;
  if (e.shiftKey && k.length > 1) name = "shift+" + name;
  return name;
}

function typing(t: EventTarget | null): boolean {
  if (!(t instanceof HTMLElement)) return false;
  return t.isContentEditable || t.tagName === "TEXTAREA" || t.tagName === "SELECT" || (t.tagName === "INPUT" && !["checkbox", "radio", "range", "button"].includes((t as HTMLInputElement).type)) || !!t.closest(".xterm");
}

/** The one key that a terminal does not get: it leads out of it. */
export function isLeave(e: KeyboardEvent): boolean {
  return e.ctrlKey && !e.altKey && (e.key === "`" || e.code === "Backquote");
}

/** Keys that the focused control itself means, or with which what is focused is scrolled. */
function own(t: HTMLElement, name: string): boolean {
  if (/^(enter|space)$/.test(name) && t.closest?.("button, a[href], input, summary, [role=grid], [role=tab], [role=option]")) return true;
  return /^(space|home|end|page.*|arrow.*)$/.test(name) && !!t.closest?.("input, [role=grid], [role=slider], [role=tab], [role=option], [role=log], [role=region][tabindex], [role=group][tabindex], pre[tabindex]");
}

export function installKeys() {
  addEventListener("keydown", (e) => {
    if (e.defaultPrevented) return;
    const name = keyName(e);
    if (typing(e.target) && !name.startsWith("mod+")) return;
    if ((e.target as HTMLElement).closest?.(".xterm") && !isLeave(e)) return;
    if (own(e.target as HTMLElement, name)) return;
    // A dialog has the keyboard to itself; the palette, which is one too, is closed by the key that opens it.
    if (document.querySelector("[role=dialog]:not([data-palette])") || (document.querySelector("[data-palette]") && name !== "mod+k")) return;
    const now = Date.now();
    const sequence = now - pendingAt < 1200 && pending ? `${pending} ${name}` : "";
    // The newest component's action comes first.
    const list = [...actions.get()].reverse();
    const hit = (sequence && list.find((a) => a.keys.includes(sequence))) || list.find((a) => a.keys.includes(name));
    if (hit) {
      pending = "";
      e.preventDefault();
      hit.run();
      return;
    }
    if (list.some((a) => a.keys.some((k) => k.startsWith(name + " ")))) {
      pending = name;
      pendingAt = now;
      e.preventDefault();
    } else pending = "";
  });
}

export function shown(key: string): string[] {
  const mac = navigator.platform.startsWith("Mac");
  const names: Record<string, string> = { mod: mac ? "⌘" : "Ctrl", arrowleft: "←", arrowright: "→", arrowup: "↑", arrowdown: "↓", escape: "Esc", enter: "Enter", space: "Space", shift: "Shift", alt: "Alt" };
  return key.split(/[ ]/).flatMap((part) => (part === "+" ? ["+"] : part.split("+").map((k, _, all) => names[k] ?? (k.length === 1 ? (all.length > 1 ? k.toUpperCase() : k) : k[0].toUpperCase() + k.slice(1)))));
}
