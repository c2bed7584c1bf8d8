//! Functions for packets in Zig, on top of the C SDK. What is done for each packet is written here, so that it is compiled with the
//! function; the rest is C.
//!
//!     const weir = @import("weir");
//!     comptime { weir.function(@This()); }
//!     pub fn configure(setup: *const weir.Setup, config: weir.Json, refusal: *weir.Refusal) weir.Refused!void { ... }
//!     pub fn process(burst: *weir.Burst) void { ... }
//!     pub fn tick(now: u64) void { ... }      // if it is wanted

const std = @import("std");

/// Text of the host or of the C SDK.
pub const Text = extern struct {
    bytes: [*]const u8,
    length: usize,

    /// As a slice.
    pub fn slice(text: Text) []const u8 {
        return text.bytes[0..text.length];
    }
};

/// What a function is told when it is configured; valid until `configure` returns, but for the state region.
pub const Setup = extern struct {
    /// Bytes of a buffer's room, a power of two.
    room_bytes: u32,
    /// A random number for hash seeds.
    seed: u64,
    state_start: ?[*]u8,
    state_bytes: u32,
    /// True when the state region holds what an earlier instance left there; then it can be read, but not written, until `configure`
    /// returns.
    state_kept: bool,
    ports: [*]const Text,
    port_count: u32,
    functions: [*]const Text,
    function_count: u32,
    /// This function's place among the chain's.
    position: u32,

    /// The state region (`state` in function.toml), empty without one. It outlives the instance.
    pub fn state(setup: *const Setup) []u8 {
        return if (setup.state_start) |start| start[0..setup.state_bytes] else &.{};
    }

    /// Number of the port of this name.
    pub fn port(setup: *const Setup, name: []const u8) ?u32 {
        for (setup.ports[0..setup.port_count], 0..) |known, number| {
            if (std.mem.eql(u8, known.slice(), name)) return @intCast(number);
        }
        return null;
    }
};

/// What `configure` answers when it refuses.
pub const Refused = error{Refused};

/// Why a configuration is refused.
pub const Refusal = extern struct {
    text: [512]u8,

    /// Says why, as by std.fmt, beginning with the key; what is too long is cut, and each byte that is no UTF-8 becomes a `?`.
    /// `return refusal.because(...)` refuses.
    pub fn because(refusal: *Refusal, comptime format: []const u8, arguments: anytype) Refused {
        const said = print(refusal.text[0 .. refusal.text.len - 1], format, arguments);
        refusal.text[said.len] = 0;
        return error.Refused;
    }
};

/// Kinds of values in a configuration.
pub const Kind = enum(c_int) { none, object, list, string, number, true, false, null };

/// A value of the configuration.
pub const Json = extern struct {
    document: ?*const anyopaque,
    token: u32,

    /// A member of an object, or an element of a list.
    pub const Member = extern struct {
        there: bool,
        key_text: Text,
        value: Json,
        rest: u32,

        /// Its name; empty in lists.
        pub fn key(member: *const Member) []const u8 {
            return member.key_text.slice();
        }
    };

    /// Walks members or elements: `while (members.next()) |member|`.
    pub const Members = struct {
        following: Member,

        /// The next one; null behind the last.
        pub fn next(walk: *Members) ?Member {
            const at = walk.following;
            if (!at.there) return null;
            weir_json_following(&walk.following, &at);
            return at;
        }
    };

    /// What kind of value it is.
    pub fn kind(value: Json) Kind {
        return weir_json_kind_of(&value);
    }

    /// Members of an object, elements of a list; nothing of other values.
    pub fn members(value: Json) Members {
        var all: Members = .{ .following = undefined };
        weir_json_first(&all.following, &value);
        return all;
    }

    /// Members or elements.
    pub fn count(value: Json) u32 {
        return weir_json_count(&value);
    }

    /// A whole number from `least` to `most`.
    pub fn integer(value: Json, least: i64, most: i64) ?i64 {
        var read: i64 = undefined;
        return if (weir_json_integer(&value, least, most, &read)) read else null;
    }

    /// A string as it is written: escapes are not replaced.
    pub fn string(value: Json) ?[]const u8 {
        var text: Text = undefined;
        return if (weir_json_string(&value, &text)) text.slice() else null;
    }

    /// A number, which may have a fraction. Null if it is something else.
    pub fn number(value: Json) ?f64 {
        var read: f64 = undefined;
        return if (weir_json_number(&value, &read)) read else null;
    }

    /// A copy of a string with its escapes replaced, which lies in `into`. Null if it is something else, or does not fit with a 0
    /// behind it.
    pub fn copy(value: Json, into: []u8) ?[]u8 {
        if (!weir_json_copy(&value, into.ptr, into.len)) return null;
        return into[0..std.mem.indexOfScalar(u8, into, 0).?];
    }
};

