//! How much memory a body takes while it is read, also one that is refused: whoever may send it
//! should not have the host take a hundred times as much. In a process of its own, whose peak is
//! looked at.

use weir_spec::{Chain, Steering};

/// Bytes of a body.
const BODY: usize = 4 << 20;

/// The most memory that this process has had, in KiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// So many bytes of these, as an array.
fn array(of: &str) -> String {
    format!("[{}{of}]", format!("{of},").repeat(BODY / (of.len() + 1)))
}

#[test]
fn a_body_takes_little_more_memory_than_its_text() {
    let config = format!(r#"{{"use": "f", "config": {{"a": {}}}}}"#, array(r#"{"":0}"#));
    let tables = format!(r#"{{"use": "f", "per-worker": {}}}"#, array("{}"));
    let targets = format!(r#"{{"use": "f", "targets": {}}}"#, array("\"a\""));
    let chain = |functions: &str| format!(r#"{{"name": "c", "function": {functions}}}"#);
    let steering = format!(r#"{{"rule": {}}}"#, array("{}"));
    let chains =
        [array("{}"), format!("[{config}]"), format!("[{tables}]"), format!("[{targets}]")];
    let chains = chains.map(|functions| chain(&functions));
    // What is there already, and that many bytes ten times: rules are as many as there can be, of
    // some 250 bytes each.
    let allowed = peak() + 10 * BODY / 1024;
    assert!(serde_json::from_str::<Steering>(&steering).is_err());
    let read: Vec<_> = chains.iter().map(|chain| serde_json::from_str::<Chain>(chain)).collect();
    assert_eq!(read.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false, false]);
    for chain in read.into_iter().flatten() {
        // It is written, compared and looked into, too.
        let (_, text) = (chain.config_bytes(), serde_json::to_string(&chain).unwrap());
        assert!(text.len() >= BODY);
        let refused = chain.refused_configuration("f", "a[7]: 0: no");
        assert_eq!(refused.key(), "function[0].config.a[7]");
    }
    assert!(peak() < allowed, "{} KiB, allowed are {allowed}", peak());
}
