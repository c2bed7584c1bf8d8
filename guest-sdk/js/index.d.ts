/** Packet functions of Weir. A module exports `packetBurst`, made by {@link weirFunction}; README.md shows one. */

/** What becomes of a packet: one of the constants, or made by one of the functions below. */
export type Verdict = number;
/** Continue with the next function, or leave by the chain's output. */
export const NEXT: Verdict;
/** Leave by the port it came in by. */
export const REPLY: Verdict;
/** To the kernel's stack. */
export const TO_KERNEL: Verdict;
/** Free it; the reason, 0 to 16777215, is counted. Those from 63 on are counted as 63, together. */
export function drop(reason: number): Verdict;
/** Leave by this port (see {@link Setup.port}). */
export function forward(port: number): Verdict;
/** Continue with this function, a place in `Setup.functions` behind the function's own. */
export function jump(place: number): Verdict;
/** As NEXT, and a copy of the packet as it is now leaves by this port. */
export function clone(port: number): Verdict;
/** The packet and its flow go on elsewhere: 0 is the kernel's stack, n the n-th of the function's targets in the chain. */
export function move(target: number): Verdict;
/** The same for all further packets of the flow in this direction; of NEXT, drop, REPLY, forward and TO_KERNEL. */
export function final(decided: Verdict): Verdict;

/** One packet: a view of its first bytes. It is worth nothing when `process` has returned. */
export class Packet {
  /** The array in which its bytes lie; the first is `bytes[at]`, and `given` of them are its own. */
  readonly bytes: Uint8Array;
  /** A view on `bytes`, for numbers that are known to lie within the packet: `packet.view.getUint16(packet.at + 12)`. */
  readonly view: DataView;
  /** Where its first byte lies in `bytes`. */
  readonly at: number;
  /** How many of its bytes lie there. */
  readonly given: number;
  /** Bytes of the whole packet. */
  readonly length: number;
  /** Number of the port it came in by, an index of `Setup.ports`. */
  readonly port: number;
  /** Whether it travels in the chain's reverse direction. */
  readonly reverse: boolean;
  /** Symmetric flow hash of the packet as it arrived, or 0 when the host did not need one. */
  readonly hash: number;
  /** Whether a function made it. */
  readonly made: boolean;
  /** The burst's time in nanoseconds, monotonic. */
  readonly now: number;
  /** The same moment in nanoseconds since 1970, or 0 if the host does not know; exact to 256 of them: `packet.wall / 1e6` is what `Date` counts. */
  readonly wall: number;
  /** The byte at this offset. Throws RangeError beyond `given`. */
  u8(offset: number): number;
  /** Two bytes, as a number in network byte order. Throws RangeError beyond `given`. */
  u16(offset: number): number;
  /** Four bytes, as {@link u16}. */
  u32(offset: number): number;
  /**
   * Its first bytes, not copied. They are to be read: what is written to them changes the packet only if {@link write} or {@link replace} is
   * called, too, for these hand over all of them.
   */
  data(): Uint8Array;
  /** Puts these bytes in the place of as many from `offset` on. */
  write(offset: number, bytes: Uint8Array): void;
  /** Puts these bytes, more or fewer, in the place of the packet's first `count`. */
  replace(count: number, bytes: Uint8Array): void;
}

/** Where the headers of an IP packet lie in it, and what is in them. */
export interface Headers {
  /** Of the IP header. */
  readonly version: 4 | 6;
  /** Where the IP header begins. */
  readonly l3: number;
  /** Where the transport header begins; of a later fragment, its payload. */
  readonly l4: number;
  /** Where the packet ends; padding may follow. */
  readonly end: number;
  /** The protocol behind all extension headers. */
  readonly protocol: number;
  /** Source port of TCP and UDP; -1 of other protocols and of later fragments. */
  readonly sport: number;
  /** Destination port; as `sport`. */
  readonly dport: number;
  /** Whether this is a later fragment: it has no transport header. */
  readonly fragment: boolean;
}

