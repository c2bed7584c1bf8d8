// What the host offers to a function. Counters and gauges are kept here and handed over ten times a second.
import host from "weir:net/host@0.1.0";

const FLUSH_EVERY = 100_000_000;

export class Refused extends Error {}

export function log(level, message) {
  host.log(level, String(message));
}

export function logLines(level, text) {
  for (const line of String(text).split("\n")) if (line) log(level, line);
}

export const now = () => host.now();

export function sendCopy(packet, verdict) {
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
  own = at;
  arm();
}

function arm() {
  const at = own && flushAt ? Math.min(own, flushAt) : own || flushAt;
  if (at !== armed) host.setTimer((armed = at));
}

export function flush() {
  for (const each of counters.values()) {
    if (each.added) host.counterAdd(each.name, each.added);
    each.added = 0;
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
