// What the host offers to a function. Counters and gauges are kept here and handed over ten times a second.
import host from "weir:net/host@0.1.0";

const FLUSH_EVERY = 100_000_000;
const LEVELS = ["trace", "debug", "info", "warn", "error"];

export class Refused extends Error {}

// The host takes no text with half a surrogate pair, and a packet's bytes can be one.
export const asText = (message) => String(message).toWellFormed();

export function log(level, message) {
  if (!LEVELS.includes(level)) throw new RangeError(`there is no level ${String(level)}; there are ${LEVELS.join(", ")}`);
  host.log(level, asText(message));
}

export function logLines(level, text) {
  for (const line of String(text).split("\n")) if (line) log(level, line);
}

export const now = () => host.now();
export const random = () => host.random();

export function sendCopy(packet, verdict) {
  if (!(packet instanceof Uint8Array)) throw new TypeError("sendCopy takes the packet as an Uint8Array");
  if (verdict >>> 0 !== verdict) throw new TypeError(`${String(verdict)} is no verdict (NEXT, forward(port), ...)`);
  try {
    host.sendCopy(packet, verdict);
  } catch (error) {
    throw new Refused(String(error?.payload ?? error?.message ?? error));
  }
}

const counters = new Map();
const gauges = new Map();
let dirty = false;

class Counter {
  constructor(name) {
    this.name = name;
    this.added = 0;
  }
  add(delta = 1) {
    this.added += delta;
    dirty = true;
  }
}

class Gauge {
  constructor(name) {
    this.name = name;
    this.value = undefined;
  }
  set(value) {
    if (typeof value !== "number") throw new TypeError(`gauge ${this.name}: ${String(value)} is no number`);
    this.value = value;
    dirty = true;
  }
}

// The host would refuse another name when it is told, after the first packets, and that is a fault.
function named(map, Kind, name) {
  if (!map.has(name)) {
    if (!/^[a-z0-9_]{1,64}$/.test(name)) {
      throw new RangeError(`a counter or gauge cannot be named ${name}: allowed are 1 to 64 of a-z0-9_`);
    }
    if (counters.size + gauges.size === 64) throw new RangeError(`there are 64 counters and gauges without ${name}: no more are allowed`);
    map.set(name, new Kind(name));
  }
  return map.get(name);
}

export const counter = (name) => named(counters, Counter, name);
export const gauge = (name) => named(gauges, Gauge, name);

// The timer that the function and its counters share; 0 is none.
let own = 0;
let flushAt = 0;
let armed = 0;

export function setTimer(at) {
  if (!(at >= 0 && at < 2 ** 64)) throw new RangeError(`${String(at)} is no time of 0 to 2^64-1 nanoseconds`);
  own = Math.floor(at);
  arm();
}

function arm() {
  const at = own && flushAt ? Math.min(own, flushAt) : own || flushAt;
  if (at !== armed) host.setTimer((armed = at));
}

export function flush() {
  for (const each of counters.values()) {
    const added = each.added;
    if (added === 0) continue;
    each.added = 0;
    // Here, because looking at each number that is added would cost more than adding it.
    if (!(Number.isInteger(added) && added >= 0 && added < 2 ** 64)) {
      const what = typeof added === "string" ? JSON.stringify(added) : String(added);
      throw new RangeError(`counter ${each.name}: ${what} was added to it, which is no whole number of 0 to 2^64-1`);
    }
    host.counterAdd(each.name, added);
  }
  for (const each of gauges.values()) {
    if (each.value !== undefined) host.gaugeSet(each.name, each.value);
    each.value = undefined;
  }
  dirty = false;
  flushAt = 0;
}

export function afterBurst(at) {
  if (!dirty) return;
  if (!flushAt) flushAt = at + FLUSH_EVERY;
  else if (at >= flushAt) flush();
  else return;
  arm();
}

// Whether the tick is the function's own.
export function beforeTick(at) {
  armed = 0;
  const due = own !== 0 && own <= at;
  if (due) own = 0;
  return due;
}

export function afterTick() {
  flush();
  arm();
}

// What is printed becomes lines of the log.
const printing = (level) => (...parts) => logLines(level, parts.map(String).join(" "));
globalThis.console = {
  debug: printing("debug"),
  log: printing("info"),
  info: printing("info"),
  warn: printing("warn"),
  error: printing("error"),
};
