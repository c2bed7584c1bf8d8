// The rules: read as they are written, to be compared.
import { ConfigError, ICMP, ICMPV6, TCP, UDP } from "weir-sdk";

const PROTOCOLS = { tcp: TCP, udp: UDP, icmp: ICMP, icmpv6: ICMPV6 };
const KEYS = ["action", "proto", "src", "dst", "sport", "dport"];

export function allows(action, key) {
  if (action === undefined) throw new ConfigError(`${key}: it is missing; allowed are allow, deny`);
  if (action !== "allow" && action !== "deny") {
    throw new ConfigError(`${key}: unknown value \`${action}\`; allowed are allow, deny`);
  }
  return action === "allow";
}

export function readRule(written, key) {
  for (const name of Object.keys(written)) {
    if (!KEYS.includes(name)) throw new ConfigError(`${key}.${name}: there is no such key; allowed are ${KEYS.join(", ")}`);
  }
  const rule = {
    allow: allows(written.action, `${key}.action`),
    protocol: readProtocol(written.proto, `${key}.proto`),
    sport: readPorts(written.sport, `${key}.sport`),
    dport: readPorts(written.dport, `${key}.dport`),
    versions: new Set([4, 6]),
    // Words of source and destination, as they follow each other in a header: the first bits of each, and what they have to be.
    words: [],
  };
  for (const [place, name] of ["src", "dst"].entries()) {
    if (written[name] === undefined) continue;
    const { bytes, length } = readPrefix(written[name], `${key}.${name}`);
    rule.versions.delete(bytes.length === 4 ? 6 : 4);
    const view = new DataView(Uint8Array.from(bytes).buffer);
    for (let at = 0; at * 8 < length; at += 4) {
      const bits = Math.min(32, length - at * 8);
      const mask = -1 << (32 - bits);
      rule.words.push({ place: (place * bytes.length + at) / 4, bits, mask, value: view.getInt32(at) & mask });
    }
  }
  return rule;
}

function readProtocol(text, key) {
  if (text === undefined) return -1;
  const number = Object.hasOwn(PROTOCOLS, text) ? PROTOCOLS[text] : text;
  if (!Number.isInteger(number) || number < 0 || number > 255) {
    throw new ConfigError(`${key}: ${text} is no protocol; allowed are tcp, udp, icmp, icmpv6 and 0 to 255`);
  }
  return number;
}

// Without ports a packet has -1: only a rule that says nothing of ports matches it.
function readPorts(text, key) {
  if (text === undefined) return { low: -1, high: 65535 };
  const found = /^(\d+)(?:-(\d+))?$/.exec(String(text));
  const low = Number(found?.[1]);
  const high = Number(found?.[2] ?? low);
  if (!found || low > high || high > 65535) {
    throw new ConfigError(`${key}: ${text} is no port such as 80 and no range such as 1000-2000`);
  }
  return { low, high };
}

function readPrefix(text, key) {
  const [address, bits, ...more] = String(text).split("/");
  const bytes = address.includes(":") ? readV6(address) : readV4(address);
  const length = bits === undefined ? (bytes?.length ?? 0) * 8 : /^\d{1,3}$/.test(bits) ? Number(bits) : NaN;
  if (!bytes || more.length || !(length <= bytes.length * 8)) {
    throw new ConfigError(`${key}: ${text} is no prefix such as 10.0.0.0/8 or 2001:db8::1`);
  }
  return { bytes, length };
}

function readV4(text) {
  const parts = text.split(".");
  const good = parts.length === 4 && parts.every((part) => /^\d{1,3}$/.test(part) && Number(part) < 256);
  return good ? parts.map(Number) : null;
}

function readV6(text) {
  // The last two groups may be written as an IPv4 address.
  const dotted = /^(.*:)([\d.]+)$/.exec(text);
  if (dotted && dotted[2].includes(".")) {
    const v4 = readV4(dotted[2]);
    if (!v4) return null;
    text = `${dotted[1]}${((v4[0] << 8) | v4[1]).toString(16)}:${((v4[2] << 8) | v4[3]).toString(16)}`;
  }
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const [head, tail] = halves.map((half) => (half === "" ? [] : half.split(":")));
  const groups = head.length + (tail?.length ?? 0);
  if (tail === undefined ? groups !== 8 : groups > 7) return null;
  const all = [...head, ...Array(8 - groups).fill("0"), ...(tail ?? [])];
  if (!all.every((group) => /^[0-9a-fA-F]{1,4}$/.test(group))) return null;
  return all.flatMap((group) => [parseInt(group, 16) >> 8, parseInt(group, 16) & 0xff]);
}
