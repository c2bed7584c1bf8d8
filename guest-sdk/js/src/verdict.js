// What becomes of a packet (wit/window.md, "Verdict").
export const NEXT = 0;
export const REPLY = 2;
export const TO_KERNEL = 4;

// Numbers of 32 bits without a sign.
const verdict = (kind, argument) => (kind | (argument << 8)) >>> 0;

export const drop = (reason) => verdict(1, reason);
export const forward = (port) => verdict(3, port);
export const jump = (place) => verdict(5, place);
export const clone = (port) => verdict(7, port);
export const move = (target) => verdict(8, target);
export const final = (decided) => (decided | 0x80) >>> 0;
