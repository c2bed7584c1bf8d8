//! The end of an exchange, whichever way it comes: counted, and told to the chain.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::chain::{Direction, Ended, Exchange};
use crate::listener::{STREAM_WINDOW, Site};
use crate::relay;
use crate::request_body::Progress;
use crate::rests::LINGER_BYTES;
use crate::statistics::Failure;
use crate::stream::{MATURE, Pulse};
use crate::upstream::Upstream;

/// A request at an upstream, which is counted as active there.
#[derive(Default)]
pub(crate) struct Visit(Option<Rc<Upstream>>);

impl Visit {
    /// This upstream has it now.
    pub(crate) fn at(&mut self, upstream: &Rc<Upstream>) {
        self.leave();
        upstream.counters.active.add(1);
        self.0 = Some(Rc::clone(upstream));
    }

    /// None has it any more.
    pub(crate) fn leave(&mut self) {
        if let Some(upstream) = self.0.take() {
            upstream.counters.active.sub(1);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.leave();
    }
}

/// An exchange under way; it is over when this is dropped. Until something else is said, that means that the client went.
pub(crate) struct Finish {
    pub(crate) site: Rc<Site>,
    pub(crate) pulse: Rc<Pulse>,
    pub(crate) exchange: Option<Exchange>,
    visit: Visit,
    /// The upstream that was asked last on a way through services.
    asked_last: Option<Rc<Cell<Option<usize>>>>,
    began: Instant,
    head: Option<Duration>,
    how: Ended,
    /// How it ends if all of the response is delivered.
    whole: Ended,
    /// The request's body, if it has one.
    upload: Option<Rc<Progress>>,
    /// The client went because it was too slow.
    slow: bool,
    delivered: bool,
}

impl Finish {
    pub(crate) fn new(site: Rc<Site>, pulse: Rc<Pulse>) -> Self {
        site.counters.requests.add(1);
        site.counters.active.add(1);
        pulse.active.set(pulse.active.get() + 1);
        pulse.moved();
        // What comes from now on is the request's body, or the next head.
        pulse.heard.set(None);
        let (began, how) = (Instant::now(), Ended::ClientGone);
        let whole = Ended::Delivered;
        Self {
            site,
            pulse,
            exchange: None,
            visit: Visit::default(),
            asked_last: None,
            began,
            head: None,
            how,
            whole,
            upload: None,
            slow: false,
            delivered: false,
        }
    }

    /// The request has a body.
    pub(crate) fn uploads(&mut self, progress: Rc<Progress>) {
        self.upload = Some(progress);
    }

    /// Whether what is left of the request's body is read when nobody wants it, as is known when the response's head leaves. `expects`:
    /// the client waits to be told to continue, so it may send nothing of a body of which nothing came.
    pub(crate) fn reads_rest(&self, http1: bool, expects: bool, status: http::StatusCode) -> bool {
        let Some(upload) = &self.upload else { return true };
        if http1 {
            return upload.has_at_most(LINGER_BYTES) && (upload.has_begun() || !expects);
        }
        // curl 7 reads nothing any more when it has the whole response, but sends, unless that is an error: then what is left must fit into
        // the window that it has by now, or it waits for good.
        status.as_u16() >= 400 || upload.has_at_most(STREAM_WINDOW as usize / 2)
    }

    /// What is left of the request's body is not read.
    pub(crate) fn reads_no_rest(&self) {
        if let Some(upload) = &self.upload {
            upload.cut();
            self.pulse.rests.forget(upload);
        }
    }

    /// A piece of the response leaves.
    pub(crate) fn moved(&self) {
        self.pulse.moved();
        if let Some(upload) = &self.upload {
            upload.moved();
        }
    }

    /// This upstream has it now.
    pub(crate) fn at(&mut self, upstream: &Rc<Upstream>) {
        self.visit.at(upstream);
    }

    /// It goes through services: which upstream was asked last is said there.
    pub(crate) fn travels(&mut self) -> Rc<Cell<Option<usize>>> {
        Rc::clone(self.asked_last.get_or_insert_default())
    }

    /// A response's head leaves.
    pub(crate) fn answered(&mut self, status: http::StatusCode) {
        let time = self.began.elapsed();
        self.head = Some(time);
        if let Some(upload) = &self.upload {
            upload.answers(self.site.plan.config.timeouts.response);
        }
        self.site.counters.responses.count(status);
        self.site.counters.latency.record(time);
    }

    /// How it ends, as far as that is said.
    pub(crate) fn how(&self) -> Ended {
        self.how
    }

    /// How it ends.
    pub(crate) fn ends(&mut self, how: Ended) {
        self.how = how;
    }

    /// How it ends if all of the response is delivered.
    pub(crate) fn whole_is(&mut self, whole: Ended) {
        self.whole = whole;
    }

    /// All of the response is delivered.
    pub(crate) fn delivered(&mut self) {
        self.how = self.whole;
        self.delivered = true;
    }

    /// Bytes were passed on until this ended it; none: it was cut off.
    pub(crate) fn passed(&mut self, ended: Option<&io::Result<()>>) {
        if let Some(Ok(())) = ended {
            return self.delivered();
        }
        if let Some(Err(error)) = ended
            && relay::is_idle(error)
        {
            self.failed(Failure::Idle);
        }
        self.ends(Ended::Reset);
    }

    /// Something went wrong.
    pub(crate) fn failed(&self, failure: Failure) {
        self.site.counters.failures.count(failure);
    }

    /// A head is larger than what functions can be shown.
    pub(crate) fn head_too_large(&self, of: Direction) {
        tracing::debug!(
            ?of,
            "a head is larger than `room` of [gateway], by which functions see it"
        );
        match of {
            Direction::Request => self.failed(Failure::Refused),
            Direction::Response => {
                self.failed(Failure::NotHttp);
                if let Some(upstream) = &self.visit.0 {
                    upstream.counters.failures.count(Failure::NotHttp);
                }
            }
        }
    }

    /// It ends because the client does not take the response, or does not send the rest of its request.
    pub(crate) fn slow(&mut self) {
        self.slow = true;
    }

    /// The client must see that something is missing.
    pub(crate) fn cut(&self) {
        self.pulse.cut.set(true);
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let visited = self.visit.0.as_ref().map(|upstream| upstream.index);
        self.visit.leave();
        self.site.counters.active.sub(1);
        self.pulse.active.set(self.pulse.active.get() - 1);
        self.pulse.quiet_since.set(Instant::now());
        if self.upload.is_some() {
            self.pulse.heard.set(None);
        }
        if !self.delivered {
            self.reads_no_rest();
        }
        self.pulse.moved();
        if self.how == Ended::ClientGone {
            if self.began.elapsed() < MATURE {
                self.pulse.given_up.set(self.pulse.given_up.get() + 1);
            }
            let slow = self.slow || self.pulse.stalled.get();
            let failure = if slow { Failure::ClientSlow } else { Failure::ClientGone };
            self.site.counters.failures.count(failure);
        }
        if let Some(exchange) = self.exchange.take() {
            let upstream = visited.or_else(|| self.asked_last.as_ref()?.get());
            exchange.end(self.how, upstream, self.head.unwrap_or_else(|| self.began.elapsed()));
        }
    }
}
