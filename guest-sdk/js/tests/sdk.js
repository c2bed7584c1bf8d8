// Parts of the SDK and the templates that need no host, in Node. Run by tests/tests/languages.rs, which bundles it.
import assert from "node:assert";
import {
  ConfigError, NEXT, clone, counter, drop, forward, gauge, jump, log, move, random, sendCopy, setTimer, weirFunction,
} from "weir-sdk";
import { told } from "./host.js";
import { packetBurst as javascript } from "../template/packet/main.js";
import { packetBurst as typescript } from "../../ts/template/packet/main.ts";

// A burst (wit/burst.md) of these frames, of each of which so many bytes are given.
function burstOf(frames, headBytes) {
  const rows = 24 + 20 * frames.length;
  const bytes = new Uint8Array(rows + frames.reduce((sum, frame) => sum + frame.length, 0));
  const words = new Uint32Array(bytes.buffer, 0, rows >> 2);
  words[0] = frames.length;
  let at = rows;
  frames.forEach((frame, i) => {
    const given = Math.min(frame.length, headBytes);
    bytes.set(frame.subarray(0, given), at);
    words.set([at, given, frame.length], 6 + 5 * i);
    at += given;
  });
  return bytes;
}

// TCP to port 23 over IPv6, behind destination options of so many bytes that are padding.
function telnet(options) {
  const frame = new Uint8Array(14 + 40 + options + 20);
  frame.set([0x86, 0xdd, 0x60], 12);
  frame.set([0, options + 20, options > 0 ? 60 : 6, 64], 18);
  if (options > 0) frame.set([6, options / 8 - 1, 1, options - 4], 54);
  frame.set([0x90, 0, 0, 23], 54 + options);
  frame[54 + options + 12] = 0x50;
  return frame;
}

// The templates let nothing through whose headers they have not seen, or that cannot be read, and take no other keys than theirs.
for (const template of [javascript, typescript]) {
  template.configure({ ports: [], functions: [], position: 0, seed: 0, config: '{"blocked": [23]}' });
  const cut = telnet(0).subarray(0, 60);
  const { verdicts } = template.process(burstOf([telnet(0), telnet(48), telnet(64), cut], template.headBytes()));
  assert.deepStrictEqual([...new Uint32Array(verdicts.buffer)], [drop(1), drop(1), drop(2), drop(2)]);
  for (const config of ["{}", '{"blocked": 23}', '{"blocked": [], "blokced": [23]}']) {
    assert.throws(() => template.configure({ ports: [], functions: [], position: 0, seed: 0, config }), (text) => /blo/.test(text));
  }
}

// Names that the host would refuse when it is told.
for (const name of ["", "dropped-packets", "Dropped", "ä", "x".repeat(65)]) {
  assert.throws(() => counter(name), RangeError);
  assert.throws(() => gauge(name), RangeError);
}
assert.strictEqual(counter("x".repeat(64)), counter("x".repeat(64)));
for (let n = 0; n < 62; n++) (n % 2 ? counter : gauge)(`n_${n}`);
assert.throws(() => counter("one_too_many"), /64/);

// What the host would not take is told by the line that asks for it, or at least with the counter's name.
for (const wrong of [-1, 0.5, NaN, "1", 2 ** 64]) {
  counter("n_1").add(wrong);
  const { configure } = weirFunction({});
  assert.throws(() => configure({ config: "" }), /counter n_1: .* was added to it/);
}
assert.throws(() => gauge("n_0").set("x"), /gauge n_0/);
for (const at of [-1, Infinity, NaN, undefined]) assert.throws(() => setTimer(at), RangeError);
assert.throws(() => sendCopy(new ArrayBuffer(60), NEXT), TypeError);
assert.throws(() => sendCopy(new Uint8Array(60)), TypeError);
assert.throws(() => log("warning", "text"), /debug, info, warn/);
for (const verdict of [drop, forward, jump, clone, move]) {
  for (const argument of [-1, 1 << 24, 1.5, undefined, "1"]) assert.throws(() => verdict(argument), RangeError);
}
assert.strictEqual(random(), 7);

// What a burst says of its time, and of a packet.
const told_of = [];
const burst = burstOf([telnet(0)], 128);
const words = new Uint32Array(burst.buffer, 0, 11);
words.set([0x1234, 0x10000000], 4);
words[9] = 0x30001;
weirFunction({ process: (packet) => (told_of.push(packet.wall, packet.made, packet.reverse, packet.port), NEXT) }).process(burst);
assert.deepStrictEqual(told_of, [0x10000000 * 2 ** 32 + 0x1200, true, true, 1]);

log("info", "a\ud800b");
assert.strictEqual(told.pop(), "a\ufffdb");
const refuses = weirFunction({
  configure() {
    throw new ConfigError("a\ud800b");
  },
});
assert.throws(() => refuses.configure({ config: "" }), (text) => text === "a\ufffdb");

// What is replaced is the packet's own.
const wrong = [
  (packet) => packet.replace(-5, new Uint8Array(0)),
  (packet) => packet.replace(61, new Uint8Array(0)),
  (packet) => packet.write(-1, new Uint8Array(1)),
  (packet) => packet.write(60, new Uint8Array(1)),
];
for (const call of wrong) {
  const { process } = weirFunction({
    process(packet) {
      assert.throws(() => call(packet), RangeError);
      return NEXT;
    },
  });
  assert.deepStrictEqual(process(burstOf([new Uint8Array(60), new Uint8Array(60)], 60)).changes, []);
}

// Who forgets to return something lets nothing through.
for (const returned of [undefined, null, "drop", false, NaN, 1.5, -1, 2 ** 32]) {
  const { process } = weirFunction({ process: () => returned });
  const said = { name: "TypeError", message: /^process returned .* for packet 0 of the burst: it has to return a verdict/ };
  assert.throws(() => process(burstOf([new Uint8Array(60)], 60)), said);
}
