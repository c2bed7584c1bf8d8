"""The kernel as a router, for comparison: reads its task as JSON on stdin, writes what the kernel did to stdout.

Runs in network, mount and process namespaces of its own, which end with it:
    unshare --net --mount --pid --fork --kill-child python3 kernel.py

    this namespace                  namespace "router"
    left  ------------------------- rleft    (the test's port "a")
    right ------------------------- rright   (the test's port "b")
"""

import json
import socket
import subprocess
import sys
import time

from scapy.all import (ICMP, IP, TCP, UDP, Ether, ICMPv6EchoRequest, ICMPv6TimeExceeded, IPerror, IPOption_NOP, IPv6,
                       IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, Raw)

ETH_P_ALL = 3
HOST_MAC = "02:00:00:00:0a:01"


def run(*command, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def set_up(task):
    run("mount", "-t", "tmpfs", "none", "/run")
    run("ip", "netns", "add", "router")
    for name, port in (("left", task["ports"]["a"]), ("right", task["ports"]["b"])):
        inside = f"r{name}"
        run("ip", "link", "add", "name", name, "mtu", "4000", "type", "veth", "peer", "name", inside, "netns", "router")
        # A link that only carries what is sent on purpose.
        run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
        run("ip", "link", "set", "dev", name, "arp", "off", "up")
        run("ip", "-n", "router", "link", "set", "dev", inside, "address", port["mac"], "mtu", str(port["mtu"]))
        for knob in (f"net.ipv6.conf.{inside}.accept_dad=0", f"net.ipv6.conf.{inside}.router_solicitations=0",
                     f"net.ipv6.conf.{inside}.addr_gen_mode=1", f"net.ipv4.conf.{inside}.rp_filter=0",
                     f"net.ipv4.conf.{inside}.send_redirects=0"):
            run("ip", "netns", "exec", "router", "sysctl", "-qw", knob)
        run("ip", "-n", "router", "link", "set", "dev", inside, "up")
        for address in port["addresses"]:
            run("ip", "-n", "router", "address", "add", address, "dev", inside)
        for neighbour in port["neighbours"]:
            run("ip", "-n", "router", "neighbour", "add", neighbour["ip"], "lladdr", neighbour["mac"], "nud", "permanent",
                "dev", inside)
    for knob in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=0",
                 "net.ipv4.conf.all.send_redirects=0",
                 "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0", "net.ipv6.auto_flowlabels=0",
                 # Older kernels have this one for the whole machine, where it is not ours to change.
                 "net.ipv4.icmp_msgs_burst=10000"):
        run("ip", "netns", "exec", "router", "sysctl", "-eqw", knob)
    routes = "".join(f"route add {prefix} via {via}\n" for prefix, via in task["routes"])
    run("ip", "-n", "router", "-batch", "-", text=routes)


def look_up(task):
    """For each address the neighbour that the kernel would send to, or none. There is no address without a route while
    this runs, so that each has its line."""
    defaults = "".join(f"route add default via {via} metric 9999\n" for via in task["nowhere"])
    run("ip", "-n", "router", "-batch", "-", text=defaults)
    queries = "".join(f"route get {address}\n" for address in task["lookups"])
    lines = [line for line in run("ip", "-n", "router", "-o", "-batch", "-", text=queries).splitlines() if line]
    run("ip", "-n", "router", "-batch", "-", text=defaults.replace("add", "del"))
    answers = []
    for address, line in zip(task["lookups"], lines, strict=True):
        words = line.split()
        assert words[0] == address, line
        via = words[words.index("via") + 1] if "via" in words else address
        answers.append(None if via in task["nowhere"] else via)
    return answers


