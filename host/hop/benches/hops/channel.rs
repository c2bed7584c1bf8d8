//! The ways descriptors can go, behind one interface.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use weir_hop::{BATCH, Descriptor, End};

use crate::ring::Ring;

/// One end of a way.
pub(crate) trait Channel {
    /// Sends these, in as few messages as there can be.
    fn send(&mut self, descriptors: &[Descriptor]) -> io::Result<()>;
    /// Waits until something is there, and adds it.
    fn receive(&mut self, into: &mut Vec<Descriptor>) -> io::Result<()>;
}

/// An event loop with one file in it.
pub(crate) struct Events(OwnedFd);

impl Events {
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&events, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        Ok(Self(events))
    }

    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut events = [std::mem::MaybeUninit::uninit(); 1];
        epoll::wait(&self.0, &mut events, None)?;
        Ok(())
    }
}

/// The crate's own ends.
pub(crate) struct Hop(pub(crate) End, pub(crate) Events);

impl Channel for Hop {
    fn send(&mut self, descriptors: &[Descriptor]) -> io::Result<()> {
        self.0.send(descriptors)?;
        self.0.flush()
    }

    fn receive(&mut self, into: &mut Vec<Descriptor>) -> io::Result<()> {
        self.1.wait()?;
        self.0.receive(into).map(drop)
    }
}

/// A socket of any kind.
pub(crate) struct Socket {
    pub(crate) socket: OwnedFd,
    pub(crate) events: Events,
    pub(crate) buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn of(socket: OwnedFd) -> io::Result<Self> {
        let events = Events::of(&socket)?;
        Ok(Self { socket, events, buffer: vec![0; 256 * 16] })
    }
}

impl Channel for Socket {
    fn send(&mut self, descriptors: &[Descriptor]) -> io::Result<()> {
        for descriptors in descriptors.chunks(BATCH) {
            let bytes: Vec<u8> = descriptors.iter().flat_map(|one| one.to_bytes()).collect();
            send(&self.socket, &bytes, SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut Vec<Descriptor>) -> io::Result<()> {
        self.events.wait()?;
        let (read, _) = recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (whole, _) = self.buffer[..read].as_chunks::<16>();
        into.extend(whole.iter().map(|bytes| Descriptor::from_bytes(*bytes)));
        Ok(())
    }
}

/// Rings in shared memory, and a doorbell for whoever sleeps.
pub(crate) struct Rings {
    pub(crate) to: Ring,
    pub(crate) from: Ring,
    pub(crate) bell: OwnedFd,
    pub(crate) woken: OwnedFd,
    pub(crate) events: Events,
}

impl Channel for Rings {
    fn send(&mut self, descriptors: &[Descriptor]) -> io::Result<()> {
        if self.to.push(descriptors) {
            rustix::io::write(&self.bell, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut Vec<Descriptor>) -> io::Result<()> {
        if self.from.pop(into) {
            return Ok(());
        }
        while !self.from.pop_or_sleep(into) {
            self.events.wait()?;
            rustix::io::read(&self.woken, &mut [0; 8])?;
        }
        Ok(())
    }
}
