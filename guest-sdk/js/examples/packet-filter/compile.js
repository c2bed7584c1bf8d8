// Rules made code: an interpreter's loop over rules costs more than all that they compare.
// A function (protocol, sport, dport, view, at), where the addresses are the words of the view from `at` on: source and destination,
// one after the other. In its text are numbers only, which `readRule` has made.
export function compile(rules, deny, otherwise) {
  const words = new Map(rules.flatMap((rule) => rule.words).map((word) => [masked(word), word]));
  const lines = [...words].map(([name, { place, mask }]) => `const ${name} = view.getInt32(at + ${4 * place}) & ${mask};`);
  for (const rule of rules) lines.push(`if (${condition(rule)}) return ${rule.allow ? 0 : deny};`);
  lines.push(`return ${otherwise};`);
  return new Function("protocol", "sport", "dport", "view", "at", lines.join("\n"));
}

const masked = ({ place, bits }) => `w${place}_${bits}`;

// What fewest packets fulfil comes first: what fixes most bits.
function condition(rule) {
  const all = rule.words.map((word) => ({ bits: word.bits, text: `${masked(word)} === ${word.value}` }));
  if (rule.protocol >= 0) all.push({ bits: 8, text: `protocol === ${rule.protocol}` });
  for (const port of ["dport", "sport"]) {
    const { low, high } = rule[port];
    // Without ports a packet has -1.
    if (low < 0) continue;
    const text = low === high ? `${port} === ${low}` : `${port} >= ${low} && ${port} <= ${high}`;
    all.push({ bits: 16 - Math.log2(high - low + 1), text });
  }
  return all.sort((one, other) => other.bits - one.bits).map(({ text }) => text).join(" && ") || "true";
}
