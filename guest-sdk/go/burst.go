package weir

import "unsafe"

// Where things lie in the window (wit/window.md).
const (
	verdictsAt = 0x1000
	metadataAt = 0x2000
	clockAt    = 0x3000
	wallAt     = 0x3008
)

// A Burst is the packets that are handled in one go: 1 to 256.
type Burst struct {
	window unsafe.Pointer
	bytes  uint32
	room   uint32
	count  int
}

type descriptor struct{ offset, length uint32 }

type metadata struct {
	port, flags uint16
	hash        uint32
}

// Len says how many packets there are.
func (b *Burst) Len() int { return b.count }

// Now is the burst's time in nanoseconds, on the clock of [Now].
func (b *Burst) Now() uint64 { return *(*uint64)(unsafe.Add(b.window, clockAt)) }

// Wall is the same moment in nanoseconds since 1970, or 0 if that is not known.
func (b *Burst) Wall() uint64 { return *(*uint64)(unsafe.Add(b.window, wallAt)) }

// Packet is the i-th packet.
func (b *Burst) Packet(i int) Packet {
	if uint(i) >= uint(b.count) {
		panic("weir: there is no such packet in the burst")
	}
	return Packet{b, i}
}

// A Packet is a view of one packet of a burst. It is worth nothing when Process has returned.
type Packet struct {
	burst *Burst
	i     int
}

func (p Packet) descriptor() *descriptor {
	return (*descriptor)(unsafe.Add(p.burst.window, p.i*8))
}

func (p Packet) metadata() *metadata {
	return (*metadata)(unsafe.Add(p.burst.window, metadataAt+p.i*8))
}

// Data is the packet's bytes from the Ethernet header on. They are in the window: writing to them changes the packet,
// and is a fault of a function that has access = "read-only".
func (p Packet) Data() []byte {
	d := p.descriptor()
	if d.offset > p.burst.bytes || d.length > p.burst.bytes-d.offset {
		panic("weir: a descriptor does not lie in the window")
	}
	return unsafe.Slice((*byte)(unsafe.Add(p.burst.window, d.offset)), int(d.length))
}

// Port is the number of the port the packet came in by, an index of Setup.Ports.
func (p Packet) Port() uint16 { return p.metadata().port }

// Reverse says whether the packet travels in the chain's reverse direction.
func (p Packet) Reverse() bool { return p.metadata().flags&1 != 0 }

// Made says whether a function made the packet.
func (p Packet) Made() bool { return p.metadata().flags&2 != 0 }

// Hash is the symmetric flow hash of the packet as it arrived, or 0 when the host did not need one.
func (p Packet) Hash() uint32 { return p.metadata().hash }

// SetVerdict decides about the packet. Without it the verdict is Next.
func (p Packet) SetVerdict(v Verdict) {
	*(*Verdict)(unsafe.Add(p.burst.window, verdictsAt+p.i*4)) = v
}

// Prepend makes room for n bytes in front of the packet, which hold anything, and says whether there was room (128 bytes
// at first).
func (p Packet) Prepend(n int) bool {
	d := p.descriptor()
	if n < 0 || uint32(n) > d.offset&(p.burst.room-1) {
		return false
	}
	d.offset -= uint32(n)
	d.length += uint32(n)
	return true
}

// Strip takes n bytes from the packet's front, and says whether it had so many.
func (p Packet) Strip(n int) bool {
	d := p.descriptor()
	if n < 0 || uint32(n) > d.length || d.offset&(p.burst.room-1)+uint32(n) >= p.burst.room {
		return false
	}
	d.offset += uint32(n)
	d.length -= uint32(n)
	return true
}

// Resize sets the packet's length by changing its end, and says whether there was room. New bytes hold anything.
func (p Packet) Resize(n int) bool {
	d := p.descriptor()
	if n < 0 || uint32(n) > p.burst.room-d.offset&(p.burst.room-1) {
		return false
	}
	d.length = uint32(n)
	return true
}
