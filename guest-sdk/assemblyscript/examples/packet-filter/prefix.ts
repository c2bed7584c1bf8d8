// Addresses and prefixes as text.

/** A prefix, as it lies in a header: an IPv4 address in the first four bytes. Null if the text is none. */
export class Prefix {
  address: StaticArray<u8> = new StaticArray<u8>(16);
  mask: StaticArray<u8> = new StaticArray<u8>(16);
  isV6: bool = false;
}

/** A decimal number up to `most`, or -1. */
export function decimal(text: string, most: i32): i32 {
  if (text.length == 0 || text.length > 5) return -1;
  let number = 0;
  for (let i = 0; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 48;
    if (digit < 0 || digit > 9) return -1;
    number = number * 10 + digit;
  }
  return number <= most ? number : -1;
}

function readV4(text: string, into: StaticArray<u8>, at: i32): bool {
  const parts = text.split(".");
  if (parts.length != 4) return false;
  for (let i = 0; i < 4; i++) {
    const number = parts[i].length > 3 ? -1 : decimal(parts[i], 255);
    if (number < 0) return false;
    into[at + i] = <u8>number;
  }
  return true;
}

/** Reads words between colons; how many bytes they are, or -1. */
function readWords(text: string, into: StaticArray<u8>): i32 {
  if (text.length == 0) return 0;
  const parts = text.split(":");
  let count = 0;
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i];
    if (i == parts.length - 1 && part.includes(".")) {
      return count <= 12 && readV4(part, into, count) ? count + 4 : -1;
    }
    if (part.length == 0 || part.length > 4 || count > 14) return -1;
    let word = 0;
    for (let j = 0; j < part.length; j++) {
      const code = part.charCodeAt(j) | 0x20;
      const digit = code >= 97 ? code - 87 : part.charCodeAt(j) - 48;
      if (digit < 0 || digit > 15 || (code < 97 && digit > 9)) return -1;
      word = (word << 4) | digit;
    }
    into[count++] = <u8>(word >> 8);
    into[count++] = <u8>word;
  }
  return count;
}

function readV6(text: string, into: StaticArray<u8>): bool {
  const halves = text.split("::");
  if (halves.length > 2) return false;
  const before = readWords(halves[0], into);
  if (halves.length == 1) return before == 16;
  const end = new StaticArray<u8>(16);
  const behind = readWords(halves[1], end);
  if (before < 0 || behind < 0 || before + behind > 14) return false;
  for (let i = before; i < 16; i++) into[i] = 0;
  for (let i = 0; i < behind; i++) into[16 - behind + i] = end[i];
  return true;
}

/** Reads "10.0.0.0/8", "2001:db8::/32", or an address alone. */
export function readPrefix(text: string): Prefix | null {
  const prefix = new Prefix();
  const parts = text.split("/");
  prefix.isV6 = parts[0].includes(":");
  const most = prefix.isV6 ? 128 : 32;
  if (parts.length > 2) return null;
  if (!(prefix.isV6 ? readV6(parts[0], prefix.address) : readV4(parts[0], prefix.address, 0))) return null;
  const bits = parts.length == 2 ? decimal(parts[1], most) : most;
  if (bits < 0) return null;
  for (let i = 0; i < 16; i++) {
    const left = bits - 8 * i;
    prefix.mask[i] = left >= 8 ? 0xff : left <= 0 ? 0 : <u8>(0xff00 >> left);
  }
  return prefix;
}
