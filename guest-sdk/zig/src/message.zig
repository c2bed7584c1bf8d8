//! Functions for requests and responses (L7) and for connections (L4) in Zig, on top of the C SDK.
//!
//!     const weir = @import("weir");
//!     const message = @import("message");
//!     comptime { message.function(@This()); }
//!     pub fn configure(setup: *const weir.Setup, config: weir.Json, refusal: *weir.Refusal) weir.Refused!void { ... }
//!     pub fn wants() u32 { return message.request_head; }
//!     pub fn requestHead(exchange: message.Exchange, head: *message.Head) message.Outcome { ... }
//!
//! Other events: `requestBody`, `responseHead`, `responseBody`, `resume`, `ended`, `tick`; of functions for connections `opened` and
//! `data`. Those that a file does not have let all pass.

const weir = @import("weir");
const Text = weir.Text;

// Events, for `wants`.

/// The request's head.
pub const request_head: u32 = 1;
/// Pieces of the request's body.
pub const request_body: u32 = 2;
/// The response's head.
pub const response_head: u32 = 4;
/// Pieces of the response's body.
pub const response_body: u32 = 8;
/// The exchange's or connection's end.
pub const ended: u32 = 16;
/// A connection that was opened.
pub const opened: u32 = 32;
/// Bytes of a connection.
pub const data: u32 = 64;

/// What an event answers.
pub const Outcome = enum(c_int) {
    /// The next function has it.
    proceed,
    /// The function has answered the exchange itself: what `Exchange.answer` gives back.
    answer,
    /// The stream or connection is ended without an answer.
    reset,
    /// Nothing of this exchange in this direction moves until `resume`, which something has to have been asked for.
    wait,
    /// Of a body's piece: it stays where it is, and the function wants to see the next one.
    hold_piece,
    /// As `proceed`; this function wants no more events of this exchange but `ended`.
    finished,
};

// The canonical forms of C's functions: Wasm's C ABI passes structures by reference.
extern fn weir_head_method(answer: *Text, head: *const Head) void;
extern fn weir_head_path(answer: *Text, head: *const Head) void;
extern fn weir_head_authority(answer: *Text, head: *const Head) void;
extern fn weir_head_server_name(answer: *Text, head: *const Head) void;
extern fn weir_head_status(head: *const Head) u16;
extern fn weir_head_upstream(head: *const Head) i32;
extern fn weir_head_client(head: *const Head) *const [16]u8;
extern fn weir_head_field(head: *const Head, name: [*:0]const u8, value: *Text) bool;
extern fn weir_head_add(head: *Head, name: [*:0]const u8, value: *const Text) bool;
extern fn weir_head_set(head: *Head, name: [*:0]const u8, value: *const Text) bool;
extern fn weir_head_set_path(head: *Head, path: *const Text) bool;
extern fn weir_head_remove(head: *Head, name: [*:0]const u8) bool;
extern fn weir_head_set_status(head: *Head, status: u16) void;
extern fn weir_piece_resize(piece: *Piece, length: u32) bool;
extern fn weir_answer(exchange: u32, status: u16, fields: [*]const Field, count: u32, body: *const Text) c_int;
extern fn weir_route(exchange: u32, upstream: u32) c_int;
extern fn weir_store_get(exchange: u32, key: *const Text, token: *u32) c_int;
extern fn weir_store_add(exchange: u32, key: *const Text, delta: i64, milliseconds: u64, token: *u32) c_int;
extern fn weir_store_set(exchange: u32, key: *const Text, value: *const Text, milliseconds: u64) c_int;
extern fn weir_sleep(exchange: u32, nanoseconds: u64, token: *u32) c_int;
/// The time of the event that is being handled: that of `weir.now`, without a call.
pub const eventNow = weir_event_now;
extern fn weir_event_now() u64;
/// The same moment in nanoseconds since 1970, or 0 if the host does not know.
pub const eventWall = weir_event_wall;
extern fn weir_event_wall() u64;

fn text(bytes: []const u8) Text {
    return .{ .bytes = bytes.ptr, .length = bytes.len };
}

