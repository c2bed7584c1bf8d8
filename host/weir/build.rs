//! How the program is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Of addresses that the loader puts into the program there are 75,000. Each command waits for
    // that: in this form a bit for each is read, not 24 bytes (glibc 2.36 and later).
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // By which a host knows whether what it finds on disk is its own word or that of another build
    // (`sandbox/answers.rs`).
    println!("cargo:rustc-link-arg-bins=-Wl,--build-id=sha1");
}
