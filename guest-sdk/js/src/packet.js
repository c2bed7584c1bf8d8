// A packet of a burst: a view of its first bytes. One object is used for all packets of a burst, one after the other.
export class Packet {
  // Where the packet lies: byte `at` of `bytes`, and of the view on them, is its first, and `given` of them are its own.
  bytes = null;
  view = null;
  at = 0;
  given = 0;
  length = 0;
  now = 0;
  // The burst as words, and where the packet's record begins in it: most functions look at little of it.
  words = null;
  row = 0;
  // What is to be put in the place of its first bytes: how many are replaced, and by what.
  replaced = 0;
  changed = null;
  // What `parse` found in it. Making an object for each packet would cost as much as all else that is done for it.
  headers = { version: 4, l3: 0, l4: 0, end: 0, protocol: 0, sport: -1, dport: -1, fragment: false };

  get port() {
    return this.words[this.row + 3] & 0xffff;
  }

  get reverse() {
    return (this.words[this.row + 3] & 0x10000) !== 0;
  }

  get made() {
    return (this.words[this.row + 3] & 0x20000) !== 0;
  }

  get wall() {
    return this.words[4] + this.words[5] * 0x1_0000_0000;
  }

  get hash() {
    return this.words[this.row + 4];
  }

  u8(offset) {
    this.check(offset, 1);
    return this.bytes[this.at + offset];
  }

  u16(offset) {
    this.check(offset, 2);
    return this.view.getUint16(this.at + offset);
  }

  u32(offset) {
    this.check(offset, 4);
    return this.view.getUint32(this.at + offset);
  }

  // The packet's first bytes, not copied.
  data() {
    return this.bytes.subarray(this.at, this.at + this.given);
  }

  // Puts these bytes in the place of as many from `offset` on.
  write(offset, bytes) {
    this.check(offset, bytes.length);
    this.bytes.set(bytes, this.at + offset);
    if (this.changed === null) this.replaced = this.given;
    this.changed = this.data();
  }

  // Puts these bytes, more or fewer, in the place of the packet's first `count`.
  replace(count, bytes) {
    this.check(0, count);
    const before = this.given;
    if (this.changed === null) this.replaced = before;
    const whole = new Uint8Array(bytes.length + before - count);
    whole.set(bytes);
    whole.set(this.bytes.subarray(this.at + count, this.at + before), bytes.length);
    this.bytes = whole;
    this.view = new DataView(whole.buffer);
    this.at = 0;
    this.given = whole.length;
    this.length += this.given - before;
    this.changed = whole;
  }

  check(offset, count) {
    if (!(offset >= 0 && count >= 0 && offset + count <= this.given)) {
      throw new RangeError(`bytes ${offset} to ${offset + count} do not lie within the ${this.given} that were given`);
    }
  }
}