/// A request's or response's head, or a connection; valid until the event returns.
pub const Head = extern struct {
    start: [*]u8,
    changed: bool,

    /// The request's method.
    pub fn method(head: *const Head) []const u8 {
        var found: Text = undefined;
        weir_head_method(&found, head);
        return found.slice();
    }
    /// Path and query, as the client wrote them. Many servers take `/%61`, `//a` and `/./a` for `/a`.
    pub fn path(head: *const Head) []const u8 {
        var found: Text = undefined;
        weir_head_path(&found, head);
        return found.slice();
    }
    /// Host and port that the client named.
    pub fn authority(head: *const Head) []const u8 {
        var found: Text = undefined;
        weir_head_authority(&found, head);
        return found.slice();
    }
    /// What TLS's SNI said.
    pub fn serverName(head: *const Head) []const u8 {
        var found: Text = undefined;
        weir_head_server_name(&found, head);
        return found.slice();
    }
    /// 0 in requests and connections.
    pub fn status(head: *const Head) u16 {
        return weir_head_status(head);
    }
    /// The upstream that sent a response, a place in `Setup.ports`; null if that is not known.
    pub fn upstream(head: *const Head) ?u32 {
        const place = weir_head_upstream(head);
        return if (place < 0) null else @intCast(place);
    }
    /// The client's address; IPv4 as ::ffff:a.b.c.d.
    pub fn client(head: *const Head) *const [16]u8 {
        return weir_head_client(head);
    }
    /// The first field of this name. Names are compared without regard to case, and written in lower case.
    pub fn field(head: *const Head, name: [*:0]const u8) ?[]const u8 {
        var found: Text = undefined;
        return if (weir_head_field(head, name, &found)) found.slice() else null;
    }
    /// Adds a field. False if it does not fit, or has no name; then nothing is changed. So for the two that follow.
    pub fn add(head: *Head, name: [*:0]const u8, value: []const u8) bool {
        return weir_head_add(head, name, &text(value));
    }
    /// Makes this the only field of its name.
    pub fn set(head: *Head, name: [*:0]const u8, value: []const u8) bool {
        return weir_head_set(head, name, &text(value));
    }
    /// Makes this its path and query. False if there is no room.
    pub fn setPath(head: *Head, target: []const u8) bool {
        return weir_head_set_path(head, &text(target));
    }
    /// Deletes all fields of this name: whether there were any.
    pub fn remove(head: *Head, name: [*:0]const u8) bool {
        return weir_head_remove(head, name);
    }
    /// 200 to 599.
    pub fn setStatus(head: *Head, number: u16) void {
        weir_head_set_status(head, number);
    }
};

/// A piece of a body, or bytes of a connection; valid until the event returns.
pub const Piece = extern struct {
    start: [*]u8,
    length: u32,
    /// There is none after it.
    last: bool,
    /// Room from `start` on.
    room: u32,
    /// To be set when bytes were changed without the length.
    changed: bool,
    /// Set, it is left out, whether it was changed or not: `drop`.
    replaced: bool,

    /// Its bytes, to be read and changed.
    pub fn bytes(piece: *const Piece) []u8 {
        return piece.start[0..piece.length];
    }
    /// Leaves it out.
    pub fn drop(piece: *Piece) void {
        piece.replaced = true;
    }
    /// Gives it another length, when its bytes have been changed. False beyond its room.
    pub fn resize(piece: *Piece, length: u32) bool {
        return weir_piece_resize(piece, length);
    }
};

/// A field of an answer.
pub const Field = extern struct {
    name: Text,
    value: Text,

    /// A field of this name and value.
    pub fn of(name: []const u8, value: []const u8) Field {
        return .{ .name = text(name), .value = text(value) };
    }
};

