//! The kernel's NAT, driven by `kernel.py`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// Where packets come in and leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Inside,
    Outside,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        if self == Self::Inside { Self::Outside } else { Self::Inside }
    }
}

/// A packet that came out, and where.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Out {
    pub(crate) side: Side,
    pub(crate) bytes: Vec<u8>,
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.side, hex(&self.bytes))
    }
}

/// A kernel with a network of its own, which ends with this.
#[derive(Debug)]
pub(crate) struct Linux {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Linux {
    pub(crate) fn start(task: &Value) -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "timeout", "120"])
            .args([
                "/usr/bin/python3",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/kernel.py"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` (package util-linux)");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut linux = Self { child, orders, answers };
        assert_eq!(linux.ask(task), "ready");
        linux
    }

    /// Sends these frames in on a side; gives what comes out.
    pub(crate) fn pass(&mut self, side: Side, frames: &[Vec<u8>]) -> Vec<Out> {
        let frames: Vec<String> = frames.iter().map(|frame| hex(frame)).collect();
        let name = if side == Side::Inside { "inside" } else { "outside" };
        let answer = self.ask(&json!({"side": name, "frames": frames}));
        let out = answer.as_array().unwrap().iter().map(|out| Out {
            side: if out[0] == "inside" { Side::Inside } else { Side::Outside },
            bytes: unhex(out[1].as_str().unwrap()),
        });
        out.collect()
    }

    fn ask(&mut self, order: &Value) -> Value {
        let orders = self.orders.as_mut().unwrap();
        let sent = writeln!(orders, "{order}").and_then(|()| orders.flush());
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        assert!(
            sent.is_ok() && read.is_ok_and(|length| length > 0),
            "this test makes network namespaces, which needs root, and iproute2 and nftables: see above"
        );
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
