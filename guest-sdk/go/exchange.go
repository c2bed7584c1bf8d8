package weir

import (
	"encoding/binary"
	"errors"
	"time"
	"unicode/utf8"
)

// An Exchange is a request with its response, or a connection, by its number, which is given out again only after Ended.
type Exchange uint32

// A Token names what was asked for, until Resume brings it.
type Token uint32

// A Field of a head.
type Field struct{ Name, Value string }

// Answer answers the exchange itself; return what it returns: Answered, or Reset if the host refuses, because the response's head has
// left, or if a field is no UTF-8, as those of a client need not be; the function's log says why. The content's length
// need not be told in a field.
func (e Exchange) Answer(status int, fields []Field, body []byte) Outcome {
	for _, field := range fields {
		if !utf8.ValidString(field.Name) || !utf8.ValidString(field.Value) {
			Logf(Warn, "an answer of it is refused: the field %q is no UTF-8", field.Name)
			return Reset
		}
	}
	if err := hostAnswer(uint32(e), status, fields, body); err != nil {
		return Reset
	}
	return Answered
}

// Route sends the exchange to this upstream, a place in Setup.Ports: before the request's head has left the chain, or while a
// connection is opened. The last call counts; without one the listener chooses.
func (e Exchange) Route(upstream int) error { return hostRoute(uint32(e), uint32(upstream)) }

// StoreGet asks the tenant's key-value store, which all workers and functions of the tenant share. A key has at most 256 bytes.
func (e Exchange) StoreGet(key []byte) (Token, error) { return hostStoreGet(uint32(e), key) }

// StoreAdd adds to a number of the store, 0 if there is none, and gives it so long to live if it is new, as StoreSet. Resumed.Number has the
// sum.
func (e Exchange) StoreAdd(key []byte, delta int64, life time.Duration) (Token, error) {
	return hostStoreAdd(uint32(e), key, delta, milliseconds(life))
}

// StoreSet writes a value of at most a room that lives for so long, in milliseconds, of which one that has begun counts. 0: until memory is
// short; a life that is over before is a millisecond.
func (e Exchange) StoreSet(key, value []byte, life time.Duration) error {
	return hostStoreSet(uint32(e), key, value, milliseconds(life))
}

// Rounded up: what is below a millisecond is not 0, which is for ever.
func milliseconds(life time.Duration) uint64 {
	if life < 0 {
		return 1
	}
	whole := uint64(life / time.Millisecond)
	if life%time.Millisecond != 0 {
		whole++
	}
	return whole
}

// Sleep asks to be resumed after so long; at once, if it is below 0.
func (e Exchange) Sleep(after time.Duration) (Token, error) {
	return hostSleep(uint32(e), uint64(max(after, 0)))
}

// Healthy says whether health checks and recent failures allow requests to this upstream.
func Healthy(upstream int) bool { return hostHealthy(uint32(upstream)) }

// Active is how many requests or connections this upstream has now, from this chain.
func Active(upstream int) int { return int(hostActive(uint32(upstream))) }

// ErrNoSuchKey is why Resume brings no value.
var ErrNoSuchKey = errors.New("the store has no such key")

// Resumed is what was asked for. It is valid until Resume returns.
type Resumed struct {
	// Token is what the asking returned.
	Token Token
	// Body is the store's value.
	Body []byte
	// Err is why there is nothing: ErrNoSuchKey, or nil.
	Err error
}

// Number is what StoreAdd brought.
func (r *Resumed) Number() int64 {
	if len(r.Body) < 8 {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(r.Body))
}

// How says how an exchange ended.
type How uint32

const (
	// Delivered says that all of the response was delivered.
	Delivered How = iota
	// ClientGone says that the client went first.
	ClientGone
	// UpstreamFailed says that there was no connection, a reset, or a timeout.
	UpstreamFailed
	// FunctionAnswered says that a function answered, this one or another.
	FunctionAnswered
	// WasReset says that it was reset.
	WasReset
)

// An End is how an exchange ended.
type End struct {
	How How
	// Upstream is the one that had it, or -1.
	Upstream int
	// Time is that to the response's head, or in all of a connection.
	Time time.Duration
}

func endOf(how, upstream uint32, nanoseconds uint64) End {
	end := End{How(how), int(upstream), time.Duration(nanoseconds)}
	if upstream == 1<<32-1 {
		end.Upstream = -1
	}
	return end
}
