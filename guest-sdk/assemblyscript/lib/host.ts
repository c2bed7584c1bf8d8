/**
 * What all functions have: log, time, counters, the configuration, and what the host is told when it begins.
 *
 * For functions for packets there is `weir.ts`, for messages and connections `message.ts`; both have all of this, too.
 */

@external("weir:net/host@0.1.0", "attach-window")
declare function importAttachWindow(region: usize, length: usize): u32;
@external("weir:net/host@0.1.0", "attach-state")
declare function importAttachState(region: usize, length: usize): u32;
@external("weir:net/host@0.1.0", "log")
declare function importLog(level: u32, text: usize, length: usize): void;
@external("weir:net/host@0.1.0", "now")
declare function importNow(): u64;
@external("weir:net/host@0.1.0", "random")
declare function importRandom(): u64;
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

/** Whether it can be UTF-8: it has no halves of pairs, which strings that were made of any bytes may have. The host takes no other. */
export function isWhole(text: string): bool {
  for (let i = 0; i < text.length; i++) {
    const unit = <u32>text.charCodeAt(i);
    if ((unit & 0xf800) != 0xd800) continue;
    if (unit >= 0xdc00 || i + 1 == text.length || (<u32>text.charCodeAt(i + 1) & 0xfc00) != 0xdc00) return false;
    i++;
  }
  return true;
}

/** As UTF-8 in any case: halves of pairs become U+FFFD. */
function told(text: string): ArrayBuffer {
  return String.UTF8.encode(text, false, String.UTF8.ErrorMode.REPLACE);
}

/**
 * Writes a line to the function's log. Takes memory: not for every packet or message. What is not Unicode, as a string of a client's bytes need not be,
 * is shown as U+FFFD.
 */
export function log(level: Level, line: string): void {
  const bytes = told(line);
  importLog(level, changetype<usize>(bytes), bytes.byteLength);
}

/** Monotonic nanoseconds, by a call. */
export function now(): u64 {
  return importNow();
}

/** The time of the burst or event at hand, in nanoseconds since 1970, or 0 if the host does not know. No call. */
export function wall(): u64 {
  return load<u64>(windowStart, 0x3008);
}

/**
 * The next of a sequence of random numbers, by a call: for hash seeds, sampling and back-off, not for keys. It begins alike in every instance of the
 * function, and is fixed in `weir replay`.
 */
export function random(): u64 {
  return importRandom();
}

// The timer that the function and its counters share; 0 is none.
let ownTimer: u64 = 0;
let flushAt: u64 = 0;
let armed: u64 = 0;

/** Tells the host the earlier of both times, if it does not know it. */
function arm(): void {
  const at = ownTimer == 0 || (flushAt != 0 && flushAt < ownTimer) ? flushAt : ownTimer;
  if (at == armed) return;
  armed = at;
  importSetTimer(at);
}

/** Asks for one call of what `onTick` was given at or soon after this time; 0 cancels. */
export function setTimer(at: u64): void {
  ownTimer = at;
  arm();
}

/** Counters are handed over when they are so old, in nanoseconds. */
const FLUSH_EVERY: u64 = 100000000;
/** Whether something was counted since they were. */
let counted = false;

/** A counter, shown in `/metrics`. What was added is handed over ten times a second. */
@final
export class Counter {
  private count: u64 = 0;
  private bytes: ArrayBuffer;

  /**
   * Its name: 1 to 64 of `a-z0-9_`; there may be 64 of them. Make it in `configure`, or when the module starts: with a wrong name the function's
   * configuration is refused.
   */
  constructor(private name: string) {
    this.bytes = String.UTF8.encode(name);
    counters.push(this);
  }

  /** A few instructions, no call. */
  @inline add(delta: u64): void {
    this.count += delta;
    counted = true;
  }

  /** For this file. */
  flush(): void {
    if (this.count == 0) return;
    importCounterAdd(changetype<usize>(this.bytes), this.bytes.byteLength, this.count);
    this.count = 0;
  }

  /** For this file: whether the host takes its name. */
  isNamed(): bool {
    const name = this.name;
    for (let i = 0; i < name.length; i++) {
      const letter = <u32>name.charCodeAt(i);
      if (letter - 97 >= 26 && letter - 48 >= 10 && letter != 95) return false;
    }
    return name.length >= 1 && name.length <= 64;
  }

  /** For this file: whether it is the first one of its name. */
  isFirst(): bool {
    let at = 0;
    while (unchecked(counters[at]).name != this.name) at++;
    return unchecked(counters[at]) == this;
  }
}
const counters: Counter[] = [];

