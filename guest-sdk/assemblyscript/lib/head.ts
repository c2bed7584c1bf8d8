/** Heads in the window (wit/message.md). */

// Places in a head.
const END = 0;
const FIELDS = 2;
const FIELDS_ROOM = 4;
const STATUS = 6;
const VERSION = 8;
const FLAGS = 9;
const ROOM = 10;
const METHOD = 12;
const PATH = 16;
const AUTHORITY = 20;
const SERVER_NAME = 24;
const UPSTREAM = 28;
const CLIENT = 32;
const CLIENT_PORT = 64;
const LOCAL_PORT = 66;
const BODY = 68;
const TABLE = 72;

/** A text in the window; valid until the event returns. */
@final
export class Text {
  /** Address of its first byte, and its bytes. */
  constructor(public start: usize, public length: u32) {}

  /** Whether it begins with this. */
  startsWith(other: string): bool {
    for (let i = 0; i < other.length; i++) {
      const letter = <u32>other.charCodeAt(i);
      // Beyond ASCII it is another encoding.
      if (letter >= 0x80) return this.toString().startsWith(other);
      if (<u32>i >= this.length || load<u8>(this.start + i) != letter) return false;
    }
    return true;
  }

  /** Whether it is this. */
  equals(other: string): bool {
    return this.length == <u32>String.UTF8.byteLength(other) && this.startsWith(other);
  }

  /** The same as a string, which is a copy. */
  toString(): string {
    return String.UTF8.decodeUnsafe(this.start, this.length);
  }
}

// @ts-ignore: decorator
@inline function lower(letter: u32): u32 {
  return letter - 65 < 26 ? letter + 32 : letter;
}

/** Whether a head was changed since `onResume` was called: none is handed over there, so it is the one that waits. */
export let headChanged: bool = false;
/** For the SDK's own files. */
export function forgetChange(): void {
  headChanged = false;
}

/**
 * A request's or response's head, or a connection; valid until the event returns. Names of fields are compared without regard to case, and
 * written in lower case.
 */
@final
export class Head {
  /** Address of its first byte. */
  start: usize = 0;
  /** Whether it was changed. */
  changed: bool = false;

  /** The same head for `onResume`: while an exchange waits, its head stays where it is, and what is changed of it there counts. */
  kept(): Head {
    const kept = new Head();
    kept.start = this.start;
    return kept;
  }

  private touch(): void {
    this.changed = true;
    headChanged = true;
  }
  @inline private get(at: usize): u32 {
    return load<u16>(this.start + at);
  }
  @inline private put(at: usize, number: u32): void {
    store<u16>(this.start + at, <u16>number);
  }
  private part(at: usize): Text {
    return new Text(this.start + this.get(at), this.get(at + 2));
  }

  /** The request's method. */
  get method(): Text {
    return this.part(METHOD);
  }
  /** The request target: path and query, as the client wrote them. Many servers take `/%61`, `//a` and `/./a` for `/a`. */
  get path(): Text {
    return this.part(PATH);
  }
  /** Host and port, as the client named them. */
  get authority(): Text {
    return this.part(AUTHORITY);
  }
  /** What TLS's SNI said. */
  get serverName(): Text {
    return this.part(SERVER_NAME);
  }
  /** A response's status; 0 in requests and connections. */
  get status(): u32 {
    return this.get(STATUS);
  }
  /** Sets a response's status, 200 to 599. */
  set status(status: u32) {
    this.put(STATUS, status);
    this.touch();
  }
  /** 10, 11, 20: HTTP/1.0, 1.1, 2; 0 for connections. */
  get version(): u32 {
    return load<u8>(this.start, VERSION);
  }
  /** 1: TLS; 2: an upgrade is asked for; 4: there is no body; 8: made by a function, or by the gateway. */
  get flags(): u32 {
    return load<u8>(this.start, FLAGS);
  }
  /** Address of the client's address, 16 bytes; IPv4 as ::ffff:a.b.c.d. */
  get client(): usize {
    return this.start + CLIENT;
  }
  /** The client's port. */
  get clientPort(): u32 {
    return this.get(CLIENT_PORT);
  }
  /** The port that the client connected to. */
  get localPort(): u32 {
    return this.get(LOCAL_PORT);
  }
  /** The upstream that sent a response, a place in `Setup.ports`, or -1 if that is not known. */
  get upstream(): i32 {
    return <i32>load<u32>(this.start, UPSTREAM) - 1;
  }
  /** Bytes of the body, or -1 if they are not known. */
  get bodyLength(): i64 {
    const bytes = load<u32>(this.start, BODY);
    return bytes == 0xffffffff ? -1 : <i64>bytes;
  }

