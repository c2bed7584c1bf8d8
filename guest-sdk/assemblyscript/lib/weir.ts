/**
 * Functions for packets in AssemblyScript.
 *
 * A function's file hands over what it wants to be called, and exports what the host calls:
 *
 *     import { Burst, Json, Setup, onConfigure, onProcess } from "weir";
 *     export { packet_configure, packet_process, packet_tick, cabi_realloc } from "weir";
 *     onConfigure((setup: Setup, config: Json): string | null => null);
 *     onProcess((burst: Burst): void => {});
 *
 * The runtime is `stub`: memory is taken and never given back. So take it in `configure` only: objects, strings, arrays and closures take
 * some. What this file has for packets takes none.
 */

import { afterEvent, begin, ticked, windowStart } from "./host";
export { Counter, Json, Level, Member, Setup, log, now, onConfigure, onTick, random, setTimer, wall, cabi_realloc } from "./host";

/** Decisions about packets. */
export namespace Verdict {
  /** Continue with the next function, or leave by the chain's output. What every packet has before. */
  export const Next: u32 = 0;
  /** Leave by the port it came in by. */
  export const Reply: u32 = 2;
  /** Give it to the kernel's stack. */
  export const ToKernel: u32 = 4;
  /** Free it; counted under this reason, below 2^24. Those from 63 on are counted as 63, together. */
  // @ts-ignore: decorator
  @inline export function drop(reason: u32): u32 {
    return 1 | (reason << 8);
  }
  /** Leave by this port. */
  // @ts-ignore: decorator
  @inline export function forward(port: u32): u32 {
    return 3 | (port << 8);
  }
  /** Continue with this function, which must come later in the packet's direction. */
  // @ts-ignore: decorator
  @inline export function jump(to: u32): u32 {
    return 5 | (to << 8);
  }
  /** The same for all further packets of the flow in this direction. Of Next, drop, Reply, forward and ToKernel. */
  // @ts-ignore: decorator
  @inline export function forFlow(verdict: u32): u32 {
    return verdict | 0x80;
  }
}

/**
 * The packets that came at once, 1 to 256 of them, by their places. Packets are addresses and lengths: read them with `load`, and nothing
 * beyond their length.
 */
@final
export class Burst {
  /** Where the window begins (wit/window.md). */
  window: usize = 0;
  /** Packets. */
  count: u32 = 0;

  /** Address of a packet's first byte. */
  @inline start(index: u32): usize {
    return this.window + load<u32>(this.window + 8 * index);
  }
  /** Bytes of a packet. */
  @inline length(index: u32): u32 {
    return load<u32>(this.window + 8 * index, 4);
  }
  /** Decides about a packet; the last decision counts. */
  @inline setVerdict(index: u32, verdict: u32): void {
    store<u32>(this.window + 4 * index, verdict, 0x1000);
  }
  /** Number of the port that a packet came in by. */
  @inline port(index: u32): u16 {
    return load<u16>(this.window + 8 * index, 0x2000);
  }
  /** The burst's time: monotonic nanoseconds; in a replay the capture's own. */
  @inline get now(): u64 {
    return load<u64>(this.window, 0x3000);
  }
  /** The same moment in nanoseconds since 1970, or 0 if the host does not know. */
  @inline get wall(): u64 {
    return load<u64>(this.window, 0x3008);
  }
}

/** What a frame turned out to be. */
export enum Frame {
  NotIp,
  CutShort,
  Ipv4,
  Ipv6,
}

/** Stands for the ports of a packet that has none. */
export const NO_PORT: u32 = 0x10000;

/** The number of two bytes in network order. */
// @ts-ignore: decorator
@inline export function get16(at: usize): u32 {
  return bswap<u16>(load<u16>(at));
}

/** Where the headers of an IP packet lie in its frame, and what they say: of the frame that `parse` read last. */
export namespace headers {
  /** Where the IP header begins. */
  export let l3: u32 = 0;
  /** Where what it carries begins, behind options and extension headers. */
  export let l4: u32 = 0;
  /** Where the IP packet ends. */
  export let end: u32 = 0;
  /** The transport protocol. */
  export let protocol: u32 = 0;
  /** Ports of TCP and UDP; NO_PORT for other protocols and later fragments. */
  export let sourcePort: u32 = 0;
  export let destinationPort: u32 = 0;
  /** It is a piece of a packet, but not the first. */
  export let laterFragment: bool = false;
}

