//! A stateless firewall: the function that every language's SDK has as an example. What it does is specified in
//! guest-sdk/packet-filter/README.md.

const weir = @import("weir");
const rules = @import("rules.zig");

comptime {
    weir.function(@This());
}

pub fn configure(_: *const weir.Setup, config: weir.Json, refusal: *weir.Refusal) weir.Refused!void {
    try rules.read(config, refusal);
}

inline fn allowed(packet: weir.Packet) bool {
    var headers: weir.Headers = undefined;
    return switch (weir.parse(packet.data(), &headers)) {
        .not_ip => true,
        .cut_short => false,
        .ipv4 => rules.v4.allow(packet.start + headers.l3 + 12, &headers, rules.default),
        .ipv6 => rules.v6.allow(packet.start + headers.l3 + 8, &headers, rules.default),
    };
}

pub fn process(burst: *weir.Burst) void {
    for (0..burst.count) |i| {
        if (!allowed(burst.packet(i))) burst.setVerdict(i, .drop(1));
    }
}
