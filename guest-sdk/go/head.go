package weir

import (
	"encoding/binary"
	"net/netip"
)

// Places in a head (wit/message.md).
const (
	endAt        = 0
	fieldsAt     = 2
	fieldsRoomAt = 4
	statusAt     = 6
	versionAt    = 8
	flagsAt      = 9
	roomAt       = 10
	methodAt     = 12
	pathAt       = 16
	authorityAt  = 20
	serverNameAt = 24
	upstreamAt   = 28
	clientAt     = 32
	localAt      = 48
	clientPortAt = 64
	localPortAt  = 66
	bodyAt       = 68
	tableAt      = 72
	entryBytes   = 8
)

// A Head is a request's or response's head, or a connection. It lies in the window: what its methods return is valid until the
// event returns, and must not be written to. Names of fields are compared without regard to case, and written in lower case.
//
// An event that returns [Wait] may keep a copy of its head (kept := *head): until the exchange goes on, the head stays where it is, and what
// Resume changes of it counts.
type Head struct {
	// All bytes that it may use.
	bytes   []byte
	changed bool
}

// Whether a head was changed since Resume was called: none is handed over there, so it is the one that waits.
var headChanged bool

func (h *Head) touch() { h.changed, headChanged = true, true }

func (h *Head) get(at int) int { return int(binary.LittleEndian.Uint16(h.bytes[at:])) }

func (h *Head) put(at, number int) { binary.LittleEndian.PutUint16(h.bytes[at:], uint16(number)) }

// The string whose place lies here.
func (h *Head) part(at int) []byte {
	start := h.get(at)
	end := start + h.get(at+2)
	return h.bytes[start:end:end]
}

// Method is the request's method.
func (h *Head) Method() []byte { return h.part(methodAt) }

// Path is the request target: path and query, as the client wrote them. Many servers take `/%61`, `//a` and `/./a` for `/a`.
func (h *Head) Path() []byte { return h.part(pathAt) }

// Authority is host and port, as the client named them.
func (h *Head) Authority() []byte { return h.part(authorityAt) }

// ServerName is what TLS's SNI said.
func (h *Head) ServerName() []byte { return h.part(serverNameAt) }

// Status is a response's status; 0 in requests and connections.
func (h *Head) Status() int { return h.get(statusAt) }

// Version is 10, 11 or 20 for HTTP/1.0, 1.1 and 2; 0 for connections.
func (h *Head) Version() int { return int(h.bytes[versionAt]) }

// TLS says whether the connection is encrypted.
func (h *Head) TLS() bool { return h.bytes[flagsAt]&1 != 0 }

// Upgrade says whether the client asks for another protocol, such as WebSocket.
func (h *Head) Upgrade() bool { return h.bytes[flagsAt]&2 != 0 }

// NoBody says whether there is no body.
func (h *Head) NoBody() bool { return h.bytes[flagsAt]&4 != 0 }

// Made says whether a function made it, in place of a client or an upstream, or the gateway, because no upstream answered.
func (h *Head) Made() bool { return h.bytes[flagsAt]&8 != 0 }

// Client is the client's address and port.
func (h *Head) Client() netip.AddrPort { return h.address(clientAt, clientPortAt) }

// Local is the address and port that the client connected to.
func (h *Head) Local() netip.AddrPort { return h.address(localAt, localPortAt) }

func (h *Head) address(at, portAt int) netip.AddrPort {
	address := netip.AddrFrom16([16]byte(h.bytes[at : at+16])).Unmap()
	return netip.AddrPortFrom(address, uint16(h.get(portAt)))
}

// Upstream is the one that sent a response, a place in Setup.Ports, or -1 if that is not known.
func (h *Head) Upstream() int { return int(binary.LittleEndian.Uint32(h.bytes[upstreamAt:])) - 1 }

// BodyLength is the body's length in bytes, or -1 if that is not known.
func (h *Head) BodyLength() int64 {
	length := binary.LittleEndian.Uint32(h.bytes[bodyAt:])
	if length == 1<<32-1 {
		return -1
	}
	return int64(length)
}

