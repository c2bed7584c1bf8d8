/**
 * Functions for requests and responses (L7) and for connections (L4) in AssemblyScript: heads and bodies lie in the window, nothing is copied
 * (wit/message.md).
 *
 * A function's file hands over what it wants to be called, and so says which events it wants; it exports what the host calls:
 *
 *     import { Exchange, Head, Json, Outcome, Setup, onConfigure, onRequestHead } from "message";
 *     export * from "exports/message";
 *     onConfigure((setup: Setup, config: Json): string | null => null);
 *     onRequestHead((exchange: Exchange, head: Head): Outcome => Outcome.Continue);
 *
 * and one for connections `export * from "exports/connection"`, with `onOpened` and `onData`. The runtime is `incremental`: strings and objects
 * can be made in events, and are collected.
 */

import { Head, Text } from "./head";
import { Level, isWhole, log } from "./host";
export { Head, Text } from "./head";
export { Counter, Json, Level, Member, Setup, log, now, onConfigure, onTick, random, setTimer, wall } from "./host";

@external("weir:net/exchange@0.1.0", "route")
declare function importRoute(exchange: u32, upstream: u32, result: usize): void;
@external("weir:net/exchange@0.1.0", "healthy")
declare function importHealthy(upstream: u32): u32;
@external("weir:net/exchange@0.1.0", "active")
declare function importActive(upstream: u32): u32;
@external("weir:net/exchange@0.1.0", "answer-copy")
declare function importAnswerCopy(
  exchange: u32, status: u32, fields: usize, count: u32, body: usize, length: u32, result: usize
): void;
@external("weir:net/exchange@0.1.0", "store-get")
declare function importStoreGet(exchange: u32, key: usize, length: u32, result: usize): void;
@external("weir:net/exchange@0.1.0", "store-set")
declare function importStoreSet(
  exchange: u32, key: usize, length: u32, value: usize, bytes: u32, milliseconds: u64, result: usize
): void;
@external("weir:net/exchange@0.1.0", "store-add")
declare function importStoreAdd(exchange: u32, key: usize, length: u32, delta: i64, milliseconds: u64, result: usize): void;
@external("weir:net/exchange@0.1.0", "sleep")
declare function importSleep(exchange: u32, nanoseconds: u64, result: usize): void;

/** What an event answers. That a head or a piece was changed need not be said. */
export enum Outcome {
  /** The next function has it. */
  Continue,
  /** The function has answered the exchange itself: what `Exchange.answer` gives back. */
  Answered,
  /** The stream or connection is ended without an answer. */
  Reset,
  /** Nothing of this exchange in this direction moves until what `onResume` was given is called. */
  Wait,
  /** Of a body's piece: it stays where it is, and the function wants to see the next one. */
  HoldPiece,
  /** As `Continue`; this function wants no more events of this exchange but its end. */
  Finished,
}

/** A field of an answer. */
@final
export class Field {
  constructor(public name: string, public value: string) {}
}

/** What a call of the host has written: a byte that says whether it was refused, and from byte 4 a token. */
const result = memory.data(8, 4);

/** A request with its response, or a connection; valid until the event returns. Keep its number. */
@final
export class Exchange {
  /** Given out again only after the exchange's end. */
  number: u32 = 0;

  /** Answers it; `return` what this gives back: `Outcome.Reset` if the host refuses, or a field cannot be UTF-8, as those of a client need not be; the
   * function's log says why. */
  answer(status: u32, fields: Field[], body: string): Outcome {
    return this.answerBytes(status, fields, String.UTF8.encode(body));
  }

  /** The same with any bytes. */
  answerBytes(status: u32, fields: Field[], body: ArrayBuffer): Outcome {
    const texts: ArrayBuffer[] = [];
    const list = new StaticArray<usize>(fields.length * 4);
    for (let i = 0; i < fields.length; i++) {
      if (!isWhole(fields[i].name) || !isWhole(fields[i].value)) {
        log(Level.Warn, "an answer of it is refused: the field " + fields[i].name + " cannot be UTF-8");
        return Outcome.Reset;
      }
      const name = String.UTF8.encode(fields[i].name);
      const value = String.UTF8.encode(fields[i].value);
      list[4 * i] = changetype<usize>(name);
      list[4 * i + 1] = name.byteLength;
      list[4 * i + 2] = changetype<usize>(value);
      list[4 * i + 3] = value.byteLength;
      // Until the host has read them.
      texts.push(name);
      texts.push(value);
    }
    importAnswerCopy(this.number, status, changetype<usize>(list), fields.length, changetype<usize>(body), body.byteLength, result);
    return load<u8>(result) == 0 && texts.length == 2 * fields.length ? Outcome.Answered : Outcome.Reset;
  }

  /** Sends it to this upstream, a place in `Setup.ports`: before the request's head has left the chain. False if the host refused. */
  route(upstream: u32): bool {
    importRoute(this.number, upstream, result);
    return load<u8>(result) == 0;
  }

  /** Asks the tenant's key-value store; `onResume` brings the value under the token that this gives, -1 if the host refused. */
  storeGet(key: string): i64 {
    const bytes = String.UTF8.encode(key);
    importStoreGet(this.number, changetype<usize>(bytes), bytes.byteLength, result);
    return token();
  }

  /** Adds to a number of the store, 0 if there is none, and gives it so long to live if it is new; a token for the sum, or -1. */
  storeAdd(key: string, delta: i64, milliseconds: u64): i64 {
    const bytes = String.UTF8.encode(key);
    importStoreAdd(this.number, changetype<usize>(bytes), bytes.byteLength, delta, milliseconds, result);
    return token();
  }

