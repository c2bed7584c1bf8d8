//! The rules of the packet filter.

const std = @import("std");
const weir = @import("weir");

const most = 64;

/// What rules of both families look at.
const Common = struct {
    allow: bool = false,
    protocol: u32 = 0,
    /// 0 for any protocol.
    protocol_mask: u32 = 0,
    /// The first port, and how many follow.
    sport: u32 = 0,
    sports: u32 = weir.no_port,
    dport: u32 = 0,
    dports: u32 = weir.no_port,

    inline fn matches(rule: *const Common, headers: *const weir.Headers) bool {
        return (headers.protocol ^ rule.protocol) & rule.protocol_mask == 0 and
            headers.destination_port -% rule.dport <= rule.dports and
            headers.source_port -% rule.sport <= rule.sports;
    }
};

/// The rules of one family, in order. Addresses are source and destination, one after the other, as they lie in a header: two words
/// for IPv4, four for IPv6.
fn Family(comptime Word: type, comptime words: usize) type {
    return struct {
        const Rule = struct {
            address: [words]Word = @splat(0),
            mask: [words]Word = @splat(0),
            common: Common,

            /// Takes the prefix of the source (place 0) or the destination (place 1).
            fn take(rule: *Rule, place: usize, prefix: weir.Prefix) void {
                const bytes = words / 2 * @sizeOf(Word);
                const address = std.mem.asBytes(&rule.address)[place * bytes ..][0..bytes];
                const mask = std.mem.asBytes(&rule.mask)[place * bytes ..][0..bytes];
                @memcpy(address, prefix.address[0..bytes]);
                for (mask, 0..) |*byte, at| {
                    const left = @as(i32, prefix.length) - 8 * @as(i32, @intCast(at));
                    byte.* = if (left >= 8) 0xff else if (left <= 0) 0 else @truncate(@as(u32, 0xff00) >> @intCast(left));
                }
            }
        };

        rules: [most]Rule = undefined,
        count: usize = 0,

        fn add(family: *@This(), rule: Rule) void {
            family.rules[family.count] = rule;
            family.count += 1;
        }

        /// What the first rule that matches says. `addresses` is where the source's lies in the packet.
        pub inline fn allow(family: *const @This(), addresses: [*]const u8, headers: *const weir.Headers, otherwise: bool) bool {
            const packet: [words]Word = @as(*align(1) const [words]Word, @ptrCast(addresses)).*;
            for (family.rules[0..family.count]) |*rule| {
                var differ: Word = 0;
                inline for (0..words) |word| differ |= (packet[word] ^ rule.address[word]) & rule.mask[word];
                if (differ == 0 and rule.common.matches(headers)) return rule.common.allow;
            }
            return otherwise;
        }
    };
}

pub var v4: Family(u32, 2) = .{};
pub var v6: Family(u64, 4) = .{};
pub var default: bool = true;

fn is(text: []const u8, other: []const u8) bool {
    return std.mem.eql(u8, text, other);
}

fn readAction(value: weir.Json) ?bool {
    const text = value.string() orelse return null;
    if (is(text, "allow")) return true;
    if (is(text, "deny")) return false;
    return null;
}

fn readProtocol(value: weir.Json) ?u32 {
    const text = value.string() orelse return if (value.integer(0, 255)) |number| @intCast(number) else null;
    if (is(text, "icmp")) return weir.protocol.icmp;
    if (is(text, "tcp")) return weir.protocol.tcp;
    if (is(text, "udp")) return weir.protocol.udp;
    if (is(text, "icmpv6")) return weir.protocol.icmpv6;
    return null;
}

fn readPort(text: []const u8) ?u32 {
    if (text.len == 0) return null;
    var port: u32 = 0;
    for (text) |digit| {
        if (digit < '0' or digit > '9') return null;
        port = port * 10 + (digit - '0');
        if (port > 65535) return null;
    }
    return port;
}

/// The first port, and how many follow.
fn readPorts(value: weir.Json) ?[2]u32 {
    if (value.integer(0, 65535)) |port| return .{ @intCast(port), 0 };
    const text = value.string() orelse return null;
    const dash = std.mem.indexOfScalar(u8, text, '-') orelse return .{ readPort(text) orelse return null, 0 };
    const first = readPort(text[0..dash]) orelse return null;
    const last = readPort(text[dash + 1 ..]) orelse return null;
    return if (last < first) null else .{ first, last - first };
}

fn readPrefix(value: weir.Json) ?weir.Prefix {
    return weir.Prefix.read(value.string() orelse return null);
}

fn readRule(value: weir.Json, number: u32, refusal: *weir.Refusal) weir.Refused!void {
    var common: Common = .{};
    var prefixes: [2]?weir.Prefix = .{ null, null };
    var has_action = false;
    var keys = value.members();
    while (keys.next()) |member| {
        const key = member.key();
        if (is(key, "action")) {
            common.allow = readAction(member.value) orelse
                return refusal.because("rules[{d}].action: allowed are allow and deny", .{number});
            has_action = true;
        } else if (is(key, "proto")) {
            common.protocol = readProtocol(member.value) orelse
                return refusal.because("rules[{d}].proto: allowed are tcp, udp, icmp, icmpv6 and 0 to 255", .{number});
            common.protocol_mask = 0xff;
        } else if (is(key, "src") or is(key, "dst")) {
            prefixes[if (is(key, "dst")) 1 else 0] = readPrefix(member.value) orelse
                return refusal.because("rules[{d}].{s}: it is no prefix such as 10.0.0.0/8 or 2001:db8::1", .{ number, key });
        } else if (is(key, "sport") or is(key, "dport")) {
            const ports = readPorts(member.value) orelse
                return refusal.because("rules[{d}].{s}: allowed are a port such as 80 and a range such as 1000-2000", .{ number, key });
            if (is(key, "sport")) {
                common.sport, common.sports = ports;
            } else {
                common.dport, common.dports = ports;
            }
        } else {
            return refusal.because("rules[{d}]: unknown key {s}; allowed: action, proto, src, dst, sport, dport", .{ number, key });
        }
    }
    if (!has_action) return refusal.because("rules[{d}]: action is missing; allowed are allow and deny", .{number});
    var of_v4: @TypeOf(v4).Rule = .{ .common = common };
    var of_v6: @TypeOf(v6).Rule = .{ .common = common };
    var for_v4 = true;
    var for_v6 = true;
    for (prefixes, 0..) |maybe, place| {
        const prefix = maybe orelse continue;
        if (prefix.is_v6) {
            for_v4 = false;
            of_v6.take(place, prefix);
        } else {
            for_v6 = false;
            of_v4.take(place, prefix);
        }
    }
    if (for_v4) v4.add(of_v4);
    if (for_v6) v6.add(of_v6);
}

/// Reads the configuration.
pub fn read(config: weir.Json, refusal: *weir.Refusal) weir.Refused!void {
    var keys = config.members();
    while (keys.next()) |member| {
        const key = member.key();
        if (is(key, "default")) {
            default = readAction(member.value) orelse return refusal.because("default: allowed are allow and deny", .{});
        } else if (is(key, "rules")) {
            if (member.value.kind() != .list) return refusal.because("rules: a list is needed", .{});
            const count = member.value.count();
            if (count > most) return refusal.because("rules: {d} are too many, {d} at most", .{ count, most });
            var rules = member.value.members();
            var number: u32 = 0;
            while (rules.next()) |rule| : (number += 1) try readRule(rule.value, number, refusal);
        } else {
            return refusal.because("unknown key {s}; allowed: default, rules", .{key});
        }
    }
}
