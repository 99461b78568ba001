import { useEffect, useRef, useState } from "react";
import { api, get } from "../api/client";
import { useActions } from "../keys";
import { check } from "../query/parse";
import { Icon } from "./icons";
import { Item } from "./parts";

interface Field {
  name: string;
  kind: string;
  examples?: string[];
}

/** A field for the search grammar: says what is wrong while one types, and offers fields and their values. */
export function Filter({ value, onChange, view, label = "Filter", fields, example = "cpu>50% -host:vm2" }: { value: string; onChange: (q: string) => void; view?: string; label?: string; fields?: string[]; example?: string }) {
  const [text, setText] = useState(value);
  const [focus, setFocus] = useState(false);
  const [known, setKnown] = useState<Field[]>([]);
  const input = useRef<HTMLInputElement>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const sent = useRef(value);
  useEffect(() => {
    if (value !== sent.current) setText(value);
    sent.current = value;
  }, [value]);
  useEffect(() => {
    if (!focus || fields) return;
    get<{ fields: Field[] }>(`${api}/search/fields${view ? "?view=" + encodeURIComponent(view) : ""}`).then((r) => setKnown(r.fields), () => {});
  }, [focus, view, fields]);
  useEffect(() => () => clearTimeout(timer.current), []);
  useActions([{ id: "filter", keys: ["/"], label: "Filter this page", section: "Everywhere", run: () => input.current?.select() }], []);
  const wrong = text ? check(text) : null;
  const change = (q: string, now = false) => {
    setText(q);
    clearTimeout(timer.current);
    if (check(q)) return;
    timer.current = setTimeout(() => {
      sent.current = q;
      onChange(q);
    }, now ? 0 : 160);
  };
  const list = fields ? fields.map((name): Field => ({ name, kind: "text" })) : known;
  const word = /[^\s()]*$/.exec(text)![0].replace(/^-/, "");
  const [name, part] = word.split(/[:<>=]/, 2);
  const isValue = word.includes(":");
  const offers = !focus || wrong ? [] : isValue
    ? (list.find((f) => f.name === name.toLowerCase())?.examples ?? []).filter((v) => v.toLowerCase().includes((part ?? "").toLowerCase()) && v !== part).map((v) => ({ text: v, full: `${name}:${/[\s()"]/.test(v) ? JSON.stringify(v) : v} ` }))
    : list.filter((f) => word !== "" && f.name.startsWith(word.toLowerCase()) && f.name !== word).slice(0, 8).map((f) => ({ text: f.name + (f.kind === "number" ? " >" : " :"), full: f.name + (f.kind === "number" ? ">" : ":") }));
  return (
    <div className="filter" onBlur={(e) => !e.currentTarget.contains(e.relatedTarget) && setFocus(false)} onFocus={() => setFocus(true)}>
      <Icon name="search" size={14} />
      <input
        ref={input}
        type="search"
        value={text}
        aria-label={label}
        aria-invalid={wrong ? true : undefined}
        placeholder={`${label}, e.g. web ${example}`}
        spellCheck={false}
        onChange={(e) => change(e.target.value)}
        onKeyDown={(e) => {
          if (e.key === "Escape") {
            e.preventDefault();
            e.stopPropagation();
            if (text) change("", true);
            else e.currentTarget.blur();
          } else if (e.key === "Enter") change(text, true);
          else if (e.key === "ArrowDown" && offers.length) {
            e.preventDefault();
            e.currentTarget.parentElement!.querySelector<HTMLElement>("[data-item]")?.focus();
          }
        }}
      />
      {wrong && focus && <span className="why" role="alert">{wrong.message}</span>}
      {offers.length > 0 && (
        <div
          className="suggest"
          role="group"
          aria-label="Suggestions"
          onKeyDown={(e) => {
            const items = [...e.currentTarget.querySelectorAll<HTMLElement>("[data-item]")];
            const at = items.indexOf(document.activeElement as HTMLElement);
            if (e.key === "ArrowDown") items[Math.min(items.length - 1, at + 1)].focus();
            else if (e.key === "Escape" || (e.key === "ArrowUp" && at <= 0)) input.current?.focus();
            else if (e.key === "ArrowUp") items[at - 1].focus();
            else return;
            e.preventDefault();
            e.stopPropagation();
          }}
        >
          {offers.map((o) => (
            <Item key={o.text} onPick={() => (change(text.slice(0, text.length - word.length) + o.full, true), input.current?.focus())}>
              <span className="mono">{o.text}</span>
            </Item>
          ))}
        </div>
      )}
    </div>
  );
}
