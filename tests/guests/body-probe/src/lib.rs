//! Looks at every byte of bodies in both directions, and counts them and their lines.

use weir_sdk::message::prelude::*;

/// Bytes that are counted in one byte: so that the compiler does it sixteen at a time.
const BLOCK: usize = 192;

fn lines(block: &[u8]) -> u64 {
    u64::from(block.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>())
}

/// The function.
#[derive(Debug)]
pub struct Probe {
    bytes: Counter,
    lines: Counter,
}

impl Probe {
    fn look(&self, piece: &Piece<'_>) -> Outcome {
        let bytes = piece.bytes();
        let lines: u64 = bytes.chunks(BLOCK).map(lines).sum();
        self.bytes.add(bytes.len() as u64);
        self.lines.add(lines);
        Outcome::Continue
    }
}

impl MessageFunction for Probe {
    type Config = NoConfig;
    type State = ();

    fn configure(_: Setup, _: NoConfig) -> Result<Self, String> {
        Ok(Self { bytes: host::counter("bytes"), lines: host::counter("lines") })
    }

    fn wants(&self) -> Wants {
        Wants::REQUEST_BODY.and(Wants::RESPONSE_BODY)
    }

    fn request_body(&mut self, _: &mut Exchange<'_, ()>, piece: &mut Piece<'_>) -> Outcome {
        self.look(piece)
    }

    fn response_body(&mut self, _: &mut Exchange<'_, ()>, piece: &mut Piece<'_>) -> Outcome {
        self.look(piece)
    }
}

weir_sdk::export_message!(Probe);
