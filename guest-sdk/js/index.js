// Packet functions of Weir in JavaScript. index.d.ts says what there is.
export * from "./src/verdict.js";
export { Refused, counter, gauge, log, now, random, sendCopy, setTimer } from "./src/host.js";
export { Packet } from "./src/packet.js";
export { ICMP, ICMPV6, Malformed, TCP, UDP, parse } from "./src/parse.js";
export { ConfigError, weirFunction, weirSnapshot } from "./src/function.js";
