//! The package: the modules `weir` and `message`, with the parts of the C SDK that the functions of a world need. The world is an option:
//! `b.dependency("weir", .{ .world = .packet })`, `.message` or `.connection`.

const std = @import("std");

const World = enum { packet, message, connection };

/// Every processor that has Wasm's extensions of 2022 (`-mcpu` of the templates).
const features = std.Target.wasm.featureSet(&.{ .simd128, .bulk_memory, .sign_ext, .nontrapping_fptoint });

pub fn build(b: *std.Build) void {
    const world = b.option(World, "world", "What functions are for") orelse .packet;
    const target = b.resolveTargetQuery(.{ .cpu_arch = .wasm32, .os_tag = .wasi, .cpu_features_add = features });
    const module = b.addModule("weir", .{
        .root_source_file = b.path("src/weir.zig"),
        .target = target,
        .optimize = .ReleaseFast,
        .link_libc = true,
    });
    const files: []const []const u8 = switch (world) {
        .packet => &.{ "src/host.c", "src/attach.c", "src/json.c", "src/net.c", "src/stdio.c", "src/packet.c", "bindings/packet_function.c" },
        .message => &.{ "src/host.c", "src/attach.c", "src/json.c", "src/net.c", "src/stdio.c", "src/messages.c", "src/message.c", "bindings/message_function.c" },
        .connection => &.{ "src/host.c", "src/attach.c", "src/json.c", "src/net.c", "src/stdio.c", "src/messages.c", "src/connection.c", "bindings/connection_function.c" },
    };
    // Within the package, as projects have it, or beside it, as in Weir's repository.
    const c = if (b.root.access(b.graph.io, "c", .{})) |_| "c" else |_| "../c";
    module.addIncludePath(b.path(b.fmt("{s}/include", .{c})));
    module.addCSourceFiles(.{ .root = b.path(c), .files = files, .flags = &.{"-std=c11"} });
    module.addObjectFile(b.path(b.fmt("{s}/bindings/{s}_function_component_type.o", .{ c, @tagName(world) })));
    _ = b.addModule("message", .{
        .root_source_file = b.path("src/message.zig"),
        .target = target,
        .optimize = .ReleaseFast,
        .imports = &.{.{ .name = "weir", .module = module }},
    });
}
