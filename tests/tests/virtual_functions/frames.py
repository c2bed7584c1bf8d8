#!/usr/bin/python3
"""Sends numbered datagrams to a NIC's function in frames that are made by hand, and tells which came back and how.

frames.py INTERFACE MAC COUNT PAUSE SOURCE DESTINATION PADDING
The datagrams are from ports 20000 on to port 7, with so many bytes behind the number. What it prints is JSON: a list of the frames that carry one of its numbers and were
not sent by itself.
"""

import json
import logging
import sys
import time

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.all import IP, UDP, AsyncSniffer, Ether, Raw, conf, get_if_hwaddr  # noqa: E402

interface, mac, count, pause, source, destination, padding = sys.argv[1:]
count, pause, padding = int(count), float(pause), int(padding)
mine = get_if_hwaddr(interface)
conf.verb = 0


def number(packet):
    payload = bytes(packet[Raw].load) if Raw in packet else b""
    return int(payload[5:10]) if payload.startswith(b"weir ") else None


def told(packet):
    again = IP(bytes(packet[IP]))
    sums = again.chksum, again[UDP].chksum
    del again.chksum, again[UDP].chksum
    made = IP(bytes(again))
    return {
        "number": number(packet),
        "from": packet.src,
        "to": packet.dst,
        "source": packet[IP].src,
        "port": packet[UDP].sport,
        "destination": packet[IP].dst,
        "sums": sums == (made.chksum, made[UDP].chksum),
    }


sniffer = AsyncSniffer(iface=interface, filter="udp", started_callback=lambda: None)
sniffer.start()
time.sleep(0.5)
socket = conf.L2socket(iface=interface)
for n in range(count):
    datagram = IP(src=source, dst=destination) / UDP(sport=20000 + n % 100, dport=7)
    socket.send(Ether(src=mine, dst=mac) / datagram / Raw(b"weir %05d" % n + bytes(padding)))
    time.sleep(pause)
time.sleep(1.5)
frames = [p for p in sniffer.stop() if UDP in p and number(p) is not None and p.dst != mac]
print(json.dumps([told(frame) for frame in frames]))
