//! An end of a hop: the gateway's, or the worker's.
//!
//! Descriptors wait until the owner's event loop turns ([`End::flush`]) or a message is full, so
//! that under load many go in one system call. At most [`WINDOW`] are under way in a direction:
//! whoever reads grants them back, a quarter of the window at a time, with a descriptor of the
//! hop's own. So neither side can fill the other's memory, and nobody polls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use weir_hop_layout::{BATCH, DESCRIPTOR, Descriptor, GRANTS, KIND_GRANT, WINDOW};

use crate::hub::Registration;

/// How many descriptors are read before they are granted back.
const GRANT_AT: u32 = WINDOW / 4;
/// Bytes that are read at once.
const READ: usize = 256 * DESCRIPTOR;

/// Descriptors that came in and were not for the owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Of another worker than this end's.
    pub foreign: u64,
    /// Of another generation.
    pub stale: u64,
}

/// See the module. Not for several threads at once.
pub struct End {
    /// Before the socket: the entries in the maps go first.
    _registration: Option<Registration>,
    socket: OwnedFd,
    hop: u16,
    generation: u8,
    /// Whether the carrier looks at messages: they are then at most [`BATCH`] descriptors.
    messages: bool,
    /// What is to be sent; the first `sent` bytes have been.
    out: Vec<u8>,
    sent: usize,
    /// Descriptors sent or to be sent that the other side has not granted back.
    under_way: u32,
    /// Descriptors read and not granted yet.
    read: u32,
    buffer: Box<[u8; READ]>,
    /// How many bytes at the buffer's beginning are of a descriptor that has not come in full.
    part: usize,
    discarded: Discarded,
    /// Why nothing can be sent any more.
    failed: Option<rustix::io::Errno>,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("End")
            .field("hop", &self.hop)
            .field("generation", &self.generation)
            .field("under_way", &self.under_way)
            .finish_non_exhaustive()
    }
}

impl End {
    pub(crate) fn new(
        socket: OwnedFd,
        hop: u16,
        generation: u8,
        messages: bool,
        registration: Option<Registration>,
    ) -> Self {
        Self {
            _registration: registration,
            socket,
            hop,
            generation,
            messages,
            out: Vec::with_capacity((WINDOW + GRANTS) as usize * DESCRIPTOR),
            sent: 0,
            under_way: 0,
            read: 0,
            buffer: Box::new([0; READ]),
            part: 0,
            discarded: Discarded::default(),
            failed: None,
        }
    }

    /// The worker's number.
    #[must_use]
    pub fn hop(&self) -> u16 {
        self.hop
    }

    /// The lower eight bits of the worker's generation.
    #[must_use]
    pub fn generation(&self) -> u8 {
        self.generation
    }

    /// How many descriptors can be sent now.
    #[must_use]
    pub fn room(&self) -> usize {
        WINDOW.saturating_sub(self.under_way) as usize
    }

