//! Requests that are sent when they are due.
//!
//! Owns: pacing, one connection's requests, and how long answers took from when they were due. Must
//! not know: what answers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The body that every answer ends with.
pub const BODY: &str = "hello, world\n";
const REQUEST: &[u8] = b"GET /hello HTTP/1.1\r\nhost: weir.test\r\n\r\n";

/// Asks at a rate over one connection, for so long: when each request was due, and how many
/// milliseconds its answer took from then. What is late is not left out.
///
/// # Panics
/// When there is no connection, or it ends.
#[must_use]
pub fn ask(address: SocketAddr, rate: f64, time: Duration) -> Vec<(Instant, f64)> {
    let mut stream = TcpStream::connect(address).expect("the listener");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let (started, mut number) = (Instant::now(), 0u32);
    let (mut asked, mut bytes) = (Vec::new(), [0; 4096]);
    while started.elapsed() < time {
        let due = started + Duration::from_secs_f64(f64::from(number) / rate);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(REQUEST).expect("it is sent");
        let mut got = 0;
        // Small answers, whole when their body is.
        while !bytes[..got].ends_with(BODY.as_bytes()) {
            let more = stream.read(&mut bytes[got..]).expect("an answer");
            assert!(more > 0, "the listener closed: {}", String::from_utf8_lossy(&bytes[..got]));
            got += more;
        }
        asked.push((due, due.elapsed().as_secs_f64() * 1e3));
        number += 1;
    }
    asked
}