// The canonical forms of C's functions: Wasm's C ABI passes structures by reference.
extern fn weir_json_kind_of(value: *const Json) Kind;
extern fn weir_json_count(value: *const Json) u32;
extern fn weir_json_first(answer: *Json.Member, value: *const Json) void;
extern fn weir_json_following(answer: *Json.Member, member: *const Json.Member) void;
extern fn weir_json_integer(value: *const Json, least: i64, most: i64, number: *i64) bool;
extern fn weir_json_number(value: *const Json, number: *f64) bool;
extern fn weir_json_string(value: *const Json, text: *Text) bool;
extern fn weir_json_copy(value: *const Json, into: [*]u8, room: usize) bool;
extern fn weir_log_text(level: Level, text: *const Text) void;
extern fn weir_counter_named(name: [*:0]const u8) u8;
extern fn weir_gauge_named(name: [*:0]const u8) u8;
extern fn weir_packet_prepend(burst: *Burst, packet: *Packet, bytes: u32) bool;
extern fn weir_packet_strip(burst: *Burst, packet: *Packet, bytes: u32) bool;
extern fn weir_packet_resize(burst: *Burst, packet: *Packet, length: u32) bool;
extern fn weir_parse_ipv6(frame: [*]const u8, length: u32, headers: *Headers) Frame;
extern fn weir_prefix_read(text: [*]const u8, length: usize, prefix: *Prefix) bool;
extern fn weir_now() u64;
extern fn weir_random() u64;
extern fn weir_set_timer(at: u64) void;
extern fn weir_allocate(answer: *Buffer, length: u32) void;
extern fn weir_owns(buffer: *const Buffer) bool;
extern fn weir_send(buffer: *const Buffer, verdict: u32) c_int;
extern fn weir_send_copy(bytes: [*]const u8, length: u32, verdict: u32) c_int;
extern var weir_values: extern struct { value: [64]u64, dirty: u64 };

/// How much a log line matters.
pub const Level = enum(c_int) { trace, debug, info, warn, err };

/// As much of a text as there is room for.
fn print(room: []u8, comptime format: []const u8, arguments: anytype) []u8 {
    var writer: std.Io.Writer = .fixed(room);
    writer.print(format, arguments) catch {};
    return writer.buffered();
}

/// Writes a line to the function's log, as by std.fmt; what is longer than 1,024 bytes is cut. Bytes of clients may be in it: each that is
/// no UTF-8 becomes a `?`.
pub fn log(level: Level, comptime format: []const u8, arguments: anytype) void {
    var line: [1024]u8 = undefined;
    const said = print(&line, format, arguments);
    weir_log_text(level, &.{ .bytes = said.ptr, .length = said.len });
}

/// Monotonic nanoseconds, by a call; within `process`, `Burst.now` is the same for free.
pub const now = weir_now;
/// The next of a sequence of random numbers, by a call: for hash seeds, sampling and back-off, not for keys. It begins alike in every instance of the
/// function, and is fixed in `weir replay`.
pub const random = weir_random;
/// Asks for one call of `tick` at or soon after this time; 0 cancels.
pub const setTimer = weir_set_timer;