/// A request with its response, or a connection.
pub const Exchange = struct {
    number: u32,

    /// Answers it; `return` what this gives back: `.reset` if the host refused, or a field is no UTF-8. Bytes are copied.
    pub fn answer(exchange: Exchange, status: u16, fields: []const Field, body: []const u8) Outcome {
        const why = weir_answer(exchange.number, status, fields.ptr, @intCast(fields.len), &text(body));
        return if (why < 0) .answer else .reset;
    }
    /// Sends it to this upstream, a place in `Setup.ports`. False if the host refused.
    pub fn route(exchange: Exchange, upstream: u32) bool {
        return weir_route(exchange.number, upstream) < 0;
    }
    /// Asks the tenant's key-value store for a value, which `resume` brings under this token. Null if the host refused; so for the
    /// others.
    pub fn storeGet(exchange: Exchange, key: []const u8) ?u32 {
        var token: u32 = undefined;
        return if (weir_store_get(exchange.number, &text(key), &token) < 0) token else null;
    }
    /// Adds to a number there (8 bytes, little-endian; 0 if there is none, and then it lives for so many milliseconds); `resume` brings
    /// the sum under this token.
    pub fn storeAdd(exchange: Exchange, key: []const u8, delta: i64, milliseconds: u64) ?u32 {
        var token: u32 = undefined;
        return if (weir_store_add(exchange.number, &text(key), delta, milliseconds, &token) < 0) token else null;
    }
    /// Writes a value that lives for so long (0: until memory is short). False if the host refused.
    pub fn storeSet(exchange: Exchange, key: []const u8, value: []const u8, milliseconds: u64) bool {
        return weir_store_set(exchange.number, &text(key), &text(value), milliseconds) < 0;
    }
    /// Asks to be resumed after so long, under this token.
    pub fn sleep(exchange: Exchange, nanoseconds: u64) ?u32 {
        var token: u32 = undefined;
        return if (weir_sleep(exchange.number, nanoseconds, &token) < 0) token else null;
    }
};

/// Exports a file's `configure`, `wants` and events as the function of this module.
pub fn function(comptime file: type) void {
    const exports = struct {
        fn configure(setup: *const weir.Setup, config: *const weir.Json, refusal: *weir.Refusal) callconv(.c) bool {
            file.configure(setup, config.*, refusal) catch return false;
            return true;
        }
        fn wants() callconv(.c) u32 {
            return file.wants();
        }
        fn requestHead(exchange: u32, head: *Head) callconv(.c) Outcome {
            return file.requestHead(.{ .number = exchange }, head);
        }
        fn requestBody(exchange: u32, piece: *Piece) callconv(.c) Outcome {
            return file.requestBody(.{ .number = exchange }, piece);
        }
        fn responseHead(exchange: u32, head: *Head) callconv(.c) Outcome {
            return file.responseHead(.{ .number = exchange }, head);
        }
        fn responseBody(exchange: u32, piece: *Piece) callconv(.c) Outcome {
            return file.responseBody(.{ .number = exchange }, piece);
        }
        fn connected(exchange: u32, head: *Head) callconv(.c) Outcome {
            return file.opened(.{ .number = exchange }, head);
        }
        fn carried(exchange: u32, from_upstream: bool, piece: *Piece) callconv(.c) Outcome {
            return file.data(.{ .number = exchange }, from_upstream, piece);
        }
        fn resumed(exchange: u32, token: u32, status: u32, head: ?*Head, body: ?[*]const u8, length: u32) callconv(.c) Outcome {
            const came: []const u8 = if (body) |start| start[0..length] else &.{};
            return file.@"resume"(.{ .number = exchange }, token, status, head, came);
        }
        fn over(exchange: u32, how: u32, upstream: u32, nanoseconds: u64) callconv(.c) void {
            file.ended(.{ .number = exchange }, how, upstream, nanoseconds);
        }
        fn tick(at: u64) callconv(.c) void {
            file.tick(at);
        }
    };
    @export(&exports.configure, .{ .name = "weir_configure" });
    @export(&exports.wants, .{ .name = "weir_wants" });
    if (@hasDecl(file, "requestHead")) @export(&exports.requestHead, .{ .name = "weir_request_head" });
    if (@hasDecl(file, "requestBody")) @export(&exports.requestBody, .{ .name = "weir_request_body" });
    if (@hasDecl(file, "responseHead")) @export(&exports.responseHead, .{ .name = "weir_response_head" });
    if (@hasDecl(file, "responseBody")) @export(&exports.responseBody, .{ .name = "weir_response_body" });
    if (@hasDecl(file, "opened")) @export(&exports.connected, .{ .name = "weir_opened" });
    if (@hasDecl(file, "data")) @export(&exports.carried, .{ .name = "weir_data" });
    if (@hasDecl(file, "resume")) @export(&exports.resumed, .{ .name = "weir_resume" });
    if (@hasDecl(file, "ended")) @export(&exports.over, .{ .name = "weir_ended" });
    if (@hasDecl(file, "tick")) @export(&exports.tick, .{ .name = "weir_tick" });
}
