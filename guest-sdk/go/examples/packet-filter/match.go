package main

import (
	"encoding/binary"
	"net/netip"

	"weir"
)

// A rule as it is compared. Addresses are numbers of two words: those of IPv4 are in the lower half of the second.
type rule struct {
	allow        bool
	version      version
	protocol     int // -1 for any
	src, dst     mask
	sport, dport ports
}

// Bits of an address, and what they have to be. Without bits any address has them.
type mask struct{ high, low, highValue, lowValue uint64 }

func (m *mask) has(high, low uint64) bool {
	return high&m.high == m.highValue && low&m.low == m.lowValue
}

func maskOf(prefix netip.Prefix) (m mask) {
	if !prefix.IsValid() {
		return m
	}
	bits := prefix.Bits()
	if prefix.Addr().Is4() {
		address := prefix.Addr().As4()
		m.low = uint64(^uint32(0) << (32 - bits) & (1<<32 - 1))
		m.lowValue = uint64(binary.BigEndian.Uint32(address[:])) & m.low
		return m
	}
	address := prefix.Addr().As16()
	m.high = ^uint64(0) << max(64-bits, 0)
	m.low = ^uint64(0) << min(128-bits, 64)
	m.highValue = binary.BigEndian.Uint64(address[:]) & m.high
	m.lowValue = binary.BigEndian.Uint64(address[8:]) & m.low
	return m
}

// Which packets a rule may match: 0 is both versions of IP.
type version int

const neither version = -1

func versionOf(src, dst netip.Prefix) (both version) {
	for _, prefix := range []netip.Prefix{src, dst} {
		one := version(6)
		switch {
		case !prefix.IsValid():
			continue
		case prefix.Addr().Is4():
			one = 4
		}
		if both != 0 && both != one {
			return neither
		}
		both = one
	}
	return both
}

// A range of ports. A packet without ports has -1, which only the range of a rule that says nothing of ports has in it.
type ports struct{ low, high int32 }

var anyPort = ports{-1, 65535}

// What rules look at in a packet.
type packet struct {
	protocol                         int
	srcHigh, srcLow, dstHigh, dstLow uint64
	sport, dport                     int32
}

func packetOf(frame []byte, headers *weir.Headers) (p packet) {
	p.protocol, p.sport, p.dport = int(headers.Protocol), -1, -1
	if headers.HasPorts {
		p.sport, p.dport = int32(headers.SrcPort), int32(headers.DstPort)
	}
	if headers.Src.Is4() {
		addresses := frame[headers.L3+12 : headers.L3+20]
		p.srcLow = uint64(binary.BigEndian.Uint32(addresses))
		p.dstLow = uint64(binary.BigEndian.Uint32(addresses[4:]))
		return p
	}
	addresses := frame[headers.L3+8 : headers.L3+40]
	p.srcHigh, p.srcLow = binary.BigEndian.Uint64(addresses), binary.BigEndian.Uint64(addresses[8:])
	p.dstHigh, p.dstLow = binary.BigEndian.Uint64(addresses[16:]), binary.BigEndian.Uint64(addresses[24:])
	return p
}

func (r *rule) matches(p *packet) bool {
	return (r.protocol < 0 || r.protocol == p.protocol) &&
		r.dport.low <= p.dport && p.dport <= r.dport.high && r.sport.low <= p.sport && p.sport <= r.sport.high &&
		r.src.has(p.srcHigh, p.srcLow) && r.dst.has(p.dstHigh, p.dstLow)
}
