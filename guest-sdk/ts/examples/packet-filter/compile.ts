// Rules made code: an interpreter's loop over rules costs more than all that they compare.
import type { Verdict } from "weir-sdk";
import type { Rule } from "./rules";

/** What the rules say of a packet; its addresses are the bytes from `at` on, source and destination one after the other. */
export type Decide = (protocol: number, sport: number, dport: number, bytes: Uint8Array, at: number) => Verdict;

// In its text are numbers only, which `readRule` has made.
export function compile(rules: Rule[], deny: Verdict, otherwise: Verdict): Decide {
  const places = new Set(rules.flatMap((rule) => rule.places));
  const lines = [...places].map((place) => `const b${place} = bytes[at + ${place}];`);
  for (const rule of rules) lines.push(`if (${condition(rule)}) return ${rule.allow ? 0 : deny};`);
  lines.push(`return ${otherwise};`);
  return new Function("protocol", "sport", "dport", "bytes", "at", lines.join("\n")) as Decide;
}

function condition(rule: Rule): string {
  const all: string[] = [];
  if (rule.protocol >= 0) all.push(`protocol === ${rule.protocol}`);
  for (const port of ["dport", "sport"] as const) {
    const { low, high } = rule[port];
    // Without ports a packet has -1.
    if (low >= 0) all.push(low === high ? `${port} === ${low}` : `${port} >= ${low} && ${port} <= ${high}`);
  }
  rule.places.forEach((place, i) => {
    const mask = rule.masks[i];
    all.push(mask === 255 ? `b${place} === ${rule.values[i]}` : `(b${place} & ${mask}) === ${rule.values[i]}`);
  });
  return all.join(" && ") || "true";
}
