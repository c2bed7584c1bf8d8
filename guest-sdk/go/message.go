package weir

import "errors"

// A Configurer is a function for messages or for connections. What it is called for are the methods that it has beside this one:
// those of [RequestHeadHandler], [RequestBodyHandler], [ResponseHeadHandler] and [ResponseBodyHandler] in a function for messages, of
// [OpenedHandler] and [DataHandler] in one for connections, and of [Resumer], [Ender] and [Ticker] in both. C is as for [Function].
type Configurer[C any] interface {
	// Configure prepares the function; Setup.Ports names the upstreams. The error is shown to whoever deploys the chain, which stays as
	// it was.
	Configure(setup *Setup, config *C) error
}

// A RequestHeadHandler wants the heads of requests.
type RequestHeadHandler interface {
	RequestHead(exchange Exchange, head *Head) Outcome
}

// A RequestBodyHandler wants the pieces of requests' bodies.
type RequestBodyHandler interface {
	RequestBody(exchange Exchange, piece *Piece) Outcome
}

// A ResponseHeadHandler wants the heads of responses, of upstreams and of later functions of the chain.
type ResponseHeadHandler interface {
	ResponseHead(exchange Exchange, head *Head) Outcome
}

// A ResponseBodyHandler wants the pieces of responses' bodies.
type ResponseBodyHandler interface {
	ResponseBody(exchange Exchange, piece *Piece) Outcome
}

// An OpenedHandler wants to know of connections that were accepted. The head has addresses, and what TLS said; no method, no fields.
type OpenedHandler interface {
	Opened(exchange Exchange, head *Head) Outcome
}

// A DataHandler wants the bytes of connections, from the client or from the upstream. Piece.Last: that side will send nothing more.
type DataHandler interface {
	Data(exchange Exchange, fromUpstream bool, piece *Piece) Outcome
}

// A Resumer is told when what it asked for under a token is there. If the exchange waits for it, the outcome is that of the event
// that it waits in; else it does not matter. It may come when the exchange is over.
type Resumer interface {
	Resume(exchange Exchange, resumed *Resumed) Outcome
}

// An Ender is told when an exchange is over, if it was called for it before.
type Ender interface {
	Ended(exchange Exchange, end End)
}

// Events are what a function for messages or for connections is called for.
type Events uint32

const (
	// OnRequestHead is for RequestHead.
	OnRequestHead Events = 1 << iota
	// OnRequestBody is for RequestBody.
	OnRequestBody
	// OnResponseHead is for ResponseHead.
	OnResponseHead
	// OnResponseBody is for ResponseBody.
	OnResponseBody
	// OnEnded is for Ended.
	OnEnded
	// OnOpened is for Opened.
	OnOpened
	// OnData is for Data.
	OnData
)

// A Wanter is called for these events only, of those that it has methods for. It is asked once, after Configure. Each that is left out
// is time saved.
type Wanter interface {
	Wants() Events
}

// An Outcome is what an event comes to. That a head or a piece was changed need not be said.
type Outcome uint8

const (
	// Continue passes it to the next function.
	Continue Outcome = iota
	// Answered says that the function has answered the exchange itself: what Exchange.Answer returns.
	Answered
	// Reset ends the stream or connection without an answer.
	Reset
	// Wait holds back everything of this exchange in this direction until Resume.
	Wait
	// HoldPiece leaves a body's piece where it is, and the function wants to see the next one. Continue for a later one lets all go.
	HoldPiece
	// Finished is Continue, and this function wants no more events of this exchange but Ended.
	Finished
)

// A Piece of a body, or of what a connection carries. It lies in the window, and is valid until the event returns.
type Piece struct {
	room     []byte
	length   int
	last     bool
	changed  bool
	replaced bool
}

// Data is its bytes. Whoever writes to them says so by Changed.
func (p *Piece) Data() []byte { return p.room[:p.length:p.length] }

// Last says whether there is none after it. The last one may be empty.
func (p *Piece) Last() bool { return p.last }

// Room is how long it can become: at least 512 bytes longer than it came.
func (p *Piece) Room() int { return len(p.room) }

