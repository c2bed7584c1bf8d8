/** The exports of world `connection-function`, as the canonical ABI has them. */

import { beginEvents, exchangeOf, headAt, ofHead, ofPiece, onOver, onResumed, pieceAt } from "../dispatch";
import { ticked } from "../host";
import { events } from "../message";
export { cabi_realloc } from "../host";

/** The export `configure`. */
export function connection_configure(
  windowBytes: u32, windowAlign: u32, room: u32, stateBytes: u32, stateAlign: u32, stateKept: u32, seed: u64,
  ports: usize, portCount: u32, functions: usize, functionCount: u32, position: u32, config: usize, configLength: u32
): usize {
  return beginEvents(
    112, windowBytes, windowAlign, room, stateBytes, stateAlign, stateKept, seed,
    ports, portCount, functions, functionCount, position, config, configLength
  );
}

/** The export `opened`. */
export function connection_opened(exchange: u32, head: u32): u64 {
  return ofHead(events.opened(exchangeOf(exchange), headAt(head)));
}

/** The export `data`. */
export function connection_data(exchange: u32, fromUpstream: u32, offset: u32, length: u32, last: u32): u64 {
  return ofPiece(events.data(exchangeOf(exchange), fromUpstream != 0, pieceAt(offset, length, last)));
}

/** The export `resume`. */
export function connection_resume(exchange: u32, token: u32, status: u32, _head: u32, body: u32, length: u32): u64 {
  return onResumed(exchange, token, status, body, length);
}

/** The export `ended`. */
export function connection_ended(exchange: u32, how: u32, upstream: u32, nanoseconds: u64): void {
  onOver(exchange, how, upstream, nanoseconds);
}

/** The export `tick`. */
export function connection_tick(at: u64): void {
  ticked(at);
}