/** Reads a frame in one pass, into `headers` if it is IPv4 or IPv6. */
export function parse(frame: usize, length: u32): Frame {
  if (length < 14) return Frame.NotIp;
  let type = get16(frame + 12);
  let l3: u32 = 14;
  for (let tags = 0; tags < 2 && (type == 0x8100 || type == 0x88a8); tags++) {
    if (length < l3 + 4) return Frame.NotIp;
    type = get16(frame + l3 + 2);
    l3 += 4;
  }
  headers.l3 = l3;
  if (type == 0x86dd) return parseIpv6(frame, length);
  if (type != 0x0800) return Frame.NotIp;
  if (length - l3 < 20) return Frame.CutShort;
  const header = frame + l3;
  const first = <u32>load<u8>(header);
  const bytes = (first & 15) * 4;
  const total = get16(header + 2);
  if (first >> 4 != 4 || bytes < 20 || bytes > total || total > length - l3) return Frame.CutShort;
  headers.l4 = l3 + bytes;
  headers.end = l3 + total;
  headers.protocol = load<u8>(header, 9);
  headers.laterFragment = (get16(header + 6) & 0x1fff) != 0;
  return transport(frame) ? Frame.Ipv4 : Frame.CutShort;
}

function parseIpv6(frame: usize, length: u32): Frame {
  let at = headers.l3;
  if (length - at < 40) return Frame.CutShort;
  const header = frame + at;
  at += 40;
  const payload = get16(header + 4);
  if (load<u8>(header) >> 4 != 6 || payload > length - at) return Frame.CutShort;
  const end = at + payload;
  let later = false;
  let protocol = <u32>load<u8>(header, 6);
  for (let walked = 0; (protocol == 0 || protocol == 43 || protocol == 44 || protocol == 60) && !later; walked++) {
    if (walked == 8 || end - at < 8) return Frame.CutShort;
    let bytes: u32 = 8;
    if (protocol == 44) later = (get16(frame + at + 2) & 0xfff8) != 0;
    else bytes += <u32>load<u8>(frame + at, 1) * 8;
    if (bytes > end - at) return Frame.CutShort;
    protocol = load<u8>(frame + at);
    at += bytes;
  }
  headers.l4 = at;
  headers.end = end;
  headers.protocol = protocol;
  headers.laterFragment = later;
  return transport(frame) ? Frame.Ipv6 : Frame.CutShort;
}

/** Ports; false if TCP's or UDP's header is not all there. */
// @ts-ignore: decorator
@inline function transport(frame: usize): bool {
  headers.sourcePort = NO_PORT;
  headers.destinationPort = NO_PORT;
  const protocol = headers.protocol;
  if ((protocol != 6 && protocol != 17) || headers.laterFragment) return true;
  if (headers.end - headers.l4 < <u32>(protocol == 6 ? 20 : 8)) return false;
  headers.sourcePort = get16(frame + headers.l4);
  headers.destinationPort = get16(frame + headers.l4 + 2);
  return true;
}

const burst = new Burst();
let process: (burst: Burst) => void = (_burst) => {};

/** What is called with each burst. */
export function onProcess(call: (burst: Burst) => void): void {
  process = call;
}

/** The export `configure`, as the canonical ABI has it. */
export function packet_configure(
  windowBytes: u32, windowAlign: u32, room: u32, stateBytes: u32, stateAlign: u32, stateKept: u32, seed: u64,
  ports: usize, portCount: u32, functions: usize, functionCount: u32, position: u32, config: usize, configLength: u32
): usize {
  const answer = begin(
    windowBytes, windowAlign, room, stateBytes, stateAlign, stateKept, seed,
    ports, portCount, functions, functionCount, position, config, configLength
  );
  burst.window = windowStart;
  return answer;
}

/** The export `process`. */
export function packet_process(count: u32): void {
  burst.count = count;
  process(burst);
  afterEvent();
}

/** The export `tick`. */
export function packet_tick(at: u64): void {
  ticked(at);
}
