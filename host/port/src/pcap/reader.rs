//! Reads a capture of either format, packet by packet, whatever its size. Every packet before a
//! damage is delivered; the error then says where and what.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::PortError;

use super::ETHERNET;
use super::classic::Classic;
use super::ng::Ng;
use super::record::{Flaw, Record};
use super::source::Source;

/// A packet of a capture, before it is copied anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Bytes that were captured.
    pub length: u32,
    /// Bytes of its end that were not captured.
    pub cut: u32,
}

#[derive(Debug)]
enum Format {
    Classic(Classic),
    Ng(Ng),
}

/// A capture being read: [`Self::next`] looks at a packet, [`Self::data`] gives its bytes,
/// [`Self::pass`] goes on.
#[derive(Debug)]
pub struct CaptureReader<R> {
    source: Source<R>,
    format: Format,
    path: PathBuf,
    /// The packet looked at.
    record: Option<Record>,
    /// Packets passed.
    passed: u64,
    /// Nothing behind a damage can be trusted.
    damaged: bool,
}

impl CaptureReader<File> {
    /// Opens a capture file.
    ///
    /// # Errors
    /// When it cannot be opened, is no capture, or its packets are known not to be Ethernet.
    pub fn open(path: &Path) -> Result<Self, PortError> {
        let file =
            File::open(path).map_err(|source| PortError::Open { path: path.to_owned(), source })?;
        Self::new(file, path)
    }
}

impl<R: Read> CaptureReader<R> {
    /// Reads a capture from anything; `path` is for messages.
    ///
    /// # Errors
    /// When it is no capture, or its packets are known not to be Ethernet.
    pub fn new(from: R, path: &Path) -> Result<Self, PortError> {
        let mut source = Source::new(from);
        let opened = open(&mut source);
        let path = path.to_owned();
        let format = opened.map_err(|flaw| match flaw {
            Flaw::Io(source) => PortError::Read { path: path.clone(), offset: 0, source },
            Flaw::LinkType(link_type) => PortError::LinkType { path: path.clone(), link_type },
            Flaw::Damage(problem) => PortError::NotACapture { path: path.clone(), problem },
        })?;
        Ok(Self { source, format, path, record: None, passed: 0, damaged: false })
    }

    /// Looks at the next packet; asking again gives the same one. `None` at the capture's end.
    ///
    /// # Errors
    /// When the capture is damaged here, is not Ethernet, or reading fails. There it ends.
    #[expect(clippy::should_implement_trait, reason = "the bytes are lent, not given away")]
    #[inline]
    pub fn next(&mut self) -> Result<Option<Captured>, PortError> {
        if self.record.is_none() {
            if self.damaged {
                return Ok(None);
            }
            let found = match &mut self.format {
                Format::Classic(classic) => classic.record(&mut self.source),
                Format::Ng(ng) => ng.record(&mut self.source),
            };
            self.record = found.map_err(|flaw| self.locate(flaw))?;
        }
        Ok(self.record.map(|record| Captured {
            time: record.time,
            length: record.captured,
            cut: record.cut,
        }))
    }

    /// The bytes of the packet looked at; none if none is.
    #[must_use]
    #[inline]
    pub fn data(&self) -> &[u8] {
        self.record.map_or(&[], |record| {
            &self.source.ahead()[record.data_at..record.data_at + record.captured as usize]
        })
    }

    /// Goes on behind the packet looked at.
    #[inline]
    pub fn pass(&mut self) {
        if let Some(record) = self.record.take() {
            self.source.pass(record.total);
            self.passed += 1;
        }
    }

    /// True when timestamps are finer than microseconds, as far as is known by now.
    #[must_use]
    pub fn nanoseconds(&self) -> bool {
        match &self.format {
            Format::Classic(classic) => classic.nanoseconds(),
            Format::Ng(ng) => ng.nanoseconds(),
        }
    }

    /// True for pcapng, false for the classic format.
    #[must_use]
    pub(crate) fn is_ng(&self) -> bool {
        matches!(self.format, Format::Ng(_))
    }

    /// The link type field for the header of a classic capture of the same packets.
    #[must_use]
    pub fn link_type_field(&self) -> u32 {
        match &self.format {
            Format::Classic(classic) => classic.link_type_field(),
            Format::Ng(_) => ETHERNET.into(),
        }
    }

    /// Bytes of the file that were read and passed.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.source.offset()
    }

    #[cold]
    fn locate(&mut self, flaw: Flaw) -> PortError {
        self.damaged = true;
        let path = self.path.clone();
        let offset = match &self.format {
            Format::Classic(_) => self.source.offset(),
            Format::Ng(ng) => ng.block_at(),
        };
        match flaw {
            Flaw::Io(source) => PortError::Read { path, offset, source },
            Flaw::LinkType(link_type) => PortError::LinkType { path, link_type },
            Flaw::Damage(problem) => {
                PortError::Damaged { path, offset, packet: self.passed + 1, problem }
            }
        }
    }
}

/// Finds out the format from the file's first bytes.
fn open<R: Read>(source: &mut Source<R>) -> Result<Format, Flaw> {
    let start = source.peek(4)?;
    if Classic::claims(start) {
        return Classic::open(source).map(Format::Classic);
    }
    if Ng::claims(start) {
        return Ng::open(source).map(Format::Ng);
    }
    Err(Flaw::new(match start {
        [] => "the file is empty".to_owned(),
        [0x1f, 0x8b, ..] => "it is compressed with gzip; decompress it first (gunzip)".to_owned(),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            "it is compressed with zstd; decompress it first (unzstd)".to_owned()
        }
        _ => format!(
            "it begins with {:02x?}, neither pcap nor pcapng does; `editcap` converts other formats",
            &start[..start.len().min(4)]
        ),
    }))
}
