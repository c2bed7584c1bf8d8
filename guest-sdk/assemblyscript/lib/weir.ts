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

@external("weir:net/host@0.1.0", "attach-window")
declare function importAttachWindow(region: usize, length: usize): u32;
@external("weir:net/host@0.1.0", "attach-state")
declare function importAttachState(region: usize, length: usize): u32;
@external("weir:net/host@0.1.0", "log")
declare function importLog(level: u32, text: usize, length: usize): void;
@external("weir:net/host@0.1.0", "now")
declare function importNow(): u64;
@external("weir:net/host@0.1.0", "counter-add")
declare function importCounterAdd(name: usize, length: usize, delta: u64): void;
@external("weir:net/host@0.1.0", "set-timer")
declare function importSetTimer(at: u64): void;

/** How much a log line matters. */
export enum Level {
  Trace,
  Debug,
  Info,
  Warn,
  Error,
}

/** Writes a line to the function's log. Takes memory: not for every packet. */
export function log(level: Level, line: string): void {
  const bytes = String.UTF8.encode(line);
  importLog(level, changetype<usize>(bytes), bytes.byteLength);
}

/** Monotonic nanoseconds, by a call; within `process`, `Burst.now` is the same for free. */
export function now(): u64 {
  return importNow();
}

/** Asks for one call of what `onTick` was given at or soon after this time; 0 cancels. */
export function setTimer(at: u64): void {
  importSetTimer(at);
}

/** A counter, shown in `/metrics`. What was added is handed over when a burst is over. */
@final
export class Counter {
  private name: ArrayBuffer;
  private count: u64 = 0;

  /** Its name: 1 to 64 of `a-z0-9_`. Make it in `configure`. */
  constructor(name: string) {
    this.name = String.UTF8.encode(name);
    counters.push(this);
  }

  /** A few instructions, no call. */
  @inline add(delta: u64): void {
    this.count += delta;
  }

  /** For this file. */
  flush(): void {
    if (this.count == 0) return;
    importCounterAdd(changetype<usize>(this.name), this.name.byteLength, this.count);
    this.count = 0;
  }
}
const counters: Counter[] = [];

/** What a function is told when it is configured. */
@final
export class Setup {
  /** Bytes of a buffer's room, a power of two. */
  roomBytes: u32 = 0;
  /** A random number for hash seeds. */
  seed: u64 = 0;
  /** Address of the state region, 0 without one; it outlives the instance. */
  state: usize = 0;
  /** Its bytes. */
  stateBytes: u32 = 0;
  /** It holds what an earlier instance left there; then it can be read, but not written, until `configure` returns. */
  stateKept: bool = false;
  /** Names of the ports; a port's number is its place. */
  ports: string[] = [];
  /** Names of the chain's functions, in order, and this one's place among them. */
  functions: string[] = [];
  position: u32 = 0;
}

/** A value of the configuration, which the host hands over as JSON. */
@final
export class Json {
  constructor(private at: usize, private end: usize) {
    this.at = skip(at, end);
  }

  private get first(): u8 {
    return this.at < this.end ? load<u8>(this.at) : 0;
  }

  /** Whether it is an object. */
  get isObject(): bool {
    return this.first == 0x7b;
  }
  /** Whether it is a list. */
  get isList(): bool {
    return this.first == 0x5b;
  }
  /** Whether it is a text. */
  get isString(): bool {
    return this.first == 0x22;
  }

  /** Members of an object, elements of a list; nothing of other values. */
  members(): Member[] {
    const all: Member[] = [];
    if (!this.isObject && !this.isList) return all;
    const keyed = this.isObject;
    let at = skip(this.at + 1, this.end);
    while (at < this.end && load<u8>(at) != 0x7d && load<u8>(at) != 0x5d) {
      let key = "";
      if (keyed) {
        const behind = valueEnd(at, this.end);
        key = new Json(at, behind).text();
        at = skip(skip(behind, this.end) + 1, this.end);
      }
      const behind = valueEnd(at, this.end);
      all.push(new Member(key, new Json(at, behind)));
      at = skip(behind, this.end);
      if (at < this.end && load<u8>(at) == 0x2c) at = skip(at + 1, this.end);
    }
    return all;
  }

  /** A whole number from `least` to `most`; -1 if it is something else, so `least` must not be negative. */
  integer(least: i64, most: i64): i64 {
    let number: i64 = 0;
    if (this.at == this.end) return -1;
    for (let at = this.at; at < this.end; at++) {
      const digit = <i64>load<u8>(at) - 48;
      if (digit < 0 || digit > 9 || number > i64.MAX_VALUE / 10 - 1) return -1;
      number = number * 10 + digit;
    }
    return number >= least && number <= most ? number : -1;
  }

