// Does what its config says, for tests/tests/language_probes.rs.
import { counter, log, parse, weirFunction, weirSnapshot, NEXT, drop } from "weir-sdk";

const packets = counter("packets");
let seen = 0;
let mode = "";

function throws(packet) {
  return packet.nothing.here;
}

export const packetBurst = weirFunction({
  configure(setup, config) {
    mode = config.mode;
    console.log("printed", `by ${mode}`);
    log("warn", `ports ${setup.ports.join(" ")}, function ${setup.functions[setup.position]}`);
    if (mode === "refuse") throw new Error("configured to refuse");
  },
  process(packet) {
    seen++;
    packets.add(1);
    switch (mode) {
      case "throw":
        return throws(packet);
      case "tag":
        packet.replace(12, Uint8Array.of(...packet.data().subarray(0, 12), 0x81, 0, 0, 7));
        return NEXT;
      case "strip":
        packet.replace(14, new Uint8Array(0));
        return NEXT;
      case "write":
        packet.write(0, Uint8Array.of(2, 2, 2, 2, 2, 2));
        return drop(packet.length);
      default:
        return parse(packet) === null ? NEXT : drop(9);
    }
  },
});

export const snapshot = weirSnapshot({
  // The engine has no TextEncoder.
  save: () => Uint8Array.from(String(seen), (digit) => digit.charCodeAt(0)),
  restore(saved) {
    const text = String.fromCharCode(...saved);
    if (!/^\d+$/.test(text)) throw new Error(`${text} is no count`);
    seen = Number(text);
  },
});