  /** Writes a value that lives for so long (0: until memory is short). False if the host refused. */
  storeSet(key: string, value: string, milliseconds: u64): bool {
    const bytes = String.UTF8.encode(key);
    const text = String.UTF8.encode(value);
    importStoreSet(
      this.number, changetype<usize>(bytes), bytes.byteLength, changetype<usize>(text), text.byteLength, milliseconds, result
    );
    return load<u8>(result) == 0;
  }

  /** Asks to be resumed after so long; a token, or -1. */
  sleep(nanoseconds: u64): i64 {
    importSleep(this.number, nanoseconds, result);
    return token();
  }
}

function token(): i64 {
  return load<u8>(result) == 0 ? <i64>load<u32>(result, 4) : -1;
}

/** Whether health checks and recent failures allow requests to this upstream. */
export function healthy(upstream: u32): bool {
  return importHealthy(upstream) != 0;
}

/** Requests or connections that this upstream has now, from this chain. */
export function active(upstream: u32): u32 {
  return importActive(upstream);
}

/** A piece of a body, or bytes of a connection; valid until the event returns. */
@final
export class Piece {
  /** Address of its first byte. Read and write it with `load` and `store`, nothing beyond its length. */
  start: usize = 0;
  /** Its bytes. */
  length: u32 = 0;
  /** Bytes that it can have. */
  room: u32 = 0;
  /** There is none after it; it may be empty. */
  last: bool = false;
  /** To be set when bytes were changed without the length. */
  changed: bool = false;
  /** Set, it is left out. */
  dropped: bool = false;

  /** Gives it another length, when its bytes have been changed. False beyond its room. */
  resize(length: u32): bool {
    if (length > this.room) return false;
    this.length = length;
    this.changed = true;
    return true;
  }

  /** Replaces its bytes by this text. False if there is no room. */
  set(text: string): bool {
    if (!this.resize(String.UTF8.byteLength(text))) return false;
    String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, this.start);
    return true;
  }

  /** Its bytes as a string, which is a copy. */
  toString(): string {
    return String.UTF8.decodeUnsafe(this.start, this.length);
  }
}

/** What was asked for is there; valid until the event returns. */
@final
export class Resumed {
  /** What the asking gave back. */
  token: u32 = 0;
  /** 0: it is there; 1: the store has no such key. */
  status: u32 = 0;
  /** The store's value. */
  body: Text = new Text(0, 0);

  /** What `storeAdd` brought. */
  get number(): i64 {
    return this.body.length < 8 ? 0 : load<i64>(this.body.start);
  }
}

/** How an exchange ended. */
@final
export class End {
  /** 0: all of the response was delivered; 1: the client went first; 2: the upstream failed; 3: a function answered; 4: reset. */
  how: u32 = 0;
  /** The upstream that had it, or -1. */
  upstream: i32 = -1;
  /** Time to the response's head, or in all of a connection. */
  nanoseconds: u64 = 0;
}

/** What was handed over, and the bits of it that the host is told. For the SDK's own files. */
export namespace events {
  export let wants: u32 = 0;
  export let requestHead: (exchange: Exchange, head: Head) => Outcome = (_exchange, _head) => Outcome.Continue;
  export let requestBody: (exchange: Exchange, piece: Piece) => Outcome = (_exchange, _piece) => Outcome.Continue;
  export let responseHead: (exchange: Exchange, head: Head) => Outcome = (_exchange, _head) => Outcome.Continue;
  export let responseBody: (exchange: Exchange, piece: Piece) => Outcome = (_exchange, _piece) => Outcome.Continue;
  export let opened: (exchange: Exchange, head: Head) => Outcome = (_exchange, _head) => Outcome.Continue;
  export let data: (exchange: Exchange, fromUpstream: bool, piece: Piece) => Outcome = (_exchange, _from, _piece) => Outcome.Continue;
  export let resumed: (exchange: Exchange, resumed: Resumed) => Outcome = (_exchange, _resumed) => Outcome.Continue;
  export let ended: (exchange: Exchange, end: End) => void = (_exchange, _end) => {};
}

/** What is called with heads of requests. */
export function onRequestHead(call: (exchange: Exchange, head: Head) => Outcome): void {
  events.requestHead = call;
  events.wants |= 1;
}
/** What is called with pieces of requests' bodies. */
export function onRequestBody(call: (exchange: Exchange, piece: Piece) => Outcome): void {
  events.requestBody = call;
  events.wants |= 2;
}
/** What is called with heads of responses, of upstreams and of later functions of the chain. */
export function onResponseHead(call: (exchange: Exchange, head: Head) => Outcome): void {
  events.responseHead = call;
  events.wants |= 4;
}
/** What is called with pieces of responses' bodies. */
export function onResponseBody(call: (exchange: Exchange, piece: Piece) => Outcome): void {
  events.responseBody = call;
  events.wants |= 8;
}
/** What is called when an exchange is over that one of the others was called for. */
export function onEnded(call: (exchange: Exchange, end: End) => void): void {
  events.ended = call;
  events.wants |= 16;
}
/** What is called when a connection was accepted: its head has addresses, and what TLS said. */
export function onOpened(call: (exchange: Exchange, head: Head) => Outcome): void {
  events.opened = call;
  events.wants |= 32;
}
/** What is called with bytes of a connection. `Piece.last`: that side will send nothing more. */
export function onData(call: (exchange: Exchange, fromUpstream: bool, piece: Piece) => Outcome): void {
  events.data = call;
  events.wants |= 64;
}
/** What is called when something is there that was asked for. While the exchange waits, the outcome is that of the event it waits in. */
export function onResume(call: (exchange: Exchange, resumed: Resumed) => Outcome): void {
  events.resumed = call;
}