  /** A string as it is written: escapes are not replaced. Empty if it is something else. */
  text(): string {
    return this.isString ? String.UTF8.decodeUnsafe(this.at + 1, this.end - this.at - 2) : "";
  }
}

/** A member of an object, or an element of a list, which has no key. */
@final
export class Member {
  constructor(public key: string, public value: Json) {}
}

function skip(at: usize, end: usize): usize {
  while (at < end && load<u8>(at) <= 0x20) at++;
  return at;
}

/** The end of the value that begins here. */
function valueEnd(at: usize, end: usize): usize {
  let depth = 0;
  while (at < end) {
    const byte = load<u8>(at++);
    if (byte == 0x22) {
      while (at < end && load<u8>(at) != 0x22) at += load<u8>(at) == 0x5c ? 2 : 1;
      at++;
    } else if (byte == 0x7b || byte == 0x5b) {
      depth++;
      continue;
    } else if (byte == 0x7d || byte == 0x5d) {
      depth--;
    } else {
      while (at < end && load<u8>(at) > 0x20 && load<u8>(at) != 0x2c && load<u8>(at) != 0x7d && load<u8>(at) != 0x5d) at++;
    }
    at = skip(at, end);
    if (depth > 0 && at < end && (load<u8>(at) == 0x2c || load<u8>(at) == 0x3a)) at = skip(at + 1, end);
    if (depth <= 0) break;
  }
  // Without blanks behind it.
  while (at > 0 && load<u8>(at - 1) <= 0x20) at--;
  return at < end ? at : end;
}

/** Decisions about packets. */
export namespace Verdict {
  /** Continue with the next function, or leave by the chain's output. What every packet has before. */
  export const Next: u32 = 0;
  /** Leave by the port it came in by. */
  export const Reply: u32 = 2;
  /** Give it to the kernel's stack. */
  export const ToKernel: u32 = 4;
  /** Free it; counted under this reason, below 2^24. */
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
let configure: (setup: Setup, config: Json) => string | null = (_setup, _config) => null;
let process: (burst: Burst) => void = (_burst) => {};
let tick: (now: u64) => void = (_now) => {};

/** What is called to configure the function; it answers why it refuses, beginning with the key, or null. */
export function onConfigure(call: (setup: Setup, config: Json) => string | null): void {
  configure = call;
}
/** What is called with each burst. */
export function onProcess(call: (burst: Burst) => void): void {
  process = call;
}
/** What is called when a timer is due. */
export function onTick(call: (now: u64) => void): void {
  tick = call;
}

/** Room for what the host hands over. */
export function cabi_realloc(_old: usize, _oldSize: usize, _align: usize, size: usize): usize {
  return heap.alloc(size);
}

/** A region for the host, of the heap's, so that the heap goes on behind it. */
function region(bytes: usize): usize {
  return (heap.alloc(bytes + 0x10000) + 0xffff) & ~0xffff;
}

function texts(at: usize, count: u32): string[] {
  const all: string[] = [];
  for (let i: u32 = 0; i < count; i++) all.push(String.UTF8.decodeUnsafe(load<usize>(at + 8 * i), load<usize>(at + 8 * i, 4)));
  return all;
}

const answer = memory.data(12);

/** The export `configure`, as the canonical ABI has it. */
export function packet_configure(
  windowBytes: u32, windowAlign: u32, roomBytes: u32, stateBytes: u32, stateAlign: u32, stateKept: u32, seed: u64,
  ports: usize, portCount: u32, functions: usize, functionCount: u32, position: u32, config: usize, configLength: u32
): usize {
  const setup = new Setup();
  setup.roomBytes = roomBytes;
  setup.seed = seed;
  setup.stateBytes = stateBytes;
  setup.stateKept = stateKept != 0;
  setup.ports = texts(ports, portCount);
  setup.functions = texts(functions, functionCount);
  setup.position = position;
  const forWindow = region(windowBytes + windowAlign);
  burst.window = forWindow + importAttachWindow(forWindow, windowBytes + windowAlign);
  if (stateBytes != 0) {
    const forState = region(stateBytes + stateAlign);
    setup.state = forState + importAttachState(forState, stateBytes + stateAlign);
  }
  const refused = configure(setup, new Json(config, config + configLength));
  store<u32>(answer, refused == null ? 0 : 1);
  if (refused != null) {
    const text = String.UTF8.encode(refused);
    store<usize>(answer, changetype<usize>(text), 4);
    store<usize>(answer, text.byteLength, 8);
  }
  return answer;
}

/** The export `process`. */
export function packet_process(count: u32): void {
  burst.count = count;
  process(burst);
  for (let i = 0; i < counters.length; i++) unchecked(counters[i]).flush();
}

/** The export `tick`. */
export function packet_tick(at: u64): void {
  tick(at);
  for (let i = 0; i < counters.length; i++) unchecked(counters[i]).flush();
}
