"""Writes the capture that every new project begins with, made with scapy.

    python3 guest-sdk/sample.py guest-sdk/sample.pcap

The packets, numbered as tshark numbers them:

    1  ARP: who has 10.0.0.2?            6  TCP SYN to 10.0.0.2:23, from another port
    2  TCP SYN to 10.0.0.2:443           7  TCP SYN to [2001:db8::2]:23
    3  TCP SYN to 10.0.0.2:23            8  UDP to [2001:db8::2]:53
    4  UDP to 10.0.0.2:53                9  UDP to 10.0.0.2:23
    5  ICMP echo request to 10.0.0.2    10  TCP SYN to 10.0.0.2:8080
"""

import sys

from scapy.all import ARP, DNS, DNSQR, ICMP, IP, TCP, UDP, Ether, IPv6, Raw, wrpcap

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = ETHER / IP(src="10.0.0.1", dst="10.0.0.2")
V6 = ETHER / IPv6(src="2001:db8::1", dst="2001:db8::2")


def query(kind):
    return DNS(id=0x1234, rd=1, qd=DNSQR(qname="example.com", qtype=kind))


packets = [
    Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff")
    / ARP(hwsrc="02:00:00:00:00:01", psrc="10.0.0.1", pdst="10.0.0.2"),
    V4 / TCP(sport=40001, dport=443, flags="S"),
    V4 / TCP(sport=40002, dport=23, flags="S"),
    V4 / UDP(sport=40003, dport=53) / query("A"),
    V4 / ICMP(id=1, seq=1) / Raw(b"weir"),
    V4 / TCP(sport=40004, dport=23, flags="S"),
    V6 / TCP(sport=40005, dport=23, flags="S"),
    V6 / UDP(sport=40006, dport=53) / query("AAAA"),
    V4 / UDP(sport=40007, dport=23) / Raw(b"weir"),
    V4 / TCP(sport=40008, dport=8080, flags="S"),
]
# One packet each millisecond, so that the file is the same each time.
for number, packet in enumerate(packets):
    packet.time = 1_700_000_000 + number / 1000
wrpcap(sys.argv[1], packets)