// Changed says that bytes of Data were written to.
func (p *Piece) Changed() { p.changed = true }

// Resize gives it another length, and says whether there was room. New bytes hold anything: write them.
func (p *Piece) Resize(length int) bool {
	if length < 0 || length > len(p.room) {
		return false
	}
	p.length, p.changed = length, true
	return true
}

// Set replaces its bytes, and says whether there was room.
func (p *Piece) Set(data []byte) bool {
	if !p.Resize(len(data)) {
		return false
	}
	copy(p.room, data)
	return true
}

// Drop leaves it out.
func (p *Piece) Drop() { p.replaced = true }

// What a function that was exported is called for, nil for what it has no method for.
type handlers struct {
	requestHead, responseHead, opened func(Exchange, *Head) Outcome
	requestBody, responseBody         func(Exchange, *Piece) Outcome
	data                              func(Exchange, bool, *Piece) Outcome
	resume                            func(Exchange, *Resumed) Outcome
	ended                             func(Exchange, End)
	wants                             Events
}

// ExportMessage makes this the module's function, for requests and responses. Call it once, in an init function. The module is
// built with the tag `message`.
func ExportMessage[C any](function Configurer[C]) {
	var h handlers
	if handler, ok := function.(RequestHeadHandler); ok {
		h.requestHead, h.wants = handler.RequestHead, h.wants|OnRequestHead
	}
	if handler, ok := function.(RequestBodyHandler); ok {
		h.requestBody, h.wants = handler.RequestBody, h.wants|OnRequestBody
	}
	if handler, ok := function.(ResponseHeadHandler); ok {
		h.responseHead, h.wants = handler.ResponseHead, h.wants|OnResponseHead
	}
	if handler, ok := function.(ResponseBodyHandler); ok {
		h.responseBody, h.wants = handler.ResponseBody, h.wants|OnResponseBody
	}
	exportExchanges(function, h, "RequestHead, RequestBody, ResponseHead, ResponseBody")
}

// ExportConnection makes this the module's function, for connections. Call it once, in an init function. The module is built with the
// tag `connection`.
func ExportConnection[C any](function Configurer[C]) {
	var h handlers
	if handler, ok := function.(OpenedHandler); ok {
		h.opened, h.wants = handler.Opened, h.wants|OnOpened
	}
	if handler, ok := function.(DataHandler); ok {
		h.data, h.wants = handler.Data, h.wants|OnData
	}
	exportExchanges(function, h, "Opened, Data")
}

func exportExchanges[C any](function Configurer[C], h handlers, events string) {
	if resumer, ok := function.(Resumer); ok {
		h.resume = resumer.Resume
	}
	if ender, ok := function.(Ender); ok {
		h.ended, h.wants = ender.Ended, h.wants|OnEnded
	}
	exportAs(function, func(setup *Setup, config *C) error {
		if h.wants&^OnEnded == 0 {
			return errors.New("the function has none of the methods " + events + " with the parameters that package weir says")
		}
		if err := function.Configure(setup, config); err != nil {
			return err
		}
		exported.handlers = h
		if wanter, ok := function.(Wanter); ok {
			exported.handlers.wants &= wanter.Wants()
		}
		return nil
	})
}

// What an outcome about a head is for the host.
func ofHead(outcome Outcome, head *Head) uint64 {
	return withChange(outcome, head.changed)
}

func withChange(outcome Outcome, changed bool) uint64 {
	word := uint64(outcome)
	if changed && (outcome == Continue || outcome == Finished || outcome == Wait) {
		word |= changedFlag
	}
	return word
}

// What an outcome about a piece is for the host.
func ofPiece(outcome Outcome, piece *Piece) uint64 {
	word := uint64(outcome)
	switch {
	case outcome == Answered || outcome == Reset:
	case piece.replaced:
		word |= replacedFlag
	case piece.changed:
		word |= changedFlag | uint64(piece.length)<<32
	}
	return word
}

const (
	changedFlag  = 256
	replacedFlag = 512
)
