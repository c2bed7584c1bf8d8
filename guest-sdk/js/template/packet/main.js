// Drops TCP and UDP packets to blocked ports.
import { ConfigError, Malformed, NEXT, counter, drop, parse, weirFunction } from "weir-sdk";

const blocked = new Set();
const count = counter("blocked");

export const packetBurst = weirFunction({
  headBytes: 128,

  // `config` is `[function.config]` of the chain.
  configure(setup, config) {
    for (const port of config.blocked ?? []) {
      if (!Number.isInteger(port) || port < 1 || port > 65535) {
        throw new ConfigError(`blocked: ${port} is no port; allowed are 1 to 65535`);
      }
      blocked.add(port);
    }
  },

  process(packet) {
    let headers;
    try {
      headers = parse(packet);
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      // What cannot be read goes on, unless that is because its headers are longer than what was asked for.
      return packet.given < packet.length ? drop(2) : NEXT;
    }
    // `dport` is -1 of what is neither TCP nor UDP.
    if (headers === null || !blocked.has(headers.dport)) return NEXT;
    count.add(1);
    return drop(1);
  },
});
