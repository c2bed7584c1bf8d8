"""Reading frames: Ethernet with up to two VLAN tags, IPv4, IPv6 with extension headers, ports of TCP and UDP."""

from struct import Struct

ICMP = 1
"""A protocol's number, as in `Headers.protocol`."""
TCP = 6
"""As `ICMP`."""
UDP = 17
"""As `ICMP`."""
ICMPV6 = 58
"""As `ICMP`."""

_TAGS = (0x8100, 0x88A8)
_EXTENSIONS = frozenset((0, 43, 44, 60))

_u16 = Struct(">H").unpack_from
_ports = Struct(">HH").unpack_from
# Version and header length, total length, flags and fragment, protocol, addresses.
_v4 = Struct(">BxHxxHxBxx8s").unpack_from
# Version, payload length, next header, addresses.
_v6 = Struct(">BxxxHBx32s").unpack_from


class Malformed(ValueError):
    """An IP packet is cut short or contradicts itself."""


class Headers:
    """Where the headers of an IP packet lie in its frame, and what is in them."""

    __slots__ = ("l3", "l4", "end", "addresses", "protocol", "sport", "dport", "fragment")

    def __init__(self, l3, l4, end, addresses, protocol, sport, dport, fragment):
        self.l3: int = l3
        """Where the IP header begins."""
        self.l4: int = l4
        """Where the transport header begins; of a later fragment, its payload."""
        self.end: int = end
        """Where the packet ends; padding may follow."""
        self.addresses: bytes = addresses
        """Source and destination address, one after the other: 8 or 32 bytes."""
        self.protocol: int = protocol
        """The protocol behind all extension headers."""
        self.sport: int | None = sport
        """Source port of TCP and UDP; None of other protocols and of later fragments."""
        self.dport: int | None = dport
        """Destination port; as `sport`."""
        self.fragment: bool = fragment
        """Whether this is a later fragment: it has no transport header."""

    @property
    def src(self) -> bytes:
        """Source address, 4 or 16 bytes."""
        return self.addresses[: len(self.addresses) // 2]

    @property
    def dst(self) -> bytes:
        """Destination address."""
        return self.addresses[len(self.addresses) // 2 :]


def parse(data: bytes, length: int | None = None) -> Headers | None:
    """The headers of a frame; None if it is not IP. `length` is the whole frame's, if these are its first bytes only.

    Raises Malformed if the packet is cut short (or its headers do not lie within `data`), if a length is beyond the frame or below the
    header's, if there are more than 8 extension headers, or if the header of TCP or UDP is not all there.
    """
    if length is None:
        length = len(data)
    have = len(data)
    if have < 14:
        return None
    (kind,) = _u16(data, 12)
    l3 = 14
    for _ in range(2):
        if kind not in _TAGS:
            break
        if have < l3 + 4:
            return None
        (kind,) = _u16(data, l3 + 2)
        l3 += 4
    if kind == 0x0800:
        if have < l3 + 20:
            raise Malformed("IPv4 header is cut short")
        version, total, word, protocol, addresses = _v4(data, l3)
        l4 = l3 + (version & 15) * 4
        end = l3 + total
        if version >> 4 != 4 or version & 15 < 5 or l4 > end or end > length:
            raise Malformed("IPv4 header contradicts the frame")
        fragment = word & 0x1FFF != 0
    elif kind == 0x86DD:
        if have < l3 + 40:
            raise Malformed("IPv6 header is cut short")
        version, payload, protocol, addresses = _v6(data, l3)
        l4 = l3 + 40
        end = l4 + payload
        if version >> 4 != 6 or end > length:
            raise Malformed("IPv6 header contradicts the frame")
        fragment = False
        if protocol in _EXTENSIONS:
            l4, protocol, fragment = _extensions(data, l4, min(end, have), protocol)
    else:
        return None
    sport = dport = None
    if (protocol == TCP or protocol == UDP) and not fragment:
        least = l4 + (20 if protocol == TCP else 8)
        if least > end or least > have:
            raise Malformed("transport header is cut short")
        sport, dport = _ports(data, l4)
    return Headers(l3, l4, end, addresses, protocol, sport, dport, fragment)


def _extensions(data, l4, end, protocol):
    for count in range(9):
        if protocol not in _EXTENSIONS:
            return l4, protocol, False
        if count == 8 or l4 + 8 > end:
            break
        kind, protocol = protocol, data[l4]
        if kind == 44:
            (word,) = _u16(data, l4 + 2)
            l4 += 8
            if word & 0xFFF8:
                return l4, protocol, True
        else:
            l4 += (data[l4 + 1] + 1) * 8
        if l4 > end:
            break
    raise Malformed("IPv6 extension headers are cut short or too many")
