"""Rules made code: an interpreter's loop over rules costs more than all that they compare."""

from collections.abc import Callable
from math import log2

from rules import Rule
from weir_sdk import Headers

Decide = Callable[[Headers], int]
"""What the rules say of a packet."""


def compiled(rules: list[Rule], deny: int, default: int) -> Decide:
    lines = ["def decide(headers):", "    addresses = headers.addresses"]
    # Bytes are small numbers, which Python keeps; larger ones it would make anew.
    for place in sorted({place for rule in rules for place, _, _ in rule.bytes}):
        lines.append(f"    b{place} = addresses[{place}]")
    for rule in rules:
        lines.append(f"    if {condition(rule)}: return {0 if rule.allow else deny}")
    lines.append(f"    return {default}")
    # In the text are numbers only, which `Rule` has made.
    space: dict = {}
    exec("\n".join(lines), space)
    return space["decide"]


def condition(rule: Rule) -> str:
    # What fewest packets fulfil comes first: what fixes most bits.
    every = []
    addresses = [f"b{place} == {value}" if mask == 255 else f"b{place} & {mask} == {value}" for place, mask, value in rule.bytes]
    if addresses:
        every.append((sum(mask.bit_count() for _, mask, _ in rule.bytes), " and ".join(addresses)))
    if rule.protocol is not None:
        every.append((8, f"headers.protocol == {rule.protocol}"))
    for name, ports in (("dport", rule.dport), ("sport", rule.sport)):
        if ports is not None:
            port, low, high = f"headers.{name}", ports[0], ports[-1]
            # Without ports a packet has None.
            text = f"{port} == {low}" if low == high else f"{port} is not None and {low} <= {port} <= {high}"
            every.append((16 - log2(len(ports)), text))
    every.sort(key=lambda bits_and_text: -bits_and_text[0])
    return " and ".join(text for _, text in every) or "True"
