//! The end of an exchange, whichever way it comes: counted, and told to the chain.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, Uri};
use tokio::time::Instant;

use crate::chain::{Direction, Ended, Exchange};
use crate::connection::relay::Halt;
use crate::connection::stream::{MATURE, Pulse};
use crate::http::request_body::Progress;
use crate::http::unread_body::LINGER_BYTES;
use crate::listen::listener::{STREAM_WINDOW, Site};
use crate::observe::counters::Traffic;
use crate::observe::failure_lines::{Line, shown};
use crate::observe::record::{self, Noted, Record, Records};
use crate::observe::statistics::Failure;
use crate::tls;
use crate::upstream::dial::Unconnected;
use crate::upstream::pool::Upstream;

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

/// What an exchange leaves behind on a way through services.
#[derive(Default)]
pub(crate) struct Trail {
    /// The upstream that was asked last.
    pub(crate) asked_last: Cell<Option<usize>>,
    /// The first thing that went wrong.
    failure: Cell<Option<Failure>>,
}

impl Trail {
    /// Something went wrong, whatever a service makes of that.
    pub(crate) fn failed(&self, failure: Failure) {
        self.failure.set(self.failure.get().or(Some(failure)));
    }
}

/// What is said of an exchange that failed.
#[derive(Default)]
struct Asked {
    client: Option<SocketAddr>,
    /// None: a connection that carries no requests.
    request: Option<(Method, Uri)>,
    /// For its record, if there will be one.
    noted: Option<Noted>,
    status: Option<StatusCode>,
    /// The first thing that went wrong.
    failure: Cell<Option<Failure>>,
    /// Why there was no connection to its upstream, if it failed for that.
    why: Option<Unconnected>,
}