/** What is wrong with the counters. The host would say so when it is told, after the first packets, and that is a fault. */
function wrongCounters(): string | null {
  let names = 0;
  for (let i = 0; i < counters.length; i++) {
    const counter = counters[i];
    if (!counter.isNamed()) return "a counter has a name that is not allowed: allowed are 1 to 64 of a-z0-9_";
    if (counter.isFirst()) names++;
  }
  return names > 64 ? "there are more than 64 counters" : null;
}

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
  /** Whether it is `true`. */
  get isTrue(): bool {
    return this.first == 0x74;
  }
  /** Whether it is `false`. */
  get isFalse(): bool {
    return this.first == 0x66;
  }
  /** Whether it is a number. */
  get isNumber(): bool {
    return this.first == 0x2d || (this.first >= 0x30 && this.first <= 0x39);
  }

  /** A number, which may have a fraction or be negative; NaN if it is something else. */
  number(): f64 {
    return this.isNumber ? parseFloat(String.UTF8.decodeUnsafe(this.at, this.end - this.at)) : NaN;
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

  /** A whole number from `least` to `most`; -1 if it is something else, so `least` must not be negative: `number` reads those that are. */
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

  /** A string with its escapes replaced. Empty if it is something else. */
  string(): string {
    const parts = this.text().split("\\");
    let whole = parts[0];
    for (let i = 1; i < parts.length; i++) {
      const part = parts[i];
      if (part.length == 0) {
        // The second one of two, and what follows it, which is no escape.
        i++;
        whole += "\\" + (i < parts.length ? parts[i] : "");
        continue;
      }
      const escape = part.charAt(0);
      if (escape == "u") {
        whole += String.fromCharCode(<i32>parseInt(part.substr(1, 4), 16)) + part.substring(5);
        continue;
      }
      const place = "bfnrt".indexOf(escape);
      whole += (place < 0 ? escape : "\b\f\n\r\t".charAt(place)) + part.substring(1);
    }
    return whole;
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

let configure: (setup: Setup, config: Json) => string | null = (_setup, _config) => null;
let tick: (now: u64) => void = (_now) => {};

/** What is called to configure the function; it answers why it refuses, beginning with the key, or null. */
export function onConfigure(call: (setup: Setup, config: Json) => string | null): void {
  configure = call;
}
/** What is called when a timer is due. */
export function onTick(call: (now: u64) => void): void {
  tick = call;
}

/** Where the window begins, once the function is being configured. For the SDK's own files, as all that follows. */
export let windowStart: usize = 0;
/** Bytes of a room of the pool, a power of two. */
export let roomBytes: u32 = 0;

function flush(): void {
  for (let i = 0; i < counters.length; i++) unchecked(counters[i]).flush();
  counted = false;
  flushAt = 0;
}

/** Behind a burst or an event: hands counters over when it is time to. */
export function afterEvent(): void {
  if (!counted) return;
  // Of the window: its time.
  const time = load<u64>(windowStart, 0x3000);
  if (flushAt == 0) flushAt = time + FLUSH_EVERY;
  else if (time >= flushAt) flush();
  else return;
  arm();
}

/** The event `tick`. */
export function ticked(at: u64): void {
  armed = 0;
  const due = ownTimer != 0 && ownTimer <= at;
  if (due) {
    ownTimer = 0;
    tick(at);
  }
  flush();
  arm();
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

const answer = memory.data(12, 4);
let refusal: ArrayBuffer | null = null;

/** `configure`: what it is given as the canonical ABI has it, and the address of what it answers. */
export function begin(
  windowBytes: u32, windowAlign: u32, room: u32, stateBytes: u32, stateAlign: u32, stateKept: u32, seed: u64,
  ports: usize, portCount: u32, functions: usize, functionCount: u32, position: u32, config: usize, configLength: u32
): usize {
  const setup = new Setup();
  roomBytes = room;
  setup.roomBytes = room;
  setup.seed = seed;
  setup.stateBytes = stateBytes;
  setup.stateKept = stateKept != 0;
  setup.ports = texts(ports, portCount);
  setup.functions = texts(functions, functionCount);
  setup.position = position;
  const forWindow = region(windowBytes + windowAlign);
  windowStart = forWindow + importAttachWindow(forWindow, windowBytes + windowAlign);
  if (stateBytes != 0) {
    const forState = region(stateBytes + stateAlign);
    setup.state = forState + importAttachState(forState, stateBytes + stateAlign);
  }
  let refused = configure(setup, new Json(config, config + configLength));
  if (refused == null) refused = wrongCounters();
  if (refused == null) {
    flush();
    arm();
  }
  store<u32>(answer, refused == null ? 0 : 1);
  if (refused != null) {
    const text = told(refused);
    // The host reads it when this has returned.
    refusal = text;
    store<usize>(answer, changetype<usize>(text), 4);
    store<usize>(answer, text.byteLength, 8);
  }
  return answer;
}
