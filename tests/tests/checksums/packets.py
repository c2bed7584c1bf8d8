"""Packets for the test `checksums`, made with scapy.

    packets.py corpus RIGHT WRONG    writes packets with right checksums, and the same with a wrong one each
    packets.py answers SENT OUT WRONG  writes answers to packets that were sent, and ICMP errors about them; and the same wrong
    packets.py quoted SENT OUT       writes the packets that ICMP errors quote as a whole, as packets of their own
"""

import sys

from scapy.all import (ICMP, IP, TCP, UDP, Dot1AD, Dot1Q, Ether, ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest,
                       ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPOption_NOP, IPOption_RR, IPv6, IPv6ExtHdrDestOpt,
                       IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN, Raw, fragment, rdpcap, wrpcap)

HOSTS = ("02:00:00:00:0a:01", "02:00:00:00:10:00")
LENGTHS = (0, 1, 2, 63, 1201)


def links():
    ether = Ether(src=HOSTS[0], dst=HOSTS[1])
    return ether, ether / Dot1Q(vlan=7), ether / Dot1AD(vlan=100) / Dot1Q(vlan=7, prio=5)


def networks():
    v4 = {"src": "10.0.0.2", "dst": "198.51.100.1"}
    v6 = {"src": "2001:db8:1::2", "dst": "2001:db8:100::1"}
    yield IP(**v4)
    yield IP(tos=0xb8, id=77, flags="DF", options=[IPOption_NOP(), IPOption_NOP(), IPOption_NOP(), IPOption_NOP()], **v4)
    yield IP(id=78, options=[IPOption_RR(pointer=4, routers=["0.0.0.0"] * 4), IPOption_NOP()], **v4)
    yield IPv6(tc=0xb8, fl=0x12345, **v6)
    yield IPv6(**v6) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)])
    yield IPv6(**v6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
    # All of its segments are behind it, so that the address in the header is the one that checksums cover.
    yield IPv6(**v6) / IPv6ExtHdrRouting(type=2, segleft=0, addresses=["2001:db8:100::9"])
    # Whole in spite of its fragment header (RFC 6946).
    yield IPv6(**v6) / IPv6ExtHdrFragment(id=99)


def transports(version, port):
    yield TCP(sport=port, dport=80, seq=9, flags="S", options=[("MSS", 1460), ("SAckOK", b""), ("WScale", 7)])
    yield TCP(sport=port, dport=443, seq=10, ack=11, flags="PA", options=[("Timestamp", (1, 2))])
    yield UDP(sport=port, dport=53)
    if version == 4:
        yield UDP(sport=port, dport=54, chksum=0)
        yield ICMP(type=8, id=port, seq=3)
    else:
        yield ICMPv6EchoRequest(id=port, seq=3)


def payload(length):
    return Raw(bytes((n * 37 + length) & 0xff for n in range(length)))


def right():
    made, port = [], 5000
    for link in links():
        for network in networks():
            for length in LENGTHS:
                for transport in transports(network.version, port):
                    made.append(link / network / transport / payload(length))
                    port += 1
    v4, v6 = IP(src="10.0.0.2", dst="198.51.100.1"), IPv6(src="2001:db8:1::2", dst="2001:db8:100::1")
    # UDP whose checksum is 0 as a sum, and so is written as 65535.
    for network in (v4, v6):
        network, (udp, filler) = network.copy(), (UDP(sport=4000, dport=53), Raw(b"\0\0"))
        sum_of = type(network)(bytes(network / udp / filler))[UDP].chksum
        made.append(links()[0] / network / UDP(sport=4000, dport=53) / Raw(sum_of.to_bytes(2, "big")))
    # For a router that tells: about expired, unreachable and too large packets.
    for network in (v4, v6):
        for length in (0, 1, 64, 1201):
            for transport in transports(network.version, 4001):
                expired, nowhere, large = network.copy(), network.copy(), network.copy()
                if network.version == 4:
                    expired.ttl, nowhere.dst, large.dst, large.flags = 1, "203.0.114.1", "198.51.101.1", "DF"
                else:
                    expired.hlim, nowhere.dst, large.dst = 1, "2001:db8:dead::1", "2001:db8:101::1"
                rest = transport / payload(length)
                made += [links()[0] / part / rest for part in (expired, nowhere, large)]
    whole = IP(bytes(IP(src="10.0.0.2", dst="198.51.100.9", id=500) / UDP(sport=4002, dport=53) / payload(4001)))
    made += [links()[0] / piece for piece in fragment(whole, fragsize=1480)]
    ping = IP(bytes(IP(src="10.0.0.2", dst="198.51.100.9", id=501) / ICMP(type=8, id=4003) / payload(3001)))
    made += [links()[1] / piece for piece in fragment(ping, fragsize=1000)]
    return [bytes(packet) for packet in made]


def layer_with_checksum(packet):
    """The innermost header that has a checksum, but not what an ICMP error quotes."""
    for name in (TCP, UDP, ICMP, ICMPv6EchoRequest, ICMPv6EchoReply, ICMPv6DestUnreach, ICMPv6TimeExceeded,
                 ICMPv6PacketTooBig):
        if name in packet:
            return packet[name]
    return None


def spoil(frames):
    """The packets that have a checksum, each with that or what it covers changed in one bit; no fragments."""
    wrong = []
    for n, frame in enumerate(frames):
        packet = Ether(frame)
        if IP in packet and (packet[IP].frag or packet[IP].flags.MF):
            continue
        layer = layer_with_checksum(packet)
        field = "cksum" if layer is not None and "cksum" in layer.fields else "chksum"
        if layer is None or layer.fields[field] == 0:
            continue
        spoilt = bytearray(frame)
        start = len(frame) - len(layer)
        at = start + {TCP: 16, UDP: 6}.get(type(layer), 2)
        # A bit of the checksum, or a bit of the last byte.
        if n % 2 == 0:
            spoilt[at + n // 2 % 2] ^= 1 << n % 7
        else:
            spoilt[-1] ^= 1 << n % 8
        if spoilt[at:at + 2] != b"\0\0":
            wrong.append(bytes(spoilt))
    return wrong


def answer(packet):
    """What the receiver of a packet sends back."""
    packet = packet.copy()
    packet[Ether].src, packet[Ether].dst = packet[Ether].dst, packet[Ether].src
    network = packet[IP] if IP in packet else packet[IPv6]
    network.src, network.dst = network.dst, network.src
    if IP in packet:
        network.ttl, network.chksum = 60, None
    else:
        network.hlim = 60
    if TCP in packet or UDP in packet:
        transport = packet[TCP] if TCP in packet else packet[UDP]
        transport.sport, transport.dport = transport.dport, transport.sport
        if transport.chksum != 0:
            transport.chksum = None
        if TCP in packet:
            transport.flags = "SA" if transport.flags == "S" else "A"
    elif ICMP in packet and packet[ICMP].type == 8:
        packet[ICMP].type, packet[ICMP].chksum = 0, None
    elif ICMPv6EchoRequest in packet:
        asked = packet[ICMPv6EchoRequest]
        below = asked.underlayer
        below.remove_payload()
        below.add_payload(ICMPv6EchoReply(id=asked.id, seq=asked.seq, data=asked.data))
    else:
        return None
    return packet


def errors(packet):
    """What a router on the way says about a packet, quoting it as a whole and in part."""
    link = packet.copy()
    (link[IP] if IP in packet else link[IPv6]).underlayer.remove_payload()
    link.src, link.dst = packet.dst, packet.src
    quoted = bytes(packet[IP] if IP in packet else packet[IPv6])
    if IP in packet:
        told = IP(src="192.0.2.99", dst=packet[IP].src)
        short = packet[IP].ihl * 4 + 8
        yield link / told / ICMP(type=3, code=4, nexthopmtu=1400) / Raw(quoted[:548])
        yield link / told / ICMP(type=11, code=0) / Raw(quoted[:short])
        yield link / told / ICMP(type=3, code=3) / Raw(quoted[:short + 13])
    else:
        told = IPv6(src="2001:db8:99::1", dst=packet[IPv6].src)
        yield link / told / ICMPv6PacketTooBig(mtu=1400) / Raw(quoted[:1232])
        yield link / told / ICMPv6TimeExceeded() / Raw(quoted[:61])
        yield link / told / ICMPv6DestUnreach(code=4) / Raw(quoted[:1232])


def answers(sent):
    made = []
    for packet in sent:
        if IP in packet and (packet[IP].frag or packet[IP].flags.MF) or IP not in packet and IPv6 not in packet:
            continue
        back = answer(packet)
        if back is not None:
            made.append(bytes(back))
            made += [bytes(error) for error in errors(packet)]
    return made


def quoted(sent):
    found = []
    for packet in sent:
        told = layer_with_checksum(packet) if TCP not in packet and UDP not in packet else None
        for layer in (ICMP, ICMPv6DestUnreach, ICMPv6TimeExceeded, ICMPv6PacketTooBig):
            if layer in packet:
                told = packet[layer]
        if told is None:
            continue
        inner = bytes(told)[8:]
        if len(inner) < 28 or type(told) is ICMP and told.type not in (3, 11):
            continue
        if inner[0] >> 4 == 4 and int.from_bytes(inner[2:4], "big") == len(inner):
            found.append(bytes(Ether(src=HOSTS[0], dst=HOSTS[1], type=0x0800)) + inner)
        elif inner[0] >> 4 == 6 and int.from_bytes(inner[4:6], "big") + 40 == len(inner):
            found.append(bytes(Ether(src=HOSTS[0], dst=HOSTS[1], type=0x86dd)) + inner)
    return found


def main():
    what, *files = sys.argv[1:]
    if what == "corpus":
        frames = right()
        wrpcap(files[0], frames, linktype=1)
        wrpcap(files[1], spoil(frames), linktype=1)
    elif what == "answers":
        frames = answers(rdpcap(files[0]))
        wrpcap(files[1], frames, linktype=1)
        wrpcap(files[2], spoil(frames), linktype=1)
    elif what == "quoted":
        wrpcap(files[1], quoted(rdpcap(files[0])), linktype=1)


main()