/// An exchange under way; it is over when this is dropped. Until something else is said, that means
/// that the client went.
pub(crate) struct Finish {
    pub(crate) site: Rc<Site>,
    pub(crate) pulse: Rc<Pulse>,
    pub(crate) exchange: Option<Exchange>,
    visit: Visit,
    /// Of a way through services.
    trail: Option<Rc<Trail>>,
    began: Instant,
    head: Option<Duration>,
    how: Ended,
    /// How it ends if all of the response is delivered.
    whole: Ended,
    /// The request's body, if it has one.
    upload: Option<Rc<Progress>>,
    /// Why it was ended, if the client was too slow.
    slow: Option<Failure>,
    delivered: bool,
    asked: Asked,
    /// Bytes of the response's body that left.
    sent: Cell<u64>,
    /// The connection whose bytes it is about, and what it had received and sent before.
    carried: Option<(Arc<Traffic>, [u64; 2])>,
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
            trail: None,
            began,
            head: None,
            how,
            whole,
            upload: None,
            slow: None,
            delivered: false,
            asked: Asked::default(),
            sent: Cell::new(0),
            carried: None,
        }
    }

    /// Who asks, and for what, as it is said if it fails. `request`: none of a connection that
    /// carries no requests.
    pub(crate) fn asks(&mut self, client: SocketAddr, request: Option<(Method, Uri)>) {
        self.asked.client = Some(client);
        self.asked.request = request;
    }

    /// What its record will say beside that.
    pub(crate) fn notes(&mut self, noted: Noted) {
        self.asked.noted = Some(noted);
    }

    /// From now on it is about the bytes of a connection.
    pub(crate) fn carries(&mut self, connection: &Arc<Traffic>) {
        self.carried = Some((Arc::clone(connection), connection.get()));
    }

    /// The request has a body.
    pub(crate) fn uploads(&mut self, progress: Rc<Progress>) {
        self.upload = Some(progress);
    }

    /// Whether what is left of the request's body is read when nobody wants it, as is known when
    /// the response's head leaves. `expects`: the client waits to be told to continue, so it may
    /// send nothing of a body of which nothing came.
    pub(crate) fn reads_rest(&self, http1: bool, expects: bool, status: http::StatusCode) -> bool {
        let Some(upload) = &self.upload else { return true };
        if http1 {
            return upload.has_at_most(LINGER_BYTES) && (upload.has_begun() || !expects);
        }
        // curl 7 reads nothing any more when it has the whole response, but sends, unless that is
        // an error: then what is left must fit into the window that it has by now, or it waits for
        // good.
        status.as_u16() >= 400 || upload.has_at_most(STREAM_WINDOW as usize / 2)
    }

    /// What is left of the request's body is not read.
    pub(crate) fn reads_no_rest(&self) {
        if let Some(upload) = &self.upload {
            upload.cut();
            self.pulse.unread_bodies.forget(upload);
        }
    }

    /// A piece of the response leaves, with so many bytes of its body.
    pub(crate) fn moved(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
        self.pulse.moved();
        if let Some(upload) = &self.upload {
            upload.moved();
        }
    }

    /// This upstream has it now.
    pub(crate) fn at(&mut self, upstream: &Rc<Upstream>) {
        self.visit.at(upstream);
    }

    /// It goes through services.
    pub(crate) fn travels(&mut self) -> Rc<Trail> {
        Rc::clone(self.trail.get_or_insert_default())
    }

    /// A response's head leaves.
    pub(crate) fn answered(&mut self, status: http::StatusCode) {
        let time = self.began.elapsed();
        self.head = Some(time);
        self.asked.status = Some(status);
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
    pub(crate) fn passed(&mut self, ended: Option<&Result<(), Halt>>) {
        match ended {
            Some(Ok(())) => return self.delivered(),
            Some(Err(Halt::Client(_))) => self.failed(Failure::ClientGone),
            Some(Err(Halt::Upstream(error))) => {
                self.failed(Failure::Broken);
                if let Some(upstream) = &self.visit.0 {
                    let alerted = tls::alert(error).is_some();
                    let failure = if alerted { Failure::Tls } else { Failure::Broken };
                    upstream.counters.failures.count(failure);
                }
            }
            Some(Err(Halt::Idle)) => self.failed(Failure::Idle),
            Some(Err(Halt::Function)) => self.failed(Failure::Function),
            None => (),
        }
        self.ends(Ended::Reset);
    }

    /// Something went wrong.
    pub(crate) fn failed(&self, failure: Failure) {
        self.site.counters.failures.count(failure);
        self.asked.failure.set(self.asked.failure.get().or(Some(failure)));
    }

    /// There was no connection to its upstream.
    pub(crate) fn not_connected(&mut self, why: Unconnected) {
        self.asked.why = Some(why);
    }

    /// Says what failed: some in the log of everybody, all in that of who looks closely.
    #[cold]
    fn tell(&self, failure: Failure) {
        let Asked { client: Some(client), request, status, why, .. } = &self.asked else {
            return;
        };
        let mut line = Line {
            listener: &self.site.plan.config.name,
            client: *client,
            method: request.as_ref().map_or("-", |(method, _)| shown(method.as_str())),
            // What a client asks for beside the path is nobody else's.
            path: request.as_ref().map_or("-", |(_, uri)| shown(uri.path())),
            status: status.map_or(0, |status| status.as_u16()),
            reason: failure.name(),
            upstream: self.visit.0.as_ref().map(|upstream| upstream.address),
            why: why.as_ref().map(|why| &why.error as _),
            milliseconds: Some(self.began.elapsed().as_millis()),
            left_out: 0,
        };
        // That clients go is nothing to look after.
        let said = failure != Failure::ClientGone && {
            let left_out = self.site.lines.say(Instant::now());
            line.left_out = left_out.unwrap_or_default();
            left_out.is_some()
        };
        if said {
            tracing::info!("{line}");
        } else {
            tracing::debug!("{line}");
        }
    }

    /// Writes down that it is over.
    fn record(&self, records: &Records, upstream: Option<usize>, failure: Option<Failure>) {
        let Asked { client: Some(client), request, noted, status, .. } = &self.asked else {
            return;
        };
        let upstreams = &self.site.plan.config.upstreams;
        let [received, sent] = match &self.carried {
            Some((traffic, before)) => {
                let now = traffic.get();
                [now[0] - before[0], now[1] - before[1]]
            }
            None => [self.upload.as_ref().map_or(0, |upload| upload.received()), self.sent.get()],
        };
        let seconds = |time: Duration| time.as_micros() as f64 / 1e6;
        let requested = request.as_ref().zip(noted.as_ref());
        records.write(&Record {
            time: record::now(),
            listener: &self.site.plan.config.name,
            client: *client,
            request: requested.map(|((method, uri), noted)| noted.requested(method, uri)),
            status: status.map(|status| status.as_u16()),
            received,
            sent,
            seconds: seconds(self.began.elapsed()),
            head_seconds: self.head.map(seconds),
            upstream: match &self.visit.0 {
                Some(upstream) => Some(upstream.address.to_string()),
                None => upstream.and_then(|at| Some(upstreams.get(at)?.address.to_string())),
            },
            ended: record::ended(self.how),
            failure: failure.map(Failure::name),
            error: None,
        });
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

    /// It ends because the client does not take the response, or does not send the rest of its
    /// request.
    pub(crate) fn slow(&mut self, why: Failure) {
        self.slow = Some(why);
    }

    /// The client must see that something is missing.
    pub(crate) fn cut(&self) {
        self.pulse.cut.set(true);
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let visited = self.visit.0.as_ref().map(|upstream| upstream.index);
        let upstream = visited.or_else(|| self.trail.as_ref()?.asked_last.get());
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
            let stalled = self.pulse.stalled.get().then_some(Failure::ClientSlow);
            self.failed(self.slow.or(stalled).unwrap_or(Failure::ClientGone));
        }
        let on_its_way = self.trail.as_ref().and_then(|trail| trail.failure.get());
        let failure = on_its_way.or(self.asked.failure.get());
        if let Some(failure) = failure {
            self.tell(failure);
        }
        if let Some(records) = &self.site.records {
            self.record(records, upstream, failure);
        }
        self.visit.leave();
        if let Some(exchange) = self.exchange.take() {
            exchange.end(self.how, upstream, self.head.unwrap_or_else(|| self.began.elapsed()));
        }
    }
}
