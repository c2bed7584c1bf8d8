//! The socket between a worker and its keeper: orders with files in one direction, replies and news
//! in the other, as JSON behind its length.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest text of a frame.
const FRAME_MAX: usize = 64 << 20;
/// Most files with a frame: what the kernel takes (`SCM_MAX_FD`).
pub(crate) const FILES_MAX: usize = 253;

fn frame(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = frame.len() - 4;
    if length > FRAME_MAX {
        return Err(io::Error::other("too long to be said to a worker"));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Writes a frame.
pub(crate) fn write(mut socket: &UnixStream, value: &impl Serialize) -> io::Result<()> {
    socket.write_all(&frame(value)?)
}

/// Writes a frame with files.
pub(crate) fn write_with(
    mut socket: &UnixStream,
    value: &impl Serialize,
    files: &[Arc<OwnedFd>],
) -> io::Result<()> {
    let frame = frame(value)?;
    if files.len() > FILES_MAX {
        return Err(io::Error::other("more files than can be given to a worker at once"));
    }
    let files: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !along.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("no room for the files"));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&frame)], &mut along, SendFlags::NOSIGNAL)?;
    socket.write_all(&frame[sent..])
}

/// Waits for a frame.
pub(crate) fn read_with<T: DeserializeOwned>(
    mut socket: &UnixStream,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let (mut length, mut files) = ([0; 4], Vec::new());
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let got = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut length)], &mut along, flags) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    for message in along.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            files.extend(more);
        }
    }
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    socket.read_exact(&mut length[got..])?;
    let mut text = vec![0; checked(length)?];
    socket.read_exact(&mut text)?;
    Ok((serde_json::from_slice(&text)?, files))
}

fn checked(length: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(length) as usize;
    if length <= FRAME_MAX { Ok(length) } else { Err(io::Error::other("a frame is too long")) }
}

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// There may be more.
    More,
    /// There is nothing now.
    Nothing,
    /// The other side is gone.
    Gone,
}

/// Frames that come in pieces.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    /// So many of them belong to frames that have been taken.
    taken: usize,
}

impl Frames {
    /// Reads a piece of what is there.
    pub(crate) fn fill(&mut self, mut socket: &UnixStream) -> io::Result<Filled> {
        self.bytes.drain(..std::mem::take(&mut self.taken));
        let mut piece = [0; 16 << 10];
        match socket.read(&mut piece) {
            Ok(0) => Ok(Filled::Gone),
            Ok(_) if self.bytes.len() > FRAME_MAX => Err(io::Error::other("a frame is too long")),
            Ok(read) => {
                self.bytes.extend_from_slice(&piece[..read]);
                Ok(Filled::More)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(Filled::Nothing),
                io::ErrorKind::Interrupted => Ok(Filled::More),
                io::ErrorKind::ConnectionReset => Ok(Filled::Gone),
                _ => Err(error),
            },
        }
    }

    /// The next frame, if all of it is there.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let there = &self.bytes[self.taken..];
        let Some(length) = there.first_chunk::<4>() else { return Ok(None) };
        let end = 4 + checked(*length)?;
        let Some(text) = there.get(4..end) else { return Ok(None) };
        let value = serde_json::from_slice(text)?;
        self.taken += end;
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use weir_message::Change;

    use super::*;
    use crate::orders::{FromWorker, Order, Reply};

    #[test]
    fn orders_come_with_their_files_and_frames_in_pieces() {
        let (keeper, worker) = UnixStream::pair().unwrap();
        let file = || Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let order = Order::Change(Change::Canary { percent: 7, findings: Arc::default() });
        write_with(&keeper, &order, &[file(), file()]).unwrap();
        let (read, files) = read_with::<Order>(&worker).unwrap();
        assert!(matches!(read, Order::Change(Change::Canary { percent: 7, .. })));
        assert_eq!(files.len(), 2);

        keeper.set_nonblocking(true).unwrap();
        let long = FromWorker::Reply(Reply::Refused("x".repeat(100_000)));
        let writing = std::thread::spawn(move || {
            for _ in 0..3 {
                write(&worker, &long).unwrap();
            }
        });
        let (mut frames, mut got) = (Frames::default(), 0);
        loop {
            let filled = frames.fill(&keeper).unwrap();
            while let Some(FromWorker::Reply(Reply::Refused(text))) = frames.next().unwrap() {
                got += text.len();
            }
            if filled == Filled::Gone {
                break;
            }
        }
        writing.join().unwrap();
        assert_eq!(got, 300_000);
    }

    #[test]
    fn each_of_many_small_frames_is_taken_without_moving_the_others() {
        let small = frame(&FromWorker::Without(String::new())).unwrap();
        let all = small.repeat(1000);
        let mut frames = Frames { bytes: all.clone(), taken: 0 };
        for _ in 0..1000 {
            assert!(frames.next::<FromWorker>().unwrap().is_some());
            assert_eq!(frames.bytes.len(), all.len());
        }
        assert!(frames.next::<FromWorker>().unwrap().is_none());
        let (keeper, _worker) = UnixStream::pair().unwrap();
        keeper.set_nonblocking(true).unwrap();
        assert_eq!(frames.fill(&keeper).unwrap(), Filled::Nothing);
        assert!(frames.bytes.is_empty());
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let (keeper, mut worker) = UnixStream::pair().unwrap();
        for bad in [&[255; 8][..], &[2, 0, 0, 0, b'{', b'}']] {
            let mut frames = Frames::default();
            worker.write_all(bad).unwrap();
            frames.fill(&keeper).unwrap();
            assert!(frames.next::<FromWorker>().is_err(), "{bad:?}");
        }
    }
}
