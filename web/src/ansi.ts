// Colours in log lines. Everything else that a terminal would act on is dropped: a log must not be able to do anything.

export interface Span {
  text: string;
  colour: number; // -1: the page's own, else 0..15
  bold: boolean;
  dim: boolean;
}

// CSI and OSC sequences, other escapes, and control characters but tab.
// eslint-disable-next-line no-control-regex
const sequence = /\u001b\[([0-9;:?]*)[ -/]*([@-~])|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|\u001b[ -/]*[0-~]?|[\u0000-\u0008\u000b-\u001a\u001c-\u001f\u007f-\u009f]/g;

export function parseAnsi(line: string): Span[] {
  if (!/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/.test(line)) return [{ text: line, colour: -1, bold: false, dim: false }];
  const out: Span[] = [];
  let colour = -1, bold = false, dim = false, at = 0;
  const push = (text: string) => text && out.push({ text, colour, bold, dim });
  for (const m of line.matchAll(sequence)) {
    push(line.slice(at, m.index));
    at = m.index + m[0].length;
    if (m[2] !== "m") continue;
    const codes = (m[1] || "0").split(/[;:]/).map(Number);
    for (let i = 0; i < codes.length; i++) {
      const c = codes[i];
      if (c === 0) [colour, bold, dim] = [-1, false, false];
      else if (c === 1) bold = true;
      else if (c === 2) dim = true;
      else if (c === 22) bold = dim = false;
      else if (c >= 30 && c <= 37) colour = c - 30;
      else if (c >= 90 && c <= 97) colour = c - 82;
      else if (c === 39) colour = -1;
      else if (c === 38 || c === 48) {
        if (codes[i + 1] === 5) {
          if (c === 38) colour = codes[i + 2] < 16 ? codes[i + 2] : -1;
          i += 2;
        } else if (codes[i + 1] === 2) i += 4;
      }
    }
  }
  push(line.slice(at));
  return out;
}

export function plain(line: string): string {
  return parseAnsi(line).map((s) => s.text).join("");
}
