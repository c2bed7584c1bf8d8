//! Requests over HTTP/1.1 at a steady rate, whatever the answers take.
//!
//! Owns: when a request is due, and the time from then to the last byte of its answer: one that waits for those before it on its
//! connection counts that as well. Must not know: who answers.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::thread::{CpuSet, sched_setaffinity};

/// For answers that do not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for, and how often.
#[derive(Clone, Debug)]
pub struct Load {
    /// Of 127.0.0.1.
    pub port: u16,
    /// The request's target.
    pub path: &'static str,
    /// How every answer ends, and nothing before its end does.
    pub ends_with: &'static [u8],
    /// Connections, which take turns.
    pub connections: usize,
    /// Requests a second on all of them.
    pub rate: u32,
    /// For how long.
    pub time: Duration,
    /// The core that asks.
    pub core: usize,
}

struct Connection {
    stream: TcpStream,
    /// When those were due that are not answered, the oldest first; only that one was sent.
    due: VecDeque<Instant>,
    answer: Vec<u8>,
}

impl Load {
    /// The time that each request took, the shortest first.
    ///
    /// # Panics
    /// When a connection ends, or an answer does not come.
    #[must_use]
    pub fn run(&self) -> Vec<Duration> {
        let load = self.clone();
        let thread = std::thread::spawn(move || {
            let mut cpus = CpuSet::new();
            cpus.set(load.core);
            sched_setaffinity(None, &cpus).expect("the core is there");
            load.here()
        });
        let mut times = thread.join().expect("all is answered");
        times.sort_unstable();
        times
    }

    fn here(&self) -> Vec<Duration> {
        let request =
            format!("GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", self.path, self.port);
        let poll = epoll::create(CreateFlags::CLOEXEC).expect("an epoll");
        let mut connections: Vec<_> = (0..self.connections)
            .map(|number| {
                let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
                stream.set_nodelay(true).expect("a socket");
                stream.set_nonblocking(true).expect("a socket");
                let data = EventData::new_u64(number as u64);
                epoll::add(&poll, &stream, data, EventFlags::IN).expect("a socket");
                Connection { stream, due: VecDeque::new(), answer: Vec::new() }
            })
            .collect();
        let started = Instant::now();
        let all = u64::from(self.rate) * self.time.as_millis() as u64 / 1000;
        let due_at =
            |n: u64| started + Duration::from_nanos(n * 1_000_000_000 / u64::from(self.rate));
        let mut times = Vec::with_capacity(all as usize);
        let mut next = 0;
        let mut events = Vec::with_capacity(self.connections);
        while (times.len() as u64) < all {
            let now = Instant::now();
            while next < all && due_at(next) <= now {
                let connection = &mut connections[next as usize % self.connections];
                connection.due.push_back(due_at(next));
                if connection.due.len() == 1 {
                    connection.send(request.as_bytes());
                }
                next += 1;
            }
            assert!(now < due_at(all) + PATIENCE, "{} of {all} are answered", times.len());
            let wait = if next < all { due_at(next) } else { now + PATIENCE };
            let wait = wait.saturating_duration_since(Instant::now());
            let wait = Timespec::try_from(wait).expect("seconds");
            events.clear();
            epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&wait))
                .expect("an epoll");
            for event in &events {
                let connection = &mut connections[event.data.u64() as usize];
                if let Some(due) = connection.receive(self.ends_with) {
                    times.push(due.elapsed());
                    if !connection.due.is_empty() {
                        connection.send(request.as_bytes());
                    }
                }
            }
        }
        times
    }
}

impl Connection {
    fn send(&mut self, request: &[u8]) {
        let sent = self.stream.write(request).expect("a socket with room");
        assert_eq!(sent, request.len(), "a request is smaller than a socket's buffer");
    }

    /// When the request was due whose answer is complete.
    fn receive(&mut self, ends_with: &[u8]) -> Option<Instant> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => panic!("the connection ended: {}", String::from_utf8_lossy(&self.answer)),
            Ok(read) => self.answer.extend_from_slice(&bytes[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        }
        if !self.answer.ends_with(ends_with) {
            return None;
        }
        assert!(
            self.answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&self.answer)
        );
        self.answer.clear();
        self.due.pop_front()
    }
}
