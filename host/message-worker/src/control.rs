//! The socket between a worker and its keeper: orders with files in one direction, replies and news in the other, as JSON behind its
//! length.

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

/// Frames that come in pieces.
#[derive(Debug, Default)]
pub(crate) struct Frames(Vec<u8>);

impl Frames {
    /// Reads what is there. `false`: the other side is gone.
    pub(crate) fn fill(&mut self, mut socket: &UnixStream) -> io::Result<bool> {
        let mut piece = [0; 16 << 10];
        match socket.read(&mut piece) {
            Ok(0) => Ok(false),
            Ok(read) => {
                self.0.extend_from_slice(&piece[..read]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(true),
                io::ErrorKind::ConnectionReset => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// The next frame, if all of it is there.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(length) = self.0.first_chunk::<4>() else { return Ok(None) };
        let end = 4 + checked(*length)?;
        let Some(text) = self.0.get(4..end) else { return Ok(None) };
        let value = serde_json::from_slice(text)?;
        self.0.drain(..end);
        Ok(Some(value))
    }
}
