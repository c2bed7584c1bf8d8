package weir

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Numbers of protocols (IANA).
const (
	// ICMP is the control protocol of IPv4 (RFC 792).
	ICMP = 1
	// TCP is the transmission control protocol (RFC 9293).
	TCP = 6
	// UDP is the user datagram protocol (RFC 768).
	UDP = 17
	// ICMPv6 is the control protocol of IPv6 (RFC 4443).
	ICMPv6 = 58
)

var (
	// ErrNotIP is for frames that are neither IPv4 nor IPv6.
	ErrNotIP = errors.New("the frame is neither IPv4 nor IPv6")
	// ErrMalformed is for IP packets that are cut short or contradict themselves: a length beyond the frame or below the
	// header's, a wrong version, more than 8 extension headers, a header of TCP or UDP that is not all there.
	ErrMalformed = errors.New("the frame's headers are cut short or contradict themselves")
)

// Headers say where the headers of an IP packet lie in its frame, and what is in them.
type Headers struct {
	// L3, L4 and End are where the IP header begins, the transport header does (of a later fragment: its payload), and where
	// the packet ends; padding may follow.
	L3, L4, End int
	// Src and Dst are the packet's addresses.
	Src, Dst netip.Addr
	// Protocol is that behind all extension headers.
	Protocol uint8
	// SrcPort and DstPort are those of TCP and UDP, if HasPorts.
	SrcPort, DstPort uint16
	// HasPorts is false of later fragments and of other protocols.
	HasPorts bool
	// Fragment is true of later fragments: there is no transport header.
	Fragment bool
}

// Parse reads a frame: Ethernet with up to two VLAN tags, IPv4, IPv6 with extension headers, ports.
func Parse(frame []byte) (h Headers, err error) {
	if len(frame) < 14 {
		return h, ErrNotIP
	}
	kind := binary.BigEndian.Uint16(frame[12:])
	h.L3 = 14
	for range 2 {
		if kind != 0x8100 && kind != 0x88a8 {
			break
		}
		if len(frame) < h.L3+4 {
			return h, ErrNotIP
		}
		kind = binary.BigEndian.Uint16(frame[h.L3+2:])
		h.L3 += 4
	}
	good := false
	switch kind {
	case 0x0800:
		good = h.v4(frame)
	case 0x86dd:
		good = h.v6(frame)
	default:
		return h, ErrNotIP
	}
	if !good {
		return h, ErrMalformed
	}
	return h, nil
}

func (h *Headers) v4(frame []byte) bool {
	if len(frame) < h.L3+20 {
		return false
	}
	header := frame[h.L3 : h.L3+20]
	length := int(header[0]&15) * 4
	h.L4 = h.L3 + length
	h.End = h.L3 + int(binary.BigEndian.Uint16(header[2:]))
	if header[0]>>4 != 4 || length < 20 || h.L4 > h.End || h.End > len(frame) {
		return false
	}
	word := binary.BigEndian.Uint16(header[6:])
	h.Fragment = word&0x1fff != 0
	h.Protocol = header[9]
	h.Src = netip.AddrFrom4([4]byte(header[12:]))
	h.Dst = netip.AddrFrom4([4]byte(header[16:]))
	return h.transport(frame[:h.End])
}

func (h *Headers) v6(frame []byte) bool {
	if len(frame) < h.L3+40 {
		return false
	}
	header := frame[h.L3 : h.L3+40]
	h.L4 = h.L3 + 40
	h.End = h.L4 + int(binary.BigEndian.Uint16(header[4:]))
	if header[0]>>4 != 6 || h.End > len(frame) {
		return false
	}
	h.Src = netip.AddrFrom16([16]byte(header[8:]))
	h.Dst = netip.AddrFrom16([16]byte(header[24:]))
	h.Protocol = header[6]
	packet := frame[:h.End]
	for count := 0; ; count++ {
		switch h.Protocol {
		case 0, 43, 44, 60:
		default:
			return h.transport(packet)
		}
		if count == 8 || len(packet) < h.L4+8 {
			return false
		}
		extension := packet[h.L4 : h.L4+8]
		kind := h.Protocol
		h.Protocol = extension[0]
		if kind == 44 {
			h.L4 += 8
			h.Fragment = binary.BigEndian.Uint16(extension[2:])&0xfff8 != 0
		} else {
			h.L4 += (int(extension[1]) + 1) * 8
		}
		if h.L4 > h.End {
			return false
		}
		if h.Fragment {
			return true
		}
	}
}

// Reads the ports of a packet that has some.
func (h *Headers) transport(packet []byte) bool {
	if h.Protocol != TCP && h.Protocol != UDP || h.Fragment {
		return true
	}
	payload := packet[h.L4:]
	if len(payload) < 8 || h.Protocol == TCP && len(payload) < 20 {
		return false
	}
	h.SrcPort, h.DstPort = binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
	h.HasPorts = true
	return true
}
