"""Rules made code: an interpreter's loop over rules costs more than all that they compare."""

from collections.abc import Callable

from rules import Rule

Decide = Callable[[int, int, int, int, int], int]
"""What the rules say of a packet: protocol, source and destination port (-1 without), source and destination address."""


def compiled(rules: list[Rule], deny: int, default: int) -> Decide:
    lines = ["def decide(protocol, sport, dport, src, dst):"]
    for rule in rules:
        lines.append(f"    if {condition(rule)}: return {0 if rule.allow else deny}")
    lines.append(f"    return {default}")
    # In the text are numbers only, which `Rule` has made.
    space: dict = {}
    exec("\n".join(lines), space)
    return space["decide"]


def condition(rule: Rule) -> str:
    every = []
    if rule.protocol is not None:
        every.append(f"protocol == {rule.protocol}")
    for name, ports in (("dport", rule.dport), ("sport", rule.sport)):
        if ports is not None:
            low, high = ports[0], ports[-1]
            every.append(f"{name} == {low}" if low == high else f"{low} <= {name} <= {high}")
    for name, address, mask in (("src", rule.src, rule.src_mask), ("dst", rule.dst, rule.dst_mask)):
        if mask:
            every.append(f"{name} & {mask} == {address}")
    return " and ".join(every) or "True"