// Fields calls yield with the name and value of each field, in order: `for name, value := range head.Fields`. The head must not be
// changed meanwhile.
func (h *Head) Fields(yield func(name, value []byte) bool) {
	for place := range h.get(fieldsAt) {
		entry := tableAt + place*entryBytes
		// One without a name was deleted.
		if h.get(entry+2) != 0 && !yield(h.part(entry), h.part(entry+4)) {
			return
		}
	}
}

// Field is the value of the first field of this name, and whether there is one.
func (h *Head) Field(name string) ([]byte, bool) {
	if entry := h.find(name, 0); entry != 0 {
		return h.part(entry + 4), true
	}
	return nil, false
}

// The entry of the first field of this name, from a place of the table on; 0 without one.
func (h *Head) find(name string, from int) int {
	for place := from; place < h.get(fieldsAt); place++ {
		entry := tableAt + place*entryBytes
		if h.get(entry+2) == len(name) && len(name) != 0 && isName(h.part(entry), name) {
			return entry
		}
	}
	return 0
}

// Whether a name of a head, which is lower case and as long, is this one.
func isName(known []byte, name string) bool {
	for i := range known {
		if known[i] != lower(name[i]) {
			return false
		}
	}
	return true
}

func lower(letter byte) byte {
	if 'A' <= letter && letter <= 'Z' {
		letter += 'a' - 'A'
	}
	return letter
}

// Whether so many more bytes fit in.
func (h *Head) fits(bytes int) bool { return bytes <= min(h.get(roomAt)+1, 1<<16-1)-h.get(endAt) }

// Appends a string that fits, and says where it is.
func appendTo[S string | []byte](h *Head, text S) int {
	at := h.get(endAt)
	copy(h.bytes[at:], text)
	h.put(endAt, at+len(text))
	return at
}

func (h *Head) value(entry int, value string) {
	h.put(entry+4, appendTo(h, value))
	h.put(entry+6, len(value))
	h.touch()
}

// Add adds a field, and says whether there was room for it. Nothing is changed without.
func (h *Head) Add(name, value string) bool {
	place := h.get(fieldsAt)
	if name == "" || place >= h.get(fieldsRoomAt) || !h.fits(len(name)+len(value)) {
		return false
	}
	entry := tableAt + place*entryBytes
	at := appendTo(h, name)
	for i, letter := range h.bytes[at : at+len(name)] {
		h.bytes[at+i] = lower(letter)
	}
	h.put(entry, at)
	h.put(entry+2, len(name))
	h.value(entry, value)
	h.put(fieldsAt, place+1)
	return true
}

// Set makes this the only field of its name, and says whether there was room for it. Nothing is changed without.
func (h *Head) Set(name, value string) bool {
	entry := h.find(name, 0)
	if entry == 0 {
		return h.Add(name, value)
	}
	if !h.fits(len(value)) {
		return false
	}
	h.value(entry, value)
	h.remove(name, (entry-tableAt)/entryBytes+1)
	return true
}

// Remove deletes all fields of this name, and says whether there were any.
func (h *Head) Remove(name string) bool { return h.remove(name, 0) }

func (h *Head) remove(name string, from int) (removed bool) {
	for entry := h.find(name, from); entry != 0; entry = h.find(name, (entry-tableAt)/entryBytes) {
		h.put(entry+2, 0)
		removed = true
		h.touch()
	}
	return removed
}

// SetMethod sets the request's method, and says whether there was room for it.
func (h *Head) SetMethod(method string) bool { return h.setPart(methodAt, method) }

// SetPath sets the request target, path and query, and says whether there was room for it.
func (h *Head) SetPath(path string) bool { return h.setPart(pathAt, path) }

// SetAuthority sets host and port, and says whether there was room for them.
func (h *Head) SetAuthority(authority string) bool { return h.setPart(authorityAt, authority) }

func (h *Head) setPart(at int, text string) bool {
	if !h.fits(len(text)) {
		return false
	}
	h.put(at, appendTo(h, text))
	h.put(at+2, len(text))
	h.touch()
	return true
}

// SetStatus sets a response's status, 200 to 599.
func (h *Head) SetStatus(status int) {
	h.put(statusAt, status)
	h.touch()
}
