// The rules of the packet filter.

import { Json, NO_PORT, headers } from "weir";
import { Prefix, decimal, readPrefix } from "./prefix";

const RULES_MAX = 64;

/** A rule. Without a managed part, so that it is read where it lies. */
@unmanaged
export class Rule {
  /** Source and destination, one after the other, as they lie in a header: IPv4's in the first of each two words. */
  address0: u64 = 0;
  address1: u64 = 0;
  address2: u64 = 0;
  address3: u64 = 0;
  mask0: u64 = 0;
  mask1: u64 = 0;
  mask2: u64 = 0;
  mask3: u64 = 0;
  protocol: u32 = 0;
  /** 0 for any protocol. */
  protocolMask: u32 = 0;
  /** The first port, and how many follow. */
  sport: u32 = 0;
  sports: u32 = NO_PORT;
  dport: u32 = 0;
  dports: u32 = NO_PORT;
  allow: bool = false;

  /** Whether it means the packet that was parsed last; addresses aside. */
  @inline matches(): bool {
    return (
      ((headers.protocol ^ this.protocol) & this.protocolMask) == 0 &&
      headers.destinationPort - this.dport <= this.dports &&
      headers.sourcePort - this.sport <= this.sports
    );
  }
}

/** The rules of each family, in order, and what decides without one. */
const v4 = new StaticArray<Rule>(RULES_MAX);
const v6 = new StaticArray<Rule>(RULES_MAX);
let v4Count = 0;
let v6Count = 0;
let allow = true;

/** What the first rule that matches says. `at` is where the source's address lies. */
// @ts-ignore: decorator
@inline export function allowV4(at: usize): bool {
  // Both addresses at once.
  const addresses = load<u64>(at);
  for (let i = 0; i < v4Count; i++) {
    const rule = unchecked(v4[i]);
    if (((addresses ^ rule.address0) & rule.mask0) == 0 && rule.matches()) return rule.allow;
  }
  return allow;
}

/** As `allowV4`. */
export function allowV6(at: usize): bool {
  const a0 = load<u64>(at);
  const a1 = load<u64>(at, 8);
  const a2 = load<u64>(at, 16);
  const a3 = load<u64>(at, 24);
  for (let i = 0; i < v6Count; i++) {
    const rule = unchecked(v6[i]);
    const differ =
      ((a0 ^ rule.address0) & rule.mask0) |
      ((a1 ^ rule.address1) & rule.mask1) |
      ((a2 ^ rule.address2) & rule.mask2) |
      ((a3 ^ rule.address3) & rule.mask3);
    if (differ == 0 && rule.matches()) return rule.allow;
  }
  return allow;
}

/** The number of a protocol, or -1. */
function readProtocol(value: Json): i64 {
  if (!value.isString) return value.integer(0, 255);
  const text = value.text();
  if (text == "icmp") return 1;
  if (text == "tcp") return 6;
  if (text == "udp") return 17;
  if (text == "icmpv6") return 58;
  return -1;
}

/** The first port in the upper and the number of those that follow in the lower half, or -1. */
function readPorts(value: Json): i64 {
  if (!value.isString) {
    const port = value.integer(0, 65535);
    return port < 0 ? -1 : port << 32;
  }
  const parts = value.text().split("-");
  const first = decimal(parts[0], 65535);
  const last = parts.length == 2 ? decimal(parts[1], 65535) : first;
  return parts.length > 2 || first < 0 || last < first ? -1 : (<i64>first << 32) | (last - first);
}

function isAction(value: Json): bool {
  return value.text() == "allow" || value.text() == "deny";
}

/** Reads a rule; why not, or null. */
function readRule(value: Json, name: string): string | null {
  const rule = new Rule();
  let source: Prefix | null = null;
  let destination: Prefix | null = null;
  let hasAction = false;
  const keys = value.members();
  for (let i = 0; i < keys.length; i++) {
    const key = keys[i].key;
    const its = keys[i].value;
    if (key == "action") {
      if (!isAction(its)) return name + ".action: allowed are allow and deny";
      rule.allow = its.text() == "allow";
      hasAction = true;
    } else if (key == "proto") {
      const protocol = readProtocol(its);
      if (protocol < 0) return name + ".proto: allowed are tcp, udp, icmp, icmpv6 and 0 to 255";
      rule.protocol = <u32>protocol;
      rule.protocolMask = 0xff;
    } else if (key == "src" || key == "dst") {
      const prefix = readPrefix(its.text());
      if (prefix == null) return name + "." + key + ": it is no prefix such as 10.0.0.0/8 or 2001:db8::1";
      if (key == "src") source = prefix;
      else destination = prefix;
    } else if (key == "sport" || key == "dport") {
      const ports = readPorts(its);
      if (ports < 0) return name + "." + key + ": allowed are a port such as 80 and a range such as 1000-2000";
      if (key == "sport") {
        rule.sport = <u32>(ports >> 32);
        rule.sports = <u32>ports;
      } else {
        rule.dport = <u32>(ports >> 32);
        rule.dports = <u32>ports;
      }
    } else {
      return name + ": unknown key " + key + "; allowed: action, proto, src, dst, sport, dport";
    }
  }
  if (!hasAction) return name + ": action is missing; allowed are allow and deny";
  const isV6 = (source != null && source.isV6) || (destination != null && destination.isV6);
  const isV4 = (source != null && !source.isV6) || (destination != null && !destination.isV6);
  const at = changetype<usize>(rule);
  for (let place = 0; place < 2; place++) {
    const prefix = place == 0 ? source : destination;
    if (prefix == null) continue;
    const bytes = prefix.isV6 ? 16 : 4;
    memory.copy(at + offsetof<Rule>("address0") + place * bytes, changetype<usize>(prefix.address), bytes);
    memory.copy(at + offsetof<Rule>("mask0") + place * bytes, changetype<usize>(prefix.mask), bytes);
    // Bits behind the prefix do not count.
    for (let i = 0; i < bytes; i++) {
      const byte = at + offsetof<Rule>("address0") + place * bytes + i;
      store<u8>(byte, load<u8>(byte) & prefix.mask[i]);
    }
  }
  if (!isV6) v4[v4Count++] = rule;
  if (!isV4) v6[v6Count++] = rule;
  return null;
}

/** Reads the configuration; why it is refused, or null. */
export function read(config: Json): string | null {
  const keys = config.members();
  for (let i = 0; i < keys.length; i++) {
    const value = keys[i].value;
    if (keys[i].key == "default") {
      if (!isAction(value)) return "default: allowed are allow and deny";
      allow = value.text() == "allow";
    } else if (keys[i].key == "rules") {
      if (!value.isList) return "rules: a list is needed";
      const rules = value.members();
      if (rules.length > RULES_MAX) return "rules: " + rules.length.toString() + " are too many, 64 at most";
      for (let j = 0; j < rules.length; j++) {
        const refused = readRule(rules[j].value, "rules[" + j.toString() + "]");
        if (refused != null) return refused;
      }
    } else {
      return "unknown key " + keys[i].key + "; allowed: default, rules";
    }
  }
  return null;
}