def frames(task):
    """Packets as hosts send them, each with its number in the payload. `{v4}` and `{v6}` lead over the right port."""
    mac = task["ports"]["a"]["mac"]
    host = {"src": HOST_MAC, "dst": mac}
    v4, v6 = task["reach"]
    far4, far6 = {"src": "10.1.0.9", "dst": v4}, {"src": "2001:db8:1::9", "dst": v6}
    nowhere4, nowhere6 = {**far4, "dst": task["unreachable"][0]}, {**far6, "dst": task["unreachable"][1]}
    made = []

    def add(name, packet, room=0):
        # Linux tells each source about a few missing routes only (ip_error), so each has another.
        if IP in packet and packet[IP].src == far4["src"]:
            packet[IP].src = f"10.3.{len(made) >> 8}.{len(made) & 255}"
        payload = b"WEIR" + len(made).to_bytes(4, "big") + b"\xa5" * room
        made.append((name, bytes(Ether(**host) / packet / Raw(payload))))

    for ttl in (64, 2, 255):
        for tos in (0, 0x10, 0xb8):
            add("udp", IP(ttl=ttl, tos=tos, id=77, **far4) / UDP(sport=1000, dport=2000))
            add("udp6", IPv6(hlim=ttl, tc=tos, fl=77, **far6) / UDP(sport=1000, dport=2000))
    for dst in task["lookups"]:
        # All over the table, but only what neither family's special ranges hold.
        layer = IPv6(src=far6["src"], dst=dst) if ":" in dst else IP(src=far4["src"], dst=dst)
        add("anywhere", layer / UDP(sport=1, dport=2))
    add("tcp", IP(flags="DF", **far4) / TCP(sport=1, dport=2, flags="S", options=[("MSS", 1460)]))
    add("tcp6", IPv6(**far6) / TCP(sport=1, dport=2, flags="SA"))
    add("ping", IP(**far4) / ICMP(id=7, seq=8))
    add("ping6", IPv6(**far6) / ICMPv6EchoRequest(id=7, seq=8))
    add("no-transport", IP(proto=253, **far4))
    add("no-udp-checksum", IP(**far4) / UDP(sport=1, dport=2, chksum=0))
    add("wrong-udp-checksum", IP(**far4) / UDP(sport=1, dport=2, chksum=0x1234))
    add("options", IP(options=[IPOption_NOP()] * 4, **far4) / UDP(sport=1, dport=2))
    add("fragment", IP(flags="MF", id=5, **far4) / UDP(sport=1, dport=2, len=2000), 32)
    add("later-fragment", IP(frag=20, id=5, proto=17, **far4), 32)
    add("extension6", IPv6(**far6) / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2))
    add("fragment6", IPv6(**far6) / IPv6ExtHdrFragment(offset=10, m=1, id=9, nh=17), 32)
    for room in (0, 600, 1500):
        add("expired", IP(ttl=1, tos=0x58, **far4) / UDP(sport=1000, dport=2000), room)
        add("expired6", IPv6(hlim=1, **far6) / UDP(sport=1000, dport=2000), room)
        add("unreachable", IP(ttl=9, **nowhere4) / UDP(sport=1000, dport=2000), room)
        add("unreachable6", IPv6(hlim=9, **nowhere6) / UDP(sport=1000, dport=2000), room)
    add("expired-0", IP(ttl=0, **far4) / TCP(sport=1, dport=2))
    add("expired-ping", IP(ttl=1, **far4) / ICMP(id=7, seq=8))
    add("expired-options", IP(ttl=1, options=[IPOption_NOP()] * 4, **far4) / UDP(sport=1, dport=2))
    add("expired-extension6", IPv6(hlim=1, **far6) / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2))
    add("expired-and-unreachable", IP(ttl=1, **nowhere4) / UDP(sport=1, dport=2))
    add("too-big", IP(ttl=9, flags="DF", **far4) / UDP(sport=1000, dport=2000), 1600)
    add("too-big6", IPv6(hlim=9, **far6) / UDP(sport=1000, dport=2000), 1600)
    add("just-fits", IP(flags="DF", **far4) / UDP(sport=1000, dport=2000), 1464)
    add("just-too-big", IP(flags="DF", **far4) / UDP(sport=1000, dport=2000), 1465)
    add("expired-too-big", IP(ttl=1, flags="DF", **far4) / UDP(sport=1000, dport=2000), 1600)
    # About these nobody is told.
    add("error-about-error", IP(ttl=1, **far4) / ICMP(type=11) / IPerror(**far4) / UDP(sport=1, dport=2))
    add("error-about-error6", IPv6(hlim=1, **far6) / ICMPv6TimeExceeded() / IPv6(**far6) / UDP(sport=1, dport=2))
    add("expired-later-fragment", IP(ttl=1, frag=20, proto=17, **far4))
    # These go nowhere.
    add("wrong-checksum", IP(chksum=0x1234, **far4) / UDP(sport=1, dport=2))
    add("too-short", IP(len=300, **far4) / UDP(sport=1, dport=2))
    add("too-short6", IPv6(plen=300, **far6) / UDP(sport=1, dport=2))
    add("wrong-version", IP(version=5, **far4) / UDP(sport=1, dport=2))
    add("short-header", IP(ihl=4, **far4) / UDP(sport=1, dport=2))
    for source in ("127.0.0.1", "224.0.0.9", "255.255.255.255", "0.0.0.0"):
        add("martian-source", IP(src=source, dst=v4) / UDP(sport=1, dport=2))
    for target in ("127.0.0.1", "224.0.0.9", "255.255.255.255"):
        add("martian-target", IP(src=far4["src"], dst=target) / UDP(sport=1, dport=2))
    for source in ("::1", "ff02::9", "::"):
        add("martian-source6", IPv6(src=source, dst=v6) / UDP(sport=1, dport=2))
    for target in ("ff02::9", "ff0e::9"):
        add("martian-target6", IPv6(src=far6["src"], dst=target) / UDP(sport=1, dport=2))
    for name, layer in (("broadcast", IP(**far4)), ("broadcast6", IPv6(**far6))):
        host["dst"] = "ff:ff:ff:ff:ff:ff"
        add(name, layer / UDP(sport=1, dport=2))
        host["dst"] = mac
    add("own-ping", IP(src=far4["src"], dst="10.1.0.1") / ICMP(id=7, seq=8))
    add("own-ping6", IPv6(src=far6["src"], dst="2001:db8:1::1") / ICMPv6EchoRequest(id=7, seq=8))
    return made


def transit(made):
    """Sends the frames on the left; what comes out on either side."""
    sockets = {}
    for port, name in (("a", "left"), ("b", "right")):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        s.bind((name, ETH_P_ALL))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        s.setblocking(False)
        sockets[port] = s
    out = []

    def collect():
        for port, s in sockets.items():
            while True:
                try:
                    frame, address = s.recvfrom(65536)
                except BlockingIOError:
                    break
                if address[2] != socket.PACKET_OUTGOING:
                    out.append([port, frame.hex()])

    for n, (_, frame) in enumerate(made):
        sockets["a"].send(frame)
        if n % 8 == 7:
            # Below 1,000 errors a second, of which Linux sends no more.
            time.sleep(0.005)
            collect()
    quiet = 0
    while quiet < 10:
        before = len(out)
        time.sleep(0.02)
        collect()
        quiet = quiet + 1 if len(out) == before else 0
    return out


def main():
    task = json.load(sys.stdin)
    set_up(task)
    lookups = look_up(task)
    made = frames(task)
    out = transit(made)
    json.dump({"lookups": lookups, "frames": [[name, frame.hex()] for name, frame in made], "out": out}, sys.stdout)


main()