/// A counter, shown in `/metrics`. Adding is a few instructions and no call.
pub const Counter = struct {
    place: u8 = 0,

    /// The counter of this name, 1 to 64 of `a-z0-9_`. Ask in `configure`.
    pub fn named(name: [*:0]const u8) Counter {
        return .{ .place = weir_counter_named(name) };
    }

    /// Raises it.
    pub inline fn add(counter: Counter, delta: u64) void {
        const place: u6 = @truncate(counter.place);
        weir_values.value[place] +%= delta;
        weir_values.dirty |= @as(u64, 1) << place;
    }
};

/// A gauge; as `Counter`.
pub const Gauge = struct {
    place: u8 = 0,

    /// The gauge of this name; as `Counter.named`.
    pub fn named(name: [*:0]const u8) Gauge {
        return .{ .place = weir_gauge_named(name) };
    }

    /// Makes this its value.
    pub inline fn set(gauge: Gauge, value: f64) void {
        const place: u6 = @truncate(gauge.place);
        weir_values.value[place] = @bitCast(value);
        weir_values.dirty |= @as(u64, 1) << place;
    }
};

/// A decision about a packet.
pub const Verdict = enum(u32) {
    /// Continue with the next function, or leave by the chain's output. What every packet has before.
    next = 0,
    /// Leave by the port it came in by.
    reply = 2,
    /// Give it to the kernel's stack.
    to_kernel = 4,
    /// Keep it: it can be sent when its burst is over, if `Buffer.isOwned` says that the function got it.
    hold = 6,
    _,

    /// Free it; counted under this reason, below 2^24. Those from 63 on are counted as 63, together.
    pub fn drop(reason: u32) Verdict {
        return @enumFromInt(1 | reason << 8);
    }
    /// Leave by this port.
    pub fn forward(port: u32) Verdict {
        return @enumFromInt(3 | port << 8);
    }
    /// Continue with this function, which must come later in the packet's direction.
    pub fn jump(to: u32) Verdict {
        return @enumFromInt(5 | to << 8);
    }
    /// As `next`, and a copy leaves by this port.
    pub fn clone(port: u32) Verdict {
        return @enumFromInt(7 | port << 8);
    }
    /// The packet and its flow go to the function's n-th target; 0 is the kernel's stack.
    pub fn move(target: u32) Verdict {
        return @enumFromInt(8 | target << 8);
    }
    /// The same for all further packets of the flow in this direction. Of next, drop, reply, forward and to_kernel.
    pub fn forFlow(verdict: Verdict) Verdict {
        return @enumFromInt(@intFromEnum(verdict) | 0x80);
    }
};

/// One packet of a burst. Writing to it takes `access = "read-write"` in function.toml; without, a store is a fault.
pub const Packet = extern struct {
    start: [*]u8,
    length: u32,
    index: u32,

    /// Its bytes, from the link layer's header on.
    pub inline fn data(packet: Packet) []u8 {
        return packet.start[0..packet.length];
    }
    /// Puts bytes in front of it, to be filled. False if there is no room.
    pub fn prepend(packet: *Packet, burst: *Burst, bytes: u32) bool {
        return weir_packet_prepend(burst, packet, bytes);
    }
    /// Takes bytes away from its front. False if it has not so many.
    pub fn strip(packet: *Packet, burst: *Burst, bytes: u32) bool {
        return weir_packet_strip(burst, packet, bytes);
    }
    /// Moves its end. False if there is no room.
    pub fn resize(packet: *Packet, burst: *Burst, length: u32) bool {
        return weir_packet_resize(burst, packet, length);
    }
    /// As a buffer, to be sent when the burst is over; its verdict must be `hold`.
    pub fn buffer(packet: Packet) Buffer {
        return .{ .start = packet.start, .length = packet.length };
    }
};