    /// Whether something waits for [`End::flush`].
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.sent < self.out.len()
    }

    /// What came in and was not for the owner.
    #[must_use]
    pub fn discarded(&self) -> Discarded {
        self.discarded
    }

    /// Takes as many of these as there is room for, and says how many. The end writes `hop` and
    /// `generation`. They go when a message is full, or with [`End::flush`].
    ///
    /// # Errors
    /// `WouldBlock` if there is no room at all: there will be when the end has become readable and
    /// was read. `InvalidInput` for the hop's own kind. That the other side is gone is said by
    /// [`End::flush`] and [`End::receive`].
    pub fn send(&mut self, descriptors: &[Descriptor]) -> io::Result<usize> {
        if descriptors.iter().any(|descriptor| descriptor.kind == KIND_GRANT) {
            let problem = format!("kind {KIND_GRANT} is the hop's own; kinds go from 0 to 254");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let taken = descriptors.len().min(self.room());
        if taken == 0 && !descriptors.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for descriptor in &descriptors[..taken] {
            let (hop, generation) = (self.hop, self.generation);
            let stamped = Descriptor { hop, generation, ..*descriptor };
            self.out.extend_from_slice(&stamped.to_bytes());
        }
        self.under_way += taken as u32;
        if self.out.len() - self.sent >= BATCH * DESCRIPTOR {
            // They are taken. What is wrong with the socket is said by `flush`.
            let _ = self.flush();
        }
        Ok(taken)
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// `WouldBlock` if the socket is full: the rest goes when it is writable. `PermissionDenied` if
    /// the program dropped a message: the route leads to another generation, or nowhere, because
    /// the worker is gone. `BrokenPipe` and `ConnectionReset` if the other side is gone. Nothing
    /// can be sent after these.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(error) = self.failed {
            return Err(error.into());
        }
        self.put_grant();
        while self.sent < self.out.len() {
            let mut next = &self.out[self.sent..];
            if self.messages {
                next = &next[..next.len().min(BATCH * DESCRIPTOR)];
            }
            match send(&self.socket, next, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => self.sent += sent,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    // What has gone need not be kept; a descriptor that has gone in part stays
                    // whole.
                    let gone = self.sent / DESCRIPTOR * DESCRIPTOR;
                    self.out.drain(..gone);
                    self.sent -= gone;
                    return Err(rustix::io::Errno::AGAIN.into());
                }
                Err(error) => {
                    self.failed = Some(error);
                    return Err(error.into());
                }
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads what is there, and adds it. 0: there was only what concerns the hop itself; there may
    /// be [`End::room`] now.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there. `UnexpectedEof` if the other side is gone and everything
    /// it said was read.
    pub fn receive(&mut self, descriptors: &mut Vec<Descriptor>) -> io::Result<usize> {
        let read = loop {
            match recv(&self.socket, &mut self.buffer[self.part..], RecvFlags::DONTWAIT) {
                Ok((read, _)) => break read,
                Err(rustix::io::Errno::INTR) => {}
                // A worker that is killed leaves unread bytes behind.
                Err(rustix::io::Errno::CONNRESET) => break 0,
                Err(error) => return Err(error.into()),
            }
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = descriptors.len();
        let (whole, rest) = self.buffer[..self.part + read].as_chunks::<DESCRIPTOR>();
        for bytes in whole {
            let descriptor = Descriptor::from_bytes(*bytes);
            if descriptor.hop != self.hop {
                self.discarded.foreign += 1;
            } else if descriptor.generation != self.generation {
                self.discarded.stale += 1;
            } else if descriptor.kind == KIND_GRANT {
                self.under_way = self.under_way.saturating_sub(descriptor.length);
            } else {
                descriptors.push(descriptor);
            }
        }
        self.read += whole.len() as u32;
        let (kept, part) = (whole.len() * DESCRIPTOR, rest.len());
        self.buffer.copy_within(kept..kept + part, 0);
        self.part = part;
        if self.read >= GRANT_AT {
            // What is wrong with the socket is said when the owner sends or reads the next time.
            let _ = self.flush();
        }
        Ok(descriptors.len() - before)
    }

    /// Grants back what was read, if it is time: in front of what waits, because the program looks
    /// at the first.
    fn put_grant(&mut self) {
        if self.read < GRANT_AT {
            return;
        }
        // Behind a descriptor that has been sent in part.
        let at = self.sent.next_multiple_of(DESCRIPTOR);
        let waiting = self.out.get_mut(at..at + DESCRIPTOR).and_then(|out| out.first_chunk_mut());
        if let Some(bytes) = waiting {
            let waiting = Descriptor::from_bytes(*bytes);
            if waiting.kind == KIND_GRANT {
                // The program counts one of a message.
                let grant = Descriptor { length: waiting.length + self.read, ..waiting };
                *bytes = grant.to_bytes();
                self.read = 0;
                return;
            }
        }
        if self.under_way >= WINDOW + GRANTS {
            return;
        }
        let grant = Descriptor {
            hop: self.hop,
            generation: self.generation,
            kind: KIND_GRANT,
            length: self.read,
            ..Descriptor::default()
        };
        self.out.splice(at..at, grant.to_bytes());
        self.read = 0;
        self.under_way += 1;
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for End {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hub;

    fn numbered(numbers: std::ops::Range<u32>) -> Vec<Descriptor> {
        numbers.map(|exchange| Descriptor { exchange, ..Descriptor::default() }).collect()
    }

    /// Both carriers, if this process may load programs.
    fn hubs() -> Vec<Hub> {
        let mut hubs = vec![Hub::unix()];
        match Hub::sk_msg() {
            Ok(hub) => hubs.push(hub),
            Err(error) => eprintln!("without sk_msg: {error}"),
        }
        hubs
    }

    /// Until something is there.
    fn read(end: &mut End, into: &mut Vec<Descriptor>) -> io::Result<usize> {
        let timeout = rustix::time::Timespec { tv_sec: 5, tv_nsec: 0 };
        let mut fds = [rustix::event::PollFd::new(&*end, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
        end.receive(into)
    }

    #[test]
    fn what_is_sent_arrives_in_order_in_both_directions() {
        for hub in hubs() {
            let (mut gateway, worker) = hub.connect_worker(7, 3).unwrap();
            let mut worker = worker.open();
            for (from, to) in [(0, 1), (1, 0)] {
                let ends = [&mut gateway, &mut worker];
                let mut got = Vec::new();
                for n in 0..100 {
                    assert_eq!(ends[from].send(&numbered(n * 100..n * 100 + 100)).unwrap(), 100);
                    ends[from].flush().unwrap();
                    while got.len() < (n as usize + 1) * 100 {
                        read(ends[to], &mut got).unwrap();
                    }
                    // Grants.
                    let _ = ends[from].receive(&mut Vec::new());
                }
                let wanted = numbered(0..10_000).into_iter().map(|descriptor| Descriptor {
                    hop: 7,
                    generation: 3,
                    ..descriptor
                });
                assert!(got.into_iter().eq(wanted), "{}", hub.carrier());
            }
        }
    }

    #[test]
    fn a_side_that_does_not_read_stops_the_other_at_the_window() {
        for hub in hubs() {
            let (mut gateway, worker) = hub.connect_worker(1, 0).unwrap();
            let mut worker = worker.open();
            let sent = gateway.send(&numbered(0..WINDOW + 500)).unwrap();
            assert_eq!(sent, WINDOW as usize);
            gateway.flush().unwrap();
            let again = gateway.send(&numbered(0..1)).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
            let mut got = Vec::new();
            while got.len() < WINDOW as usize {
                read(&mut worker, &mut got).unwrap();
            }
            while gateway.room() == 0 {
                assert_eq!(read(&mut gateway, &mut Vec::new()).unwrap(), 0);
            }
            assert!(gateway.send(&numbered(0..1)).is_ok());
        }
    }

    #[test]
    fn the_end_of_the_other_side_comes_behind_all_it_said() {
        for hub in hubs() {
            let (mut gateway, worker) = hub.connect_worker(1, 0).unwrap();
            let mut worker = worker.open();
            worker.send(&numbered(0..1000)).unwrap();
            worker.flush().unwrap();
            drop(worker);
            let mut got = Vec::new();
            let error = loop {
                if let Err(error) = read(&mut gateway, &mut got) {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{}", hub.carrier());
            assert_eq!(got.len(), 1000, "{}", hub.carrier());
        }
    }

    #[test]
    fn the_hops_own_kind_is_not_sent_for_the_owner() {
        let (mut gateway, _worker) = Hub::unix().connect_worker(1, 0).unwrap();
        let grant = Descriptor { kind: KIND_GRANT, ..Descriptor::default() };
        assert_eq!(gateway.send(&[grant]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn two_grants_that_wait_go_as_one() {
        let (mut gateway, worker) = Hub::unix().connect_worker(1, 0).unwrap();
        let mut worker = worker.open();
        assert_eq!(worker.send(&numbered(0..WINDOW)).unwrap(), WINDOW as usize);
        worker.flush().unwrap();
        gateway.send(&numbered(0..3)).unwrap();
        for _ in 0..2 {
            // As if the socket had been full.
            gateway.read = GRANT_AT;
            gateway.put_grant();
        }
        let grant = Descriptor::from_bytes(*gateway.out.first_chunk().unwrap());
        assert_eq!((grant.kind, grant.length), (KIND_GRANT, 2 * GRANT_AT));
        assert_eq!(gateway.out.len(), 4 * DESCRIPTOR);
        gateway.flush().unwrap();
        let mut got = Vec::new();
        while read(&mut worker, &mut got).unwrap() < 3 {}
        assert_eq!((got.len(), worker.room()), (3, 2 * GRANT_AT as usize));
    }
}
