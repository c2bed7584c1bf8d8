// What becomes of a packet (wit/window.md, "Verdict").
export const NEXT = 0;
export const REPLY = 2;
export const TO_KERNEL = 4;

// Numbers of 32 bits without a sign.
const verdict = (kind, argument) => (kind | (argument << 8)) >>> 0;

export function drop(reason) {
  if ((reason & 0xffffff) !== reason) throw new RangeError(`${String(reason)} is no reason of a drop: allowed are 0 to 16777215`);
  return verdict(1, reason);
}

export const forward = (port) => verdict(3, port);
export const jump = (place) => verdict(5, place);
export const clone = (port) => verdict(7, port);
export const move = (target) => verdict(8, target);
export const final = (decided) => (decided | 0x80) >>> 0;
