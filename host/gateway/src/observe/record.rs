//! What is written down of a request, or of a connection that carries none, when it is over.
//!
//! Owns: its form, and a thread's lines that wait to be handed over to the [`Journal`].

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, REFERER, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri, Version, request};
use serde::Serialize;
use tokio::sync::Notify;

use crate::chain::Ended;
use crate::observe::request_log::Journal;

/// Bytes of lines that are handed over at once.
const BATCH: usize = 32 * 1024;
/// How long lines wait for others.
const WAIT: Duration = Duration::from_secs(1);

/// One line: an object with these keys. What is not known, or is not there, is left out.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Record<'a> {
    /// When it ended, UTC (RFC 3339).
    pub(crate) time: String,
    pub(crate) listener: &'a str,
    pub(crate) client: SocketAddr,
    /// As the client asked, before functions.
    #[serde(flatten)]
    pub(crate) request: Option<Requested<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    /// Bytes from the client: of the request's body, or of the connection.
    pub(crate) received: u64,
    /// Bytes to the client.
    pub(crate) sent: u64,
    pub(crate) seconds: f64,
    /// Until the response's head left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) head_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<String>,
    /// How it ended, as functions are told.
    pub(crate) ended: &'static str,
    /// What went wrong first, as metrics name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<&'static str>,
    /// Of a request that could not be read: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// What was asked for.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Requested<'a> {
    method: &'a str,
    target: &'a str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<Cow<'a, str>>,
}

/// Fields of a request's head that are kept for its record alone.
pub(crate) struct Noted {
    version: Version,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
}

impl Noted {
    pub(crate) fn of(parts: &request::Parts) -> Self {
        let get = |name| parts.headers.get(name).cloned();
        Self {
            version: parts.version,
            host: get(HOST),
            user_agent: get(USER_AGENT),
            referer: get(REFERER),
        }
    }

    /// The record's part about a request of these.
    pub(crate) fn requested<'a>(&'a self, method: &'a Method, uri: &'a Uri) -> Requested<'a> {
        let text = |value: &'a Option<HeaderValue>| {
            value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()))
        };
        let authority = uri.authority().map(|authority| Cow::Borrowed(authority.as_str()));
        Requested {
            method: method.as_str(),
            target: uri.path_and_query().map_or("", PathAndQuery::as_str),
            protocol: match self.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_11 => "HTTP/1.1",
                _ => "HTTP/1.0",
            },
            host: authority.or_else(|| text(&self.host)),
            user_agent: text(&self.user_agent),
            referer: text(&self.referer),
        }
    }
}

/// Now, as records say it.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string()
}

/// How it ended, as records say it.
pub(crate) fn ended(how: Ended) -> &'static str {
    match how {
        Ended::Delivered => "delivered",
        Ended::ClientGone => "client-gone",
        Ended::UpstreamFailed => "upstream-failed",
        Ended::Answered => "answered",
        Ended::Reset => "reset",
    }
}

/// A thread's lines for a journal.
pub(crate) struct Records(Rc<Inner>);

struct Inner {
    journal: Arc<Journal>,
    lines: RefCell<Vec<u8>>,
    count: Cell<u64>,
    /// There is a first one, or none will come.
    first: Rc<Notify>,
}

impl Records {
    /// To be called on a thread of the gateway, which hands lines over from then on.
    pub(crate) fn new(journal: Arc<Journal>) -> Self {
        let first = Rc::new(Notify::new());
        let (lines, count) = (RefCell::default(), Cell::new(0));
        let inner = Rc::new(Inner { journal, lines, count, first: Rc::clone(&first) });
        let weak = Rc::downgrade(&inner);
        tokio::task::spawn_local(async move {
            loop {
                first.notified().await;
                tokio::time::sleep(WAIT).await;
                let Some(inner) = weak.upgrade() else { return };
                inner.hand_over();
            }
        });
        Self(inner)
    }

    /// One is over.
    pub(crate) fn write(&self, record: &Record<'_>) {
        let Inner { lines, count, first, .. } = &*self.0;
        let length = {
            let lines = &mut *lines.borrow_mut();
            // Text and numbers, to memory: there is nothing that could fail.
            if serde_json::to_writer(&mut *lines, record).is_err() {
                return;
            }
            lines.push(b'\n');
            lines.len()
        };
        count.set(count.get() + 1);
        if length >= BATCH {
            self.0.hand_over();
        } else if count.get() == 1 {
            first.notify_one();
        }
    }
}

impl Inner {
    fn hand_over(&self) {
        let count = self.count.take();
        if count > 0 {
            self.journal.write(self.lines.take(), count);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hand_over();
        self.first.notify_one();
    }
}
