//! The demo that the README begins with: it exits with 0 only if what it shows is true.

use std::process::Command;

use weir_tests::built::{built_file, workspace};

#[test]
fn netns_the_demo_shows_what_is_true() {
    for function in ["monitor", "firewall", "macswap"] {
        assert!(built_file(function).is_file());
    }
    let demo = Command::new(workspace().join("scripts/demo")).arg("--built").output();
    let demo = demo.expect("a shell");
    let (out, err) = (String::from_utf8_lossy(&demo.stdout), String::from_utf8_lossy(&demo.stderr));
    assert!(demo.status.success(), "{out}{err}");
    assert!(out.contains("yes  the swap was in the middle of them"), "{out}");
}
