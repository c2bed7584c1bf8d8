//! Standard output and error of a guest: lines of its function's log.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use weir_sandbox::{Level, Telemetry};

/// Bytes of a line; a longer one becomes several.
const LINE_MAX: usize = 4096;
/// Bytes that are taken in one write.
const WRITE_MAX: usize = 64 << 10;

/// One of the two streams.
#[derive(Clone)]
pub(crate) struct Output(Arc<Inner>);

struct Inner {
    level: Level,
    telemetry: Arc<Telemetry>,
    line: Mutex<Vec<u8>>,
}

impl Output {
    pub(crate) fn new(level: Level, telemetry: Arc<Telemetry>) -> Self {
        Self(Arc::new(Inner { level, telemetry, line: Mutex::default() }))
    }

    /// What was written of the last line is all of it.
    pub(crate) fn finish_line(&self) {
        self.0.finish_line();
    }
}

impl Inner {
    fn take(&self, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in bytes {
            if *byte == b'\n' || line.len() >= LINE_MAX {
                self.say(&line);
                line.clear();
            }
            if *byte != b'\n' {
                line.push(*byte);
            }
        }
    }

    fn say(&self, line: &[u8]) {
        if !line.is_empty() {
            self.telemetry.log(self.level, String::from_utf8_lossy(line).trim_end());
        }
    }
}

impl Inner {
    fn finish_line(&self) {
        let line = std::mem::take(&mut *self.line.lock().unwrap_or_else(PoisonError::into_inner));
        self.say(&line);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.finish_line();
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_MAX)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.0.take(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_whole_and_the_last_one_when_the_guest_goes() {
        let telemetry = Arc::<Telemetry>::default();
        let mut output = Output::new(Level::Info, Arc::clone(&telemetry));
        let said = || -> Vec<String> {
            telemetry.lines().0.into_iter().map(|line| line.message).collect()
        };
        output.write("one\ntw".into()).unwrap();
        assert_eq!(said(), ["one"]);
        output.write("o\r\n\nthree".into()).unwrap();
        assert_eq!(said(), ["one", "two"]);
        drop(output);
        assert_eq!(said(), ["one", "two", "three"]);
    }
}
