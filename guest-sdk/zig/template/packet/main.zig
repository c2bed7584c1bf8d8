//! Drops TCP and UDP packets to blocked ports.

const std = @import("std");
const weir = @import("weir");

comptime {
    weir.function(@This());
}

var blocked: [65536]bool = @splat(false);
var count: weir.Counter = .{};

pub fn configure(_: *const weir.Setup, config: weir.Json, refusal: *weir.Refusal) weir.Refused!void {
    var there = false;
    var keys = config.members();
    while (keys.next()) |key| {
        if (!std.mem.eql(u8, key.key(), "blocked")) {
            return refusal.because("unknown key {s}; allowed: blocked", .{key.key()});
        }
        there = key.value.kind() == .list;
        var ports = key.value.members();
        while (ports.next()) |one| {
            const port = one.value.integer(1, 65535) orelse
                return refusal.because("blocked: allowed are ports from 1 to 65535", .{});
            blocked[@intCast(port)] = true;
        }
    }
    if (!there) return refusal.because("blocked: a list of ports is needed", .{});
    count = .named("blocked");
}

pub fn process(burst: *weir.Burst) void {
    for (0..burst.count) |i| {
        const packet = burst.packet(i);
        var headers: weir.Headers = undefined;
        switch (weir.parse(packet.data(), &headers)) {
            // All verdicts are `next` before.
            .not_ip => continue,
            // A port could be hidden in what cannot be read, such as a tiny first fragment (RFC 1858).
            .cut_short => {
                burst.setVerdict(i, .drop(2));
                continue;
            },
            .ipv4, .ipv6 => {},
        }
        // What is neither TCP nor UDP has no port.
        const port = headers.destination_port;
        if (port != weir.no_port and blocked[port]) {
            burst.setVerdict(i, .drop(1));
            count.add(1);
        }
    }
}