/// A packet that the function owns: held, or allocated.
pub const Buffer = extern struct {
    start: ?[*]u8,
    length: u32,

    /// A free one for a packet of so many bytes; null when the pool is empty or the function has its share.
    pub fn allocate(length: u32) ?Buffer {
        var buffer: Buffer = undefined;
        weir_allocate(&buffer, length);
        return if (buffer.start == null) null else buffer;
    }
    /// Its bytes.
    pub fn data(buffer: Buffer) []u8 {
        return buffer.start.?[0..buffer.length];
    }
    /// Whether it is the function's, by a call. A function may own a quarter of the pool's buffers; the host drops what it holds beyond
    /// that. To be asked about what was held in a burst before the next one ends, and before the function allocates: what was dropped is
    /// soon another packet's buffer, which the function may get as well.
    pub fn isOwned(buffer: Buffer) bool {
        return weir_owns(&buffer);
    }
    /// Lets go of it. False if the host refused.
    pub fn send(buffer: Buffer, verdict: Verdict) bool {
        return weir_send(&buffer, @intFromEnum(verdict)) < 0;
    }
};

/// Copies bytes into a new packet and sends it. False if the host refused.
pub fn sendCopy(bytes: []const u8, verdict: Verdict) bool {
    return weir_send_copy(bytes.ptr, bytes.len, @intFromEnum(verdict)) < 0;
}

/// The packets that came at once, 1 to 256 of them.
pub const Burst = extern struct {
    window: [*]u8,
    count: u32,

    inline fn at(burst: *const Burst, comptime T: type, offset: usize) *align(1) T {
        return @ptrCast(burst.window + offset);
    }
    /// The packet at a place below `count`.
    pub inline fn packet(burst: *const Burst, index: u32) Packet {
        return .{
            .start = burst.window + burst.at(u32, 8 * index).*,
            .length = burst.at(u32, 8 * index + 4).*,
            .index = index,
        };
    }
    /// Decides about a packet; the last decision counts.
    pub inline fn setVerdict(burst: *Burst, index: u32, verdict: Verdict) void {
        burst.at(u32, 0x1000 + 4 * index).* = @intFromEnum(verdict);
    }
    /// Number of the port that a packet came in by.
    pub inline fn port(burst: *const Burst, index: u32) u16 {
        return burst.at(u16, 0x2000 + 8 * index).*;
    }
    /// True when a packet travels from the chain's `to` to its `from`.
    pub inline fn reverse(burst: *const Burst, index: u32) bool {
        return burst.at(u16, 0x2000 + 8 * index + 2).* & 1 != 0;
    }
    /// True when a function made a packet.
    pub inline fn made(burst: *const Burst, index: u32) bool {
        return burst.at(u16, 0x2000 + 8 * index + 2).* & 2 != 0;
    }
    /// The host's symmetric flow hash of a packet as it arrived, or 0.
    pub inline fn hash(burst: *const Burst, index: u32) u32 {
        return burst.at(u32, 0x2000 + 8 * index + 4).*;
    }
    /// The burst's time: monotonic nanoseconds; in a replay the capture's own.
    pub inline fn now(burst: *const Burst) u64 {
        return burst.at(u64, 0x3000).*;
    }
    /// The same moment in nanoseconds since 1970, or 0 if the host does not know.
    pub inline fn wall(burst: *const Burst) u64 {
        return burst.at(u64, 0x3008).*;
    }
};

/// What a frame turned out to be.
pub const Frame = enum(c_int) { not_ip, cut_short, ipv4, ipv6 };

/// Stands for the ports of a packet that has none.
pub const no_port: u32 = 0x1_0000;

