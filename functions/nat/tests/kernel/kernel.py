"""The kernel as a NAT, for comparison: reads its task as a line of JSON on stdin, then a line for each packet or so that is
sent, and answers each with a line of what came out.

Runs in network, mount and process namespaces of its own, which end with it:
    unshare --net --mount --pid --fork --kill-child python3 kernel.py

    this namespace                  namespace "nat"
    inside  ----------------------- nin    (10.0.0.0/8)
    outside ----------------------- nout   (everything else; 203.0.113.1 is its own)
"""

import json
import os
import select
import socket
import subprocess
import sys
import time

ETH_P_ALL = 3
MAC = {"nin": "02:00:00:00:00:01", "nout": "02:00:00:00:00:02"}
OTHER = {"inside": "outside", "outside": "inside"}
# A packet that no rule applies to, sent behind others: when it has come out, so has all that they led to.
MARKER = {
    side: bytes.fromhex(f"0200000000{mac}020000000a01") + b"\x08\x00" + bytes.fromhex(header)
    for side, mac, header in (
        ("inside", "01", "450000140000000040fef5e8c0000201c0000202"),
        ("outside", "02", "450000140000000040fef5e8c0000202c0000201"),
    )
}


def run(*command, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def within(*command, text=None):
    return run("ip", "netns", "exec", "nat", *command, text=text)


def rules(task):
    external, ports = task["external"], task["ports"]
    snat = f"masquerade to :{ports}" if task["masquerade"] else f"snat to {external}:{ports}"
    dnat = "".join(f"ip daddr {external} {f['proto']} dport {f['port']} dnat to {f['to']}\n" for f in task["forward"])
    return f"""
        table ip weir {{
            chain raw {{
                type filter hook prerouting priority raw
                ip protocol 254 notrack
            }}
            # As every guide has it: what conntrack cannot make sense of would pass with its inside address.
            chain forward {{
                type filter hook forward priority filter
                ct state invalid drop
            }}
            # The kernel answers nothing by itself.
            chain input {{
                type filter hook input priority filter
                policy drop
            }}
            chain dstnat {{
                type nat hook prerouting priority dstnat
                {dnat}
            }}
            chain srcnat {{
                type nat hook postrouting priority srcnat
                ip saddr 10.0.0.0/8 oifname nout meta l4proto {{ tcp, udp, icmp }} {snat}
                ip saddr 10.0.0.0/8 oifname nout masquerade
                ip saddr 10.0.0.0/8 oifname nin ct status dnat snat to {external}
            }}
        }}"""


def set_up(task):
    # All on one processor, so that packets stay in order.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    run("mount", "-t", "tmpfs", "none", "/run")
    run("ip", "netns", "add", "nat")
    for name, link in (("inside", "nin"), ("outside", "nout")):
        run("ip", "link", "add", "name", name, "mtu", "4000", "type", "veth", "peer", "name", link, "netns", "nat")
        # A link that only carries what is sent on purpose.
        run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
        run("ip", "link", "set", "dev", name, "arp", "off", "up")
        within("sysctl", "-qw", f"net.ipv6.conf.{link}.disable_ipv6=1", f"net.ipv4.conf.{link}.rp_filter=0",
               f"net.ipv4.conf.{link}.send_redirects=0")
        within("ip", "link", "set", "dev", link, "address", MAC[link], "mtu", "4000", "arp", "off", "up")
    within("ip", "address", "add", task["external"], "dev", "nout")
    for prefix, link in (("10.0.0.0/8", "nin"), ("192.0.2.1", "nin"), ("default", "nout")):
        within("ip", "route", "add", prefix, "dev", link)
    knobs = {"net.ipv4.ip_forward": 1, "net.ipv4.conf.all.rp_filter": 0, "net.ipv4.conf.all.send_redirects": 0,
             **task["sysctl"]}
    within("sysctl", "-qw", *(f"{name}={value}" for name, value in knobs.items()))
    within("nft", "-f", "-", text=rules(task))


def open_sockets():
    sockets = {}
    for side in OTHER:
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        s.bind((side, ETH_P_ALL))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sockets[side] = s
    return sockets


def through(sockets, side, frames):
    """Sends frames in on a side; what comes out on both, until the marker has."""
    out = []
    marked = False

    def collect():
        nonlocal marked
        for name, s in sockets.items():
            while True:
                try:
                    frame, address = s.recvfrom(65536, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                if address[2] == socket.PACKET_OUTGOING:
                    continue
                if frame[12:14] == b"\x08\x00" and frame[23] == 254:
                    marked = True
                else:
                    out.append([name, frame.hex()])

    router = bytes.fromhex(MAC["nin" if side == "inside" else "nout"].replace(":", ""))
    for frame in frames:
        sockets[side].send(router + frame[6:])
    sockets[side].send(MARKER[side])
    deadline = time.monotonic() + 10
    while not marked:
        if time.monotonic() > deadline:
            sys.exit("the kernel lost the marker")
        select.select(list(sockets.values()), [], [], 1)
        collect()
    # What left on the other side before the marker did.
    collect()
    return out


def main():
    set_up(json.loads(sys.stdin.readline()))
    sockets = open_sockets()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        frames = [bytes.fromhex(frame) for frame in order["frames"]]
        print(json.dumps(through(sockets, order["side"], frames)), flush=True)


main()