/** Numbers of protocols, as in {@link Headers.protocol}: ICMP of IPv4. */
export const ICMP: 1;
/** TCP. */
export const TCP: 6;
/** UDP. */
export const UDP: 17;
/** ICMP of IPv6. */
export const ICMPV6: 58;

/** An IP packet is cut short or contradicts itself. */
export class Malformed extends Error {}
/**
 * The headers of a packet; null if it is not IP. The object is the {@link Packet}'s own: the next call writes to it. Throws {@link Malformed}
 * if the packet is cut short (or its headers do not lie within the bytes that were given), a length is beyond the frame or below the
 * header's, there are more than 8 extension headers, or the header of TCP or UDP is not all there.
 */
export function parse(packet: Packet): Headers | null;

/** How important a line of the log is. */
export type Level = "trace" | "debug" | "info" | "warn" | "error";
/** Writes a line to the function's log. What `console` prints gets there, too. */
export function log(level: Level, message: string): void;
/** Nanoseconds, monotonic, by a call of the host; `Packet.now` is free. */
export function now(): number;
/**
 * The next of a sequence of random numbers of 0 to 2^64-1, without its low bits, by a call of the host: for hash seeds, sampling and back-off, not for keys. It
 * begins alike in every instance of the function, and is fixed in `weir replay`.
 */
export function random(): number;
/** Asks for one call of `tick` at or soon after this time (of `now`). A later call replaces an earlier one; 0 cancels. */
export function setTimer(at: number): void;
/** Sends a packet with these bytes: for rare packets such as ICMP errors. Throws {@link Refused}. */
export function sendCopy(packet: Uint8Array, verdict: Verdict): void;
/** The host refused what was asked for; nothing happened. */
export class Refused extends Error {}

/** A counter, shown in /metrics and in reports. */
export interface Counter {
  /** Raises it by a whole number from 0 on, by 1 if nothing is said. Another is thrown when it is handed over, at most 100 ms later. */
  add(delta?: number): void;
}
/** A gauge, shown in /metrics and in reports. */
export interface Gauge {
  /** Makes this its value. */
  set(value: number): void;
}
/**
 * The counter of this name, 1 to 64 of a-z0-9_; a function may have 64 counters and gauges. Ask in `configure` and keep it. Throws RangeError for
 * another name, and for one too many.
 */
export function counter(name: string): Counter;
/** The gauge of this name; as {@link counter}. */
export function gauge(name: string): Gauge;

/** What a function is told when it is configured. */
export interface Setup {
  /** Names of the ports; a port's number is its place. */
  readonly ports: string[];
  /** Names of the chain's functions, in order. */
  readonly functions: string[];
  /** This function's place in `functions`. */
  readonly position: number;
  /** A random number, the same for every instance of this function while the host runs; without its low bits. */
  readonly seed: number;
  /** The number of the port of this name. */
  port(name: string): number;
}

/** A configuration is wrong; the text is shown to whoever deploys the chain. */
export class ConfigError extends Error {}

/** A function. */
export interface PacketFunction<Config = any> {
  /**
   * How many bytes of each packet are wanted; all of them without it. Fewer cost less. 128 are enough for the headers, but for those of IPv6 with
   * extension headers, which a sender can make as long as it likes: {@link parse} says Malformed of what does not lie within.
   */
  headBytes?: number;
  /** Prepares the function. What it throws is shown to whoever deploys the chain, which stays as it was. */
  configure?(setup: Setup, config: Config): void;
  /** Decides about a packet. */
  process(packet: Packet): Verdict;
  /** The time of {@link setTimer} has come. */
  tick?(now: number): void;
}

/** A function that hands private state over to its successor (state = "save" in function.toml). */
export interface Saving {
  /** The state, in whatever form `restore` of this and later versions reads. */
  save(): Uint8Array;
  /** Takes over what the previous instance saved, after `configure`. What it throws refuses the swap. */
  restore(saved: Uint8Array): void;
}

/** What a module has to export as `packetBurst`. */
export function weirFunction<Config>(made: PacketFunction<Config>): unknown;
/** What a module has to export as `snapshot` if the function has state = "save". */
export function weirSnapshot(made: Saving): unknown;
