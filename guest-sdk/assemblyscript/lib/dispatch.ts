/** What the exports of functions for messages and for connections have in common. */

import { Text, forgetChange, headChanged } from "./head";
import { afterEvent, begin, roomBytes, windowStart } from "./host";
import { End, Exchange, Head, Outcome, Piece, Resumed, events } from "./message";

const CHANGED: u64 = 256;
const REPLACED: u64 = 512;

const exchange = new Exchange();
const head = new Head();
const piece = new Piece();
const resumed = new Resumed();
const end = new End();

/** The exchange of an event. */
export function exchangeOf(number: u32): Exchange {
  exchange.number = number;
  return exchange;
}

/** The head at this offset of the window. */
export function headAt(offset: u32): Head {
  head.start = windowStart + offset;
  head.changed = false;
  return head;
}

/** The piece at this offset of the window. */
export function pieceAt(offset: u32, length: u32, last: u32): Piece {
  piece.start = windowStart + offset;
  piece.length = length;
  piece.room = roomBytes - (offset & (roomBytes - 1));
  piece.last = last != 0;
  piece.changed = false;
  piece.dropped = false;
  return piece;
}

/** The end of an event with a head: the outcome as the host reads it. */
export function ofHead(outcome: Outcome): u64 {
  afterEvent();
  return withChange(outcome, head.changed);
}

function withChange(outcome: Outcome, changed: bool): u64 {
  const passes = outcome == Outcome.Continue || outcome == Outcome.Finished || outcome == Outcome.Wait;
  return <u64>outcome | (changed && passes ? CHANGED : 0);
}

/** The end of an event with a piece. */
export function ofPiece(outcome: Outcome): u64 {
  afterEvent();
  if (outcome == Outcome.Answered || outcome == Outcome.Reset) return <u64>outcome;
  if (piece.dropped) return <u64>outcome | REPLACED;
  return <u64>outcome | (piece.changed ? CHANGED | (<u64>piece.length << 32) : 0);
}

/** The event `resume`. */
export function onResumed(number: u32, token: u32, status: u32, body: u32, length: u32): u64 {
  resumed.token = token;
  resumed.status = status;
  resumed.body = new Text(windowStart + body, length);
  forgetChange();
  const outcome = events.resumed(exchangeOf(number), resumed);
  afterEvent();
  return withChange(outcome, headChanged);
}

/** The event `ended`. */
export function onOver(number: u32, how: u32, upstream: u32, nanoseconds: u64): void {
  end.how = how;
  end.upstream = <i32>upstream;
  end.nanoseconds = nanoseconds;
  events.ended(exchangeOf(number), end);
  afterEvent();
}

const answer = memory.data(12, 4);

/** The event `configure`: what it answers has the events that are wanted, of these. */
export function beginEvents(
  allowed: u32,
  windowBytes: u32, windowAlign: u32, room: u32, stateBytes: u32, stateAlign: u32, stateKept: u32, seed: u64,
  ports: usize, portCount: u32, functions: usize, functionCount: u32, position: u32, config: usize, configLength: u32
): usize {
  const answered = begin(
    windowBytes, windowAlign, room, stateBytes, stateAlign, stateKept, seed,
    ports, portCount, functions, functionCount, position, config, configLength
  );
  if (load<u32>(answered) != 0) return answered;
  store<u32>(answer, 0);
  store<u32>(answer, events.wants & allowed, 4);
  return answer;
}
