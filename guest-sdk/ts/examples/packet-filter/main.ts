// A stateless firewall: the function that every language's SDK has as an example. What it does is specified in
// guest-sdk/packet-filter/README.md.
import {
  ConfigError, type Headers, Malformed, NEXT, type Packet, type Setup, type Verdict, drop, parse, weirFunction,
} from "weir-sdk";
import { type Decide, compile } from "./compile";
import { type Written, allows, readRule } from "./rules";

const RULES_MAX = 64;
const DENY = drop(1);

/** `[function.config]`: nothing of it has been checked. */
type Config = { default?: unknown; rules?: unknown };

let otherwise: Verdict = NEXT;
// What the rules say of packets of each version.
let decide4: Decide = () => otherwise;
let decide6: Decide = decide4;

export const packetBurst = weirFunction<Config>({
  configure(setup: Setup, config: Config) {
    for (const key of Object.keys(config)) {
      if (key !== "default" && key !== "rules") throw new ConfigError(`${key}: there is no such key; allowed are default, rules`);
    }
    otherwise = allows(config.default ?? "allow", "default") ? NEXT : DENY;
    const written = config.rules ?? [];
    if (!Array.isArray(written)) throw new ConfigError("rules: expected is a list");
    if (written.length > RULES_MAX) throw new ConfigError(`rules: ${written.length} are too many, ${RULES_MAX} at most`);
    const rules = written.map((each: Written, at) => readRule(each, `rules[${at}]`));
    decide4 = compile(rules.filter((rule) => rule.versions.has(4)), DENY, otherwise);
    decide6 = compile(rules.filter((rule) => rule.versions.has(6)), DENY, otherwise);
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
    const decide = headers.version === 4 ? decide4 : decide6;
    return decide(protocol, sport, dport, packet.view, addresses);
  },
});