  /** Places of the table of fields, deleted ones included. */
  get fieldCount(): u32 {
    return this.get(FIELDS);
  }
  /** Name of the field at a place of the table; empty if it was deleted. */
  fieldName(place: u32): Text {
    return this.part(TABLE + 8 * place);
  }
  /** Value of the field at a place of the table. */
  fieldValue(place: u32): Text {
    return this.part(TABLE + 8 * place + 4);
  }

  /** Value of the first field of this name; null without one. */
  field(name: string): Text | null {
    const place = this.find(name, 0);
    return place < 0 ? null : this.fieldValue(place);
  }

  /** The place of the first field of this name, from this one on; -1 without one. */
  private find(name: string, from: u32): i32 {
    const length = <u32>name.length;
    if (length == 0) return -1;
    const count = this.get(FIELDS);
    for (let place = from; place < count; place++) {
      const entry = TABLE + 8 * place;
      if (this.get(entry + 2) != length) continue;
      const known = this.start + this.get(entry);
      let i: u32 = 0;
      while (i < length && load<u8>(known + i) == lower(name.charCodeAt(i))) i++;
      if (i == length) return place;
    }
    return -1;
  }

  /** Whether so many more bytes fit in. */
  private fits(bytes: u32): bool {
    const room = min<u32>(this.get(ROOM) + 1, 0xffff);
    return bytes <= room - this.get(END);
  }

  /** Appends a text that fits, of so many bytes, and notes its place. */
  private append(at: usize, text: string, bytes: u32): void {
    const end = this.get(END);
    String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, this.start + end);
    this.put(END, end + bytes);
    this.put(at, end);
    this.put(at + 2, bytes);
    this.touch();
  }

  /** Adds a field. False if there is no room for it; then nothing is changed. So for all that follow. */
  add(name: string, value: string): bool {
    const place = this.get(FIELDS);
    const nameBytes = <u32>String.UTF8.byteLength(name);
    const valueBytes = <u32>String.UTF8.byteLength(value);
    if (nameBytes == 0 || place >= this.get(FIELDS_ROOM) || !this.fits(nameBytes + valueBytes)) return false;
    const entry = TABLE + 8 * place;
    this.append(entry, name, nameBytes);
    const at = this.start + this.get(entry);
    for (let i: u32 = 0; i < nameBytes; i++) store<u8>(at + i, <u8>lower(load<u8>(at + i)));
    this.append(entry + 4, value, valueBytes);
    this.put(FIELDS, place + 1);
    return true;
  }

  /** Makes this the only field of its name. */
  set(name: string, value: string): bool {
    const place = this.find(name, 0);
    if (place < 0) return this.add(name, value);
    const bytes = <u32>String.UTF8.byteLength(value);
    if (!this.fits(bytes)) return false;
    this.append(TABLE + 8 * place + 4, value, bytes);
    this.removeFrom(name, place + 1);
    return true;
  }

  /** Sets the request target, path and query. */
  setPath(path: string): bool {
    const bytes = <u32>String.UTF8.byteLength(path);
    if (!this.fits(bytes)) return false;
    this.append(PATH, path, bytes);
    return true;
  }

  /** Deletes all fields of this name: whether there were any. */
  remove(name: string): bool {
    return this.removeFrom(name, 0);
  }

  private removeFrom(name: string, from: u32): bool {
    let removed = false;
    for (let place = this.find(name, from); place >= 0; place = this.find(name, place + 1)) {
      this.put(TABLE + 8 * place + 2, 0);
      removed = true;
    }
    if (removed) this.touch();
    return removed;
  }
}
