//! Frames made once, before the first packet: of so many flows, with right checksums, or taken from
//! a capture. They lie one behind the other in whole 64-byte lines, so that copying one is a few
//! moves of fixed size.

use std::path::Path;

use etherparse::PacketBuilder;

use crate::PortError;
use crate::pcap::CaptureReader;

/// Bytes that are copied at once.
pub(super) const LINE: usize = 64;

/// Bytes of Ethernet, IPv4 and UDP headers.
const UDP_HEADERS: usize = 14 + 20 + 8;
/// Bytes of Ethernet, IPv4 and TCP headers.
const TCP_HEADERS: usize = 14 + 20 + 20;
/// Longest frame: the longest IPv4 packet in an Ethernet frame.
const FRAME_MAX: usize = 14 + 65_535;
/// Flows differ in 24 bits of their source address.
const FLOWS_MAX: u32 = 1 << 24;

/// The protocol of generated flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// UDP datagrams.
    #[default]
    Udp,
    /// TCP segments that open a connection (SYN), or would, if they carried no payload.
    Tcp,
}

/// What generated frames look like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of flows: distinct pairs of addresses and ports, visited in turn.
    pub flows: u32,
    /// Bytes of a frame, without a frame check sequence: a "64-byte packet" on the wire has 60.
    pub frame_bytes: usize,
    /// Protocol above IPv4.
    pub protocol: Protocol,
}

/// One frame of the list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Template {
    /// First line.
    pub(super) line: u32,
    /// Bytes of the frame.
    pub(super) length: u32,
}

/// Frames to be generated in turn.
#[derive(Clone, Debug)]
pub struct Templates {
    lines: Vec<[u8; LINE]>,
    templates: Vec<Template>,
    longest: u32,
}

impl Templates {
    /// Frames of IPv4 flows from 10.0.0.0/8 to 198.18.0.0/15 (the range of RFC 2544 for
    /// benchmarks), one frame for each flow.
    ///
    /// # Errors
    /// When there are no flows or too many, or frames are too short for their headers or too long.
    pub fn flows(shape: Shape) -> Result<Self, PortError> {
        let headers = match shape.protocol {
            Protocol::Udp => UDP_HEADERS,
            Protocol::Tcp => TCP_HEADERS,
        };
        if shape.flows == 0 || shape.flows > FLOWS_MAX {
            return Err(impossible(format!(
                "{} flows: from 1 to {FLOWS_MAX} can be generated",
                shape.flows
            )));
        }
        if !(headers..=FRAME_MAX).contains(&shape.frame_bytes) {
            return Err(impossible(format!(
                "frames of {} bytes: {:?} frames have from {headers} to {FRAME_MAX}",
                shape.frame_bytes, shape.protocol
            )));
        }
        let payload = vec![0; shape.frame_bytes - headers];
        let mut frame = Vec::with_capacity(shape.frame_bytes);
        let mut all = Self::empty();
        for flow in 0..shape.flows {
            let [_, a, b, c] = flow.to_be_bytes();
            let [.., x, y] = flow.wrapping_mul(0x9e37_79b1).rotate_left(16).to_be_bytes();
            let source_port = 1024 + (flow % 60_000) as u16;
            let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(
                [10, a, b, c],
                [198, 18 | x & 1, y, 1 + x % 254],
                64,
            );
            frame.clear();
            match shape.protocol {
                Protocol::Udp => builder.udp(source_port, 53).write(&mut frame, &payload),
                Protocol::Tcp => {
                    builder.tcp(source_port, 443, flow, 65_535).syn().write(&mut frame, &payload)
                }
            }
            .map_err(|error| impossible(error.to_string()))?;
            all.push(&frame);
        }
        Ok(all)
    }

    /// The first `most` frames of a capture.
    ///
    /// # Errors
    /// When the capture cannot be read that far, or holds no packets.
    pub fn from_capture(path: &Path, most: usize) -> Result<Self, PortError> {
        let mut reader = CaptureReader::open(path)?;
        let mut all = Self::empty();
        while all.templates.len() < most && reader.next()?.is_some() {
            all.push(reader.data());
            reader.pass();
        }
        all.checked(&path.display().to_string())
    }

    /// These frames.
    ///
    /// # Errors
    /// When there are none.
    pub fn frames<F: AsRef<[u8]>>(frames: impl IntoIterator<Item = F>) -> Result<Self, PortError> {
        let mut all = Self::empty();
        frames.into_iter().for_each(|frame| all.push(frame.as_ref()));
        all.checked("the list of frames")
    }

    /// Of so many frames in a row the one at this place, and so on.
    ///
    /// # Panics
    /// When there is none at this place.
    pub(super) fn every(&self, step: usize, place: usize) -> Self {
        let mut some = Self::empty();
        self.iter().skip(place).step_by(step).for_each(|frame| some.push(frame));
        assert!(!some.templates.is_empty(), "{} frames are not enough", self.len());
        some
    }

    /// Number of frames.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.templates.len()
    }

    /// Bytes of the longest frame.
    #[must_use]
    pub fn longest(&self) -> u32 {
        self.longest
    }

    /// The frames, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.templates
            .iter()
            .map(|&template| &self.lines(template).as_flattened()[..template.length as usize])
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> Template {
        self.templates[index]
    }

    /// The lines a frame lies in; what follows the frame in the last one is zero.
    #[inline]
    pub(super) fn lines(&self, template: Template) -> &[[u8; LINE]] {
        let first = template.line as usize;
        &self.lines[first..first + (template.length as usize).div_ceil(LINE)]
    }

    fn empty() -> Self {
        Self { lines: Vec::new(), templates: Vec::new(), longest: 0 }
    }

    fn push(&mut self, frame: &[u8]) {
        let line = self.lines.len() as u32;
        self.templates.push(Template { line, length: frame.len() as u32 });
        self.longest = self.longest.max(frame.len() as u32);
        self.lines.extend(frame.chunks(LINE).map(|part| {
            let mut line = [0; LINE];
            line[..part.len()].copy_from_slice(part);
            line
        }));
    }

    fn checked(self, from: &str) -> Result<Self, PortError> {
        if self.templates.is_empty() {
            return Err(impossible(format!("{from} holds no packets to generate from")));
        }
        Ok(self)
    }
}

fn impossible(problem: String) -> PortError {
    PortError::Configuration { port: "memory".to_owned(), problem }
}
