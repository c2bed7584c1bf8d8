//! The SDKs as packages of their languages: what somebody else's build system takes makes
//! functions, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use weir_sandbox::World;
use weir_tests::built::{weir, workspace};

fn sdk(language: &str) -> PathBuf {
    workspace().join("guest-sdk").join(language)
}

/// Runs a command line in this directory, with the tools that `scripts/setup` installed.
fn run(directory: &Path, line: &str) {
    let tools = workspace().join("target/languages/bin");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-euc", line]).current_dir(directory).env("PATH", path);
    let output = command.output().expect("a shell");
    assert!(
        output.status.success(),
        "{line}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Makes a function of a module with a manifest, or a template of one, and says what it is for.
fn world(module: &Path, manifest: &Path) -> World {
    let (function, named) = (module.with_extension("function.wasm"), module.with_extension("toml"));
    let text = fs::read_to_string(manifest).unwrap().replace("{{name}}", "gate");
    fs::write(&named, text).unwrap();
    let mut command = Command::new(weir());
    command.args(["--quiet", "component"]).arg(module).arg("--manifest").arg(named);
    let output = command.arg("-o").arg(&function).output().expect("weir starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    weir_sandbox::admit(&fs::read(&function).unwrap()).unwrap().world
}

#[test]
fn a_static_library_for_c() {
    let directory = tempfile::tempdir().unwrap();
    let c = sdk("c");
    for (name, sources, expected) in [
        ("packet", "examples/packet-filter", World::Window),
        ("message", "template/message", World::Message),
        ("connection", "examples/tcp-policy", World::Connection),
    ] {
        let line = format!(
            "sh {c}/build-library {name} .
             for file in {c}/{sources}/*.c; do
               clang-19 --target=wasm32-wasi -std=c11 -O3 -msimd128 -mbulk-memory -I {c}/include -c -o {name}-$(basename $file .c).o $file
             done
             clang-19 --target=wasm32-wasi -mexec-model=reactor -Wl,-z,stack-size=65536 -Wl,--stack-first -o {name}.wasm {name}-*.o \
               -L . -Wl,--whole-archive -lweir-{name} -Wl,--no-whole-archive",
            c = c.display()
        );
        run(directory.path(), &line);
        let manifest = c.join(sources).join("function.toml");
        assert_eq!(world(&directory.path().join(format!("{name}.wasm")), &manifest), expected);
    }
}

/// The package of a function that uses the SDK's.
const PACKAGE: &str = r#".{ .name = .gate, .version = "0.1.0", .fingerprint = 0xb82b989451774395, .minimum_zig_version = "0.17.0",
    .dependencies = .{ .weir = .{ .path = "../sdk/zig" } }, .paths = .{""} }
"#;

/// A function in Zig that lets connections pass.
const CONNECTION: &str = r#"const weir = @import("weir");
const message = @import("message");

comptime {
    message.function(@This());
}

pub fn configure(_: *const weir.Setup, _: weir.Json, _: *weir.Refusal) weir.Refused!void {}

pub fn wants() u32 {
    return message.opened;
}

pub fn opened(_: message.Exchange, _: *message.Head) message.Outcome {
    return .proceed;
}
"#;

#[test]
fn a_package_for_zig() {
    let directory = tempfile::tempdir().unwrap();
    // A path of a dependency has to be relative.
    std::os::unix::fs::symlink(workspace().join("guest-sdk"), directory.path().join("sdk"))
        .unwrap();
    for (plane, modules, expected) in [
        ("packet", "weir", World::Window),
        ("message", "weir message", World::Message),
        ("connection", "weir message", World::Connection),
    ] {
        let project = directory.path().join(plane);
        fs::create_dir(&project).unwrap();
        let template = sdk("zig").join("template").join(plane);
        let source = fs::read_to_string(template.join("main.zig"));
        fs::write(project.join("main.zig"), source.unwrap_or(CONNECTION.to_owned())).unwrap();
        let imports: String = modules
            .split(' ')
            .map(|module| {
                format!(".{{ .name = \"{module}\", .module = weir.module(\"{module}\") }}, ")
            })
            .collect();
        let build = format!(
            r#"const std = @import("std");

pub fn build(b: *std.Build) void {{
    const weir = b.dependency("weir", .{{ .world = .{plane} }});
    const exe = b.addExecutable(.{{
        .name = "gate",
        .root_module = b.createModule(.{{
            .root_source_file = b.path("main.zig"),
            .target = weir.module("weir").resolved_target,
            .optimize = .ReleaseFast,
            .imports = &.{{ {imports} }},
        }}),
    }});
    exe.entry = .disabled;
    exe.wasi_exec_model = .reactor;
    exe.stack_size = 65536;
    b.installArtifact(exe);
}}
"#
        );
        fs::write(project.join("build.zig"), build).unwrap();
        fs::write(project.join("build.zig.zon"), PACKAGE).unwrap();
        run(&project, "zig build");
        let module = project.join("zig-out/bin/gate.wasm");
        // There is no template for connections.
        let manifest =
            if template.exists() { template } else { sdk("zig").join("template/message") };
        assert_eq!(world(&module, &manifest.join("function.toml")), expected);
    }
}

#[test]
fn a_package_for_python() {
    let directory = tempfile::tempdir().unwrap();
    let (python, template) = (sdk("python"), sdk("python").join("template/packet"));
    let line = format!(
        "cp -rL {python} sdk
         python3 -m venv venv
         venv/bin/pip install -q --no-deps --disable-pip-version-check ./sdk
         cp {template}/app.py .
         site=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')
         componentize-py --wit-path $site/weir_sdk/wit --world packet-function-burst componentize --stub-wasi \
           --python-path . --python-path $site app --output app.wasm
         venv/bin/python -m weir_sdk.frees app.wasm",
        python = python.display(),
        template = template.display()
    );
    run(directory.path(), &line);
    let module = directory.path().join("app.wasm");
    assert_eq!(world(&module, &template.join("function.toml")), World::Burst);
}

#[test]
fn a_package_for_assemblyscript() {
    let directory = tempfile::tempdir().unwrap();
    let (package, template) =
        (sdk("assemblyscript"), sdk("assemblyscript").join("template/packet"));
    let line = format!(
        "npm pack --silent --pack-destination . {package}
         tar -xf weir-assemblyscript-*.tgz
         cp {template}/main.ts .
         for file in build function.toml; do sed 's/{{{{name}}}}/gate/' {template}/$file > $file; done
         WEIR={weir} WEIR_SDK=package sh build",
        package = package.display(),
        template = template.display(),
        weir = weir().display()
    );
    run(directory.path(), &line);
    let function = fs::read(directory.path().join("gate.wasm")).unwrap();
    assert_eq!(weir_sandbox::admit(&function).unwrap().world, World::Window);
}
