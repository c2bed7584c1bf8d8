// A stateless firewall: the function that every language's SDK has as an example. What it does is specified in
// guest-sdk/packet-filter/README.md.
import {
  ConfigError, type Headers, Malformed, NEXT, type Packet, type Setup, type Verdict, drop, parse, weirFunction,
} from "weir-sdk";
import { type Rule, type Written, allows, readRule } from "./rules";

const RULES_MAX = 64;
const DENY = drop(1);

/** `[function.config]`: nothing of it has been checked. */
type Config = { default?: unknown; rules?: unknown };

let otherwise: Verdict = NEXT;
// Rules that may match packets of each version.
const rules: Record<4 | 6, Rule[]> = { 4: [], 6: [] };

export const packetBurst = weirFunction<Config>({
  configure(setup: Setup, config: Config) {
    for (const key of Object.keys(config)) {
      if (key !== "default" && key !== "rules") throw new ConfigError(`${key}: there is no such key; allowed are default, rules`);
    }
    otherwise = allows(config.default ?? "allow", "default") ? NEXT : DENY;
    const written = config.rules ?? [];
    if (!Array.isArray(written)) throw new ConfigError("rules: expected is a list");
    if (written.length > RULES_MAX) throw new ConfigError(`rules: ${written.length} are too many, ${RULES_MAX} at most`);
    written.forEach((each: Written, at) => {
      const rule = readRule(each, `rules[${at}]`);
      for (const version of [4, 6] as const) if (rule.versions.has(version)) rules[version].push(rule);
    });
  },

  process(packet: Packet): Verdict {
    let headers: Headers | null;
    try {
      headers = parse(packet);
    } catch (error) {
      if (error instanceof Malformed) return DENY;
      throw error;
    }
    if (headers === null) return NEXT;
    const { protocol, sport, dport } = headers;
    // Source and destination, one after the other.
    const addresses = packet.at + headers.l3 + (headers.version === 4 ? 12 : 8);
    for (const rule of rules[headers.version]) {
      if (
        (rule.protocol < 0 || rule.protocol === protocol) &&
        dport >= rule.dport.low && dport <= rule.dport.high &&
        sport >= rule.sport.low && sport <= rule.sport.high &&
        within(packet.bytes, addresses, rule)
      ) {
        return rule.allow ? NEXT : DENY;
      }
    }
    return otherwise;
  },
});

// Whether the bytes from `at` on have the rule's bits: only those bytes are compared of which it says something.
function within(bytes: Uint8Array, at: number, rule: Rule): boolean {
  const { places, masks, values } = rule;
  for (let i = 0; i < places.length; i++) {
    if ((bytes[at + places[i]] & masks[i]) !== values[i]) return false;
  }
  return true;
}