/// Numbers of protocols.
pub const protocol = struct {
    /// ICMP, of IPv4.
    pub const icmp = 1;
    /// TCP.
    pub const tcp = 6;
    /// UDP.
    pub const udp = 17;
    /// ICMP of IPv6.
    pub const icmpv6 = 58;
};

/// Where the headers of an IP packet lie in its frame, and what they say.
pub const Headers = extern struct {
    /// Where the IP header begins.
    l3: u32,
    /// Where what it carries begins, behind options and extension headers.
    l4: u32,
    /// Where the IP packet ends; padding may follow.
    end: u32,
    /// The transport protocol.
    protocol: u32,
    /// Ports of TCP and UDP; `no_port` for other protocols and later fragments.
    source_port: u32,
    destination_port: u32,
    /// It is a piece of a packet, but not the first.
    later_fragment: bool,
};

/// The number of bytes in network order.
pub inline fn get(comptime T: type, bytes: [*]const u8) T {
    return std.mem.readInt(T, bytes[0..@sizeOf(T)], .big);
}

/// Reads a frame in one pass; the headers are filled in for ipv4 and ipv6.
pub inline fn parse(frame: []const u8, headers: *Headers) Frame {
    if (frame.len < 14) return .not_ip;
    const start = frame.ptr;
    var kind = get(u16, start + 12);
    var l3: u32 = 14;
    var tags: u32 = 0;
    while (tags < 2 and (kind == 0x8100 or kind == 0x88a8)) : (tags += 1) {
        if (frame.len < l3 + 4) return .not_ip;
        kind = get(u16, start + l3 + 2);
        l3 += 4;
    }
    headers.l3 = l3;
    if (kind == 0x86dd) return weir_parse_ipv6(start, frame.len, headers);
    if (kind != 0x0800) return .not_ip;
    const left = frame.len - l3;
    if (left < 20) return .cut_short;
    const header = start + l3;
    const bytes = @as(u32, header[0] & 15) * 4;
    const total: u32 = get(u16, header + 2);
    if (header[0] >> 4 != 4 or bytes < 20 or bytes > total or total > left) return .cut_short;
    headers.l4 = l3 + bytes;
    headers.end = l3 + total;
    headers.protocol = header[9];
    headers.later_fragment = get(u16, header + 6) & 0x1fff != 0;
    headers.source_port = no_port;
    headers.destination_port = no_port;
    const of = header[9];
    if ((of != protocol.tcp and of != protocol.udp) or headers.later_fragment) return .ipv4;
    if (total - bytes < @as(u32, if (of == protocol.tcp) 20 else 8)) return .cut_short;
    headers.source_port = get(u16, header + bytes);
    headers.destination_port = get(u16, header + bytes + 2);
    return .ipv4;
}

/// An address with the length of its prefix.
pub const Prefix = extern struct {
    /// As it lies in a header; an IPv4 address in the first four bytes. Bits behind the prefix are 0.
    address: [16]u8,
    length: u8,
    is_v6: bool,

    /// Reads "10.0.0.0/8", "2001:db8::/32", or an address alone.
    pub fn read(text: []const u8) ?Prefix {
        var prefix: Prefix = undefined;
        return if (weir_prefix_read(text.ptr, text.len, &prefix)) prefix else null;
    }
};

/// Exports a file's `configure`, `process` and, if there is one, `tick` as the function of this module.
pub fn function(comptime file: type) void {
    const exports = struct {
        fn configure(setup: *const Setup, config: *const Json, refusal: *Refusal) callconv(.c) bool {
            file.configure(setup, config.*, refusal) catch return false;
            return true;
        }
        fn process(burst: *Burst) callconv(.c) void {
            file.process(burst);
        }
        fn tick(at: u64) callconv(.c) void {
            file.tick(at);
        }
    };
    @export(&exports.configure, .{ .name = "weir_configure" });
    @export(&exports.process, .{ .name = "weir_process" });
    if (@hasDecl(file, "tick")) @export(&exports.tick, .{ .name = "weir_tick" });
}
