// Rules made code: an interpreter's loop over rules costs more than all that they compare.
import type { Verdict } from "weir-sdk";
import type { Rule, Word } from "./rules";

/** What the rules say of a packet; its addresses are the view's words from `at` on, source and destination one after the other. */
export type Decide = (protocol: number, sport: number, dport: number, view: DataView, at: number) => Verdict;

// In its text are numbers only, which `readRule` has made.
export function compile(rules: Rule[], deny: Verdict, otherwise: Verdict): Decide {
  const words = new Map(rules.flatMap((rule) => rule.words).map((word) => [masked(word), word]));
  const lines = [...words].map(([name, { place, mask }]) => `const ${name} = view.getInt32(at + ${4 * place}) & ${mask};`);
  for (const rule of rules) lines.push(`if (${condition(rule)}) return ${rule.allow ? 0 : deny};`);
  lines.push(`return ${otherwise};`);
  return new Function("protocol", "sport", "dport", "view", "at", lines.join("\n")) as Decide;
}

const masked = ({ place, bits }: Word) => `w${place}_${bits}`;

// What fewest packets fulfil comes first: what fixes most bits.
function condition(rule: Rule): string {
  const all = rule.words.map((word) => ({ bits: word.bits, text: `${masked(word)} === ${word.value}` }));
  if (rule.protocol >= 0) all.push({ bits: 8, text: `protocol === ${rule.protocol}` });
  for (const port of ["dport", "sport"] as const) {
    const { low, high } = rule[port];
    // Without ports a packet has -1.
    if (low < 0) continue;
    const text = low === high ? `${port} === ${low}` : `${port} >= ${low} && ${port} <= ${high}`;
    all.push({ bits: 16 - Math.log2(high - low + 1), text });
  }
  return all.sort((one, other) => other.bits - one.bits).map(({ text }) => text).join(" && ") || "true";
}
