// Making an object a function: the exports of world packet-function-burst (wit/burst.md).
import { afterBurst, afterTick, asText, beforeTick, flush, logLines } from "./host.js";
import { Packet } from "./packet.js";
import { NEXT } from "./verdict.js";

const ALL = 65536;
const HEADER_WORDS = 6;
const ROW_WORDS = 5;
const NO_CHANGES = [];
const NO_VERDICTS = new Uint8Array(0);

// A configuration is wrong; the text is shown to whoever deploys the chain.
export class ConfigError extends Error {}

const explain = (error) =>
  error instanceof Error ? `${error.name}: ${error.message}\n${error.stack ?? ""}` : String(error);

// Logs what a call throws, with its stack; the fault that it becomes has neither.
function logging(call) {
  try {
    return call();
  } catch (error) {
    logLines("error", explain(error));
    throw error;
  }
}

// Makes of what a call throws the text of a refusal.
function refusing(call) {
  try {
    call();
  } catch (error) {
    if (error instanceof ConfigError) throw asText(error.message);
    logLines("error", explain(error));
    throw asText(error instanceof Error ? `${error.name}: ${error.message}` : error);
  }
}

// What a module has to export as `packetBurst`.
export function weirFunction(made) {
  const packet = new Packet();
  return {
    configure(told) {
      refusing(() => {
        const setup = {
          ports: told.ports,
          functions: told.functions,
          position: told.position,
          seed: told.seed,
          port(name) {
            const number = told.ports.indexOf(name);
            if (number < 0) throw new ConfigError(`there is no port ${name}; there are ${told.ports.join(", ")}`);
            return number;
          },
        };
        made.configure?.(setup, JSON.parse(told.config || "{}"));
        flush();
      });
    },
    headBytes: () => made.headBytes ?? ALL,
    process: (burst) => logging(() => answer(made, packet, burst)),
    tick(now) {
      logging(() => {
        if (beforeTick(now)) made.tick?.(now);
        afterTick();
      });
    },
  };
}

// What is said of a process that returned something else than a verdict; a forgotten `return` must not let packets pass.
function noVerdict(returned, i) {
  const what = typeof returned === "string" ? JSON.stringify(returned) : String(returned);
  return new TypeError(`process returned ${what} for packet ${i} of the burst: it has to return a verdict (NEXT, drop(1), forward(port), ...)`);
}

function answer(made, packet, burst) {
  // A burst begins its buffer, so it can be read as words.
  const words = new Uint32Array(burst.buffer, burst.byteOffset, burst.byteLength >> 2);
  const count = words[0];
  const now = words[2] + words[3] * 0x1_0000_0000;
  let verdicts = null;
  let changes = NO_CHANGES;
  let row = HEADER_WORDS;
  packet.now = now;
  const view = new DataView(burst.buffer, burst.byteOffset, burst.byteLength);
  packet.words = words;
  packet.bytes = burst;
  packet.view = view;
  packet.changed = null;
  for (let i = 0; i < count; i++, row += ROW_WORDS) {
    packet.row = row;
    packet.at = words[row];
    packet.given = words[row + 1];
    packet.length = words[row + 2];
    const verdict = made.process(packet);
    if (verdict !== NEXT) {
      if (verdict >>> 0 !== verdict) throw noVerdict(verdict, i);
      verdicts ??= new Uint32Array(count);
      verdicts[i] = verdict;
    }
    if (packet.changed !== null) {
      if (changes === NO_CHANGES) changes = [];
      changes.push({ index: i, replaced: packet.replaced, bytes: packet.changed });
      packet.changed = null;
      packet.bytes = burst;
      packet.view = view;
    }
  }
  afterBurst(now);
  return { verdicts: verdicts === null ? NO_VERDICTS : new Uint8Array(verdicts.buffer), changes };
}

// What a module has to export as `snapshot` if the function has state = "save".
export function weirSnapshot(made) {
  return {
    save: () => logging(() => made.save()),
    restore: (saved) => refusing(() => made.restore(saved)),
  };
}
