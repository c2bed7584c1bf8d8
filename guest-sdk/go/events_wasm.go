//go:build wasm && (message || connection)

package weir

import "unsafe"

// What functions for messages and for connections have in common.

var (
	head    Head
	piece   Piece
	resumed Resumed
)

func window(offset, length uint32) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(burst.window, offset)), int(length))
}

// What `configure` answers: the events that are wanted, or why not.
func configured(err error) unsafe.Pointer {
	at := fail(err)
	if err == nil {
		answer[1] = uint32(exported.handlers.wants)
	}
	return at
}

func headAt(at uint32) *Head {
	first := window(at, tableAt)
	head = Head{bytes: first}
	head.bytes = window(at, uint32(head.get(roomAt))+1)
	return &head
}

func onHead(event func(Exchange, *Head) Outcome, exchange, at uint32) uint64 {
	defer logPanic()
	head := headAt(at)
	outcome := event(Exchange(exchange), head)
	afterBurst(burst.Now())
	return ofHead(outcome, head)
}

func pieceAt(offset, length, last uint32) *Piece {
	piece = Piece{
		room:   window(offset, burst.room-offset&(burst.room-1)),
		length: int(length),
		last:   last != 0,
	}
	return &piece
}

func onPiece(event func(Exchange, *Piece) Outcome, exchange, offset, length, last uint32) uint64 {
	defer logPanic()
	piece := pieceAt(offset, length, last)
	outcome := event(Exchange(exchange), piece)
	afterBurst(burst.Now())
	return ofPiece(outcome, piece)
}

func onResume(exchange, token, status, body, length uint32) uint64 {
	defer logPanic()
	if exported.handlers.resume == nil {
		return uint64(Continue)
	}
	resumed = Resumed{Token: Token(token), Body: window(body, length)}
	if status == 1 {
		resumed = Resumed{Token: Token(token), Err: ErrNoSuchKey}
	}
	headChanged = false
	outcome := exported.handlers.resume(Exchange(exchange), &resumed)
	afterBurst(burst.Now())
	return withChange(outcome, headChanged)
}

func onEnded(exchange, how, upstream uint32, nanoseconds uint64) {
	defer logPanic()
	if exported.handlers.ended != nil {
		exported.handlers.ended(Exchange(exchange), endOf(how, upstream, nanoseconds))
	}
	afterBurst(burst.Now())
}
