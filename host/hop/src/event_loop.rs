//! An end in tokio's event loop.

use std::io;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use weir_hop_layout::Descriptor;

use crate::end::End;

/// An [`End`] that can be waited for. `send` and `flush` are the end's own; who has filled it waits
/// in [`AsyncEnd::receive`].
#[derive(Debug)]
pub struct AsyncEnd {
    end: AsyncFd<End>,
}

impl AsyncEnd {
    /// Has the event loop of this thread's runtime watch it.
    ///
    /// # Errors
    /// If there is no room in the event loop.
    pub fn new(end: End) -> io::Result<Self> {
        // SAFETY: an end owns its socket and never changes it.
        let end = unsafe { AsyncFd::register(end) }.map_err(io::Error::from)?;
        Ok(Self { end })
    }

    /// [`End::receive`], when something is there. Nothing is lost if it is dropped.
    ///
    /// # Errors
    /// Those of [`End::receive`] but for `WouldBlock`.
    pub async fn receive(&mut self, descriptors: &mut Vec<Descriptor>) -> io::Result<usize> {
        loop {
            let mut ready = self.end.readable_mut().await?;
            if let Ok(received) = ready.try_io(|end| end.get_mut().receive(descriptors)) {
                return received;
            }
        }
    }

    /// [`End::receive`], or the task is woken when something is there.
    ///
    /// # Errors
    /// As [`AsyncEnd::receive`].
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        descriptors: &mut Vec<Descriptor>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.end.poll_read_ready_mut(context))?;
            if let Ok(received) = ready.try_io(|end| end.get_mut().receive(descriptors)) {
                return Poll::Ready(received);
            }
        }
    }

    /// [`End::flush`], or the task is woken when the socket takes more.
    ///
    /// # Errors
    /// As [`AsyncEnd::flushed`].
    pub fn poll_flushed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.end.get_mut().flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
            let mut ready = ready!(self.end.poll_write_ready_mut(context))?;
            if let Ok(flushed) = ready.try_io(|end| end.get_mut().flush()) {
                return Poll::Ready(flushed);
            }
        }
    }

    /// [`End::flush`], when the socket takes it.
    ///
    /// # Errors
    /// Those of [`End::flush`] but for `WouldBlock`.
    pub async fn flushed(&mut self) -> io::Result<()> {
        loop {
            match self.end.get_mut().flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            let mut ready = self.end.writable_mut().await?;
            if let Ok(flushed) = ready.try_io(|end| end.get_mut().flush()) {
                return flushed;
            }
        }
    }
}

impl Deref for AsyncEnd {
    type Target = End;

    fn deref(&self) -> &End {
        self.end.get_ref()
    }
}

impl DerefMut for AsyncEnd {
    fn deref_mut(&mut self) -> &mut End {
        self.end.get_mut()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Hub;

    #[tokio::test]
    async fn an_end_wakes_its_task_when_something_comes_and_when_the_other_side_goes() {
        let hub = Hub::new();
        let (gateway, worker) = hub.connect_worker(1, 1).unwrap();
        let mut gateway = AsyncEnd::new(gateway).unwrap();
        let other = std::thread::spawn(move || {
            let mut worker = worker.open();
            for exchange in 0..100 {
                worker.send(&[Descriptor { exchange, ..Descriptor::default() }]).unwrap();
                worker.flush().unwrap();
                if exchange % 10 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let mut got = Vec::new();
        let all = async {
            loop {
                if let Err(error) = gateway.receive(&mut got).await {
                    return error;
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(got.len(), 100);
        other.join().unwrap();
        assert!(gateway.room() > 0);
    }
}
