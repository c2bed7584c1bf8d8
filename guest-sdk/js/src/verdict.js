// What becomes of a packet (wit/window.md, "Verdict").
export const NEXT = 0;
export const REPLY = 2;
export const TO_KERNEL = 4;

// Numbers of 32 bits without a sign.
function verdict(kind, argument, what) {
  if ((argument & 0xffffff) !== argument) throw new RangeError(`${String(argument)} is no ${what}: allowed are 0 to 16777215`);
  return (kind | (argument << 8)) >>> 0;
}

export const drop = (reason) => verdict(1, reason, "reason of a drop");
export const forward = (port) => verdict(3, port, "number of a port");
export const jump = (place) => verdict(5, place, "place of a function");
export const clone = (port) => verdict(7, port, "number of a port");
export const move = (target) => verdict(8, target, "number of a target");
export const final = (decided) => (decided | 0x80) >>> 0;
