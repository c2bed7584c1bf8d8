//! Refuses requests for private paths, and marks those that pass.

const std = @import("std");
const weir = @import("weir");
const message = @import("message");

comptime {
    message.function(@This());
}

/// Beginnings of paths that are refused.
var private: std.ArrayList([]const u8) = .empty;
var refused: weir.Counter = .{};

pub fn configure(_: *const weir.Setup, config: weir.Json, refusal: *weir.Refusal) weir.Refused!void {
    const allocator = std.heap.wasm_allocator;
    var there = false;
    var keys = config.members();
    while (keys.next()) |key| {
        if (!std.mem.eql(u8, key.key(), "private")) {
            return refusal.because("unknown key {s}; allowed: private", .{key.key()});
        }
        there = key.value.kind() == .list;
        var paths = key.value.members();
        while (paths.next()) |one| {
            // The text of the configuration is gone when this returns, and has escapes.
            const room = allocator.alloc(u8, 1024) catch return refusal.because("private: no memory for so many", .{});
            const path = one.value.copy(room) orelse "";
            if (!std.mem.startsWith(u8, path, "/")) {
                return refusal.because("private: a path must begin with / and have less than 1024 bytes", .{});
            }
            private.append(allocator, path) catch return refusal.because("private: no memory for so many", .{});
        }
    }
    if (!there) return refusal.because("private: a list of paths is needed", .{});
    refused = .named("refused");
}

pub fn wants() u32 {
    return message.request_head;
}

/// Whether servers may read a path as another one: it is as the client wrote it, and to many `/%61`, `//a` and `/./a` are `/a`.
fn isUnclear(path: []const u8) bool {
    for (path, 0..) |byte, at| {
        switch (byte) {
            '%', '\\', ';' => return true,
            '/', '.' => if (at > 0 and path[at - 1] == '/') return true,
            else => {},
        }
    }
    return false;
}

pub fn requestHead(exchange: message.Exchange, head: *message.Head) message.Outcome {
    const path = std.mem.sliceTo(head.path(), '?');
    var is_private = isUnclear(path);
    for (private.items) |one| is_private = is_private or std.mem.startsWith(u8, path, one);
    if (is_private) {
        refused.add(1);
        return exchange.answer(403, &.{.of("content-type", "text/plain; charset=utf-8")}, "This is private.\n");
    }
    if (!head.set("x-guard", "passed")) return exchange.answer(431, &.{}, "The request's head is too large.\n");
    return .proceed;
}
