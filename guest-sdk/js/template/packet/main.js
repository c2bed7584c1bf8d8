// Drops TCP and UDP packets to blocked ports.
import { ConfigError, Malformed, NEXT, counter, drop, parse, weirFunction } from "weir-sdk";

const blocked = new Set();
const count = counter("blocked");

export const packetBurst = weirFunction({
  headBytes: 128,

  // `config` is `[function.config]` of the chain.
  configure(setup, config) {
    for (const key of Object.keys(config)) {
      if (key !== "blocked") throw new ConfigError(`${key}: there is no such key`);
    }
    if (!Array.isArray(config.blocked)) throw new ConfigError("blocked: a list of ports is needed");
    for (const port of config.blocked) {
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
      // A port could be hidden in what cannot be read: a tiny first fragment (RFC 1858), headers longer than what was asked for.
      return drop(2);
    }
    // `dport` is -1 of what is neither TCP nor UDP.
    if (headers === null || !blocked.has(headers.dport)) return NEXT;
    count.add(1);
    return drop(1);
  },
});
