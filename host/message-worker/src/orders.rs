//! What the host orders a worker's chain to do, and what the worker says about it. Files go along
//! by number.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_message::{Change, Notice};
use weir_sandbox::{Admitted, TelemetryReport};

/// A site ([`weir_message::SiteConfig`]) for another process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SiteImage {
    /// Rooms of its pool.
    pub rooms: u32,
    /// Bytes of each.
    pub room_bytes: u32,
    /// Bytes of a body that functions may hold back.
    pub hold: usize,
    /// Names of the upstreams.
    pub names: Vec<String>,
    /// Seed for hashes.
    pub seed: u64,
}

/// A function's plan ([`weir_message::FunctionPlan`]) for another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FunctionImage {
    /// Its name in the chain.
    pub name: String,
    /// Its version, for reports.
    pub version: String,
    /// [`Admitted::hash`] of its component: faults name it, so that the host finds their lines of
    /// source.
    pub hash: [u8; 32],
    /// The component, which is known for as long as it is here.
    #[serde(skip)]
    pub admitted: Option<Arc<Admitted>>,
    /// Whether it is for connections, not for messages.
    pub connection: bool,
    /// Whether it exports `snapshot`.
    pub saves: bool,
    /// Bytes of linear memory it is instantiated with.
    pub memory_at_start: u64,
    /// Whether it may write to messages.
    pub writes: bool,
    /// Bytes of linear memory.
    pub memory: usize,
    /// Nanoseconds of CPU time for an event.
    pub deadline: u64,
    /// Whether it is passed by when it is out of order.
    pub fails_open: bool,
    /// Bytes of its state region.
    pub state_bytes: usize,
    /// Its layout.
    pub state_layout: String,
    /// Its configuration.
    pub config: String,
    /// Machine code.
    #[serde(skip)]
    pub code: Option<Arc<OwnedFd>>,
    /// The state region to go on with.
    #[serde(skip)]
    pub state: Option<Arc<OwnedFd>>,
    /// An empty one.
    #[serde(skip)]
    pub blank: Option<Arc<OwnedFd>>,
    /// What a component of wasi:http has beside.
    pub proxy: Option<ProxyImage>,
    /// Which of the three there are: the worker takes them in this order.
    pub files: [bool; 3],
}

/// The limits of a component of wasi:http ([`weir_proxy_function::ProxyConfig`]) for another
/// process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxyImage {
    /// Nanoseconds for an exchange.
    pub timeout: u64,
    /// Most instances at a time.
    pub instances: u32,
    /// Most requests that one serves.
    pub requests_per_instance: u32,
    /// Nanoseconds for which one that serves nobody is kept.
    pub instance_idle: u64,
}

impl FunctionImage {
    pub(crate) fn with_files(mut self) -> Self {
        self.files = [self.code.is_some(), self.state.is_some(), self.blank.is_some()];
        self
    }

    pub(crate) fn fds(&self) -> impl Iterator<Item = Arc<OwnedFd>> {
        [&self.code, &self.state, &self.blank].into_iter().flatten().cloned()
    }

    pub(crate) fn take_files(&mut self, files: &mut impl Iterator<Item = OwnedFd>) {
        let mut next = |there: bool| if there { files.next().map(Arc::new) } else { None };
        let [code, state, blank] = self.files;
        (self.code, self.state, self.blank) = (next(code), next(state), next(blank));
    }
}

/// An order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// The first one: a site and the chain on it.
    Begin {
        /// The chain's name.
        chain: String,
        /// The site.
        site: SiteImage,
        /// Functions, in order.
        functions: Vec<FunctionImage>,
    },
    /// Make another chain ready.
    StageChain(Vec<FunctionImage>),
    /// Make another version of a function ready.
    StageFunction {
        /// The function.
        function: FunctionImage,
        /// It only shadows.
        shadow: bool,
    },
    /// Change the chain.
    Change(Change),
    /// Let go what is ready.
    Forget,
    /// What was counted and said.
    Report,
}

impl Order {
    fn images(&self) -> &[FunctionImage] {
        match self {
            Self::Begin { functions, .. } | Self::StageChain(functions) => functions,
            Self::StageFunction { function, .. } => std::slice::from_ref(function),
            _ => &[],
        }
    }

    fn images_mut(&mut self) -> &mut [FunctionImage] {
        match self {
            Self::Begin { functions, .. } | Self::StageChain(functions) => functions,
            Self::StageFunction { function, .. } => std::slice::from_mut(function),
            _ => &mut [],
        }
    }

    pub(crate) fn fds(&self) -> Vec<Arc<OwnedFd>> {
        self.images().iter().flat_map(FunctionImage::fds).collect()
    }

    pub(crate) fn with_files(mut self) -> Self {
        for image in self.images_mut() {
            *image = image.clone().with_files();
        }
        self
    }

    pub(crate) fn take_files(&mut self, files: Vec<OwnedFd>) {
        let mut files = files.into_iter();
        self.images_mut().iter_mut().for_each(|image| image.take_files(&mut files));
    }
}

/// What was counted and said since the last report.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// By function: what [`weir_message::FunctionCounters::take`] gave, and what it said; a
    /// shadow's under its own name.
    pub functions: BTreeMap<String, (Vec<u64>, TelemetryReport)>,
    /// Times for which there was no room.
    pub exhausted: u64,
    /// Rooms of the pool: all, free, out.
    pub rooms: [u32; 3],
    /// What a trial has found: events, other actions, other bytes.
    pub found: [u64; 3],
    /// Differences.
    pub samples: Vec<String>,
}

/// What became of an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// Ready, or the chain has begun: functions that go on with their state regions.
    Staged(Vec<String>),
    /// [`Order::Report`]
    Report(Box<Report>),
    /// A function did not take its configuration.
    Configuration(String, String),
    /// A trial stands in the way, or there is none.
    Conflict(String),
    /// Anything else.
    Refused(String),
}

/// [`News::kind`] of the worker's own death.
pub const WORKER: &str = "worker";

/// [`News::kind`] of a trial that a worker which was started again does not go on with: it is over.
pub const TRIAL: &str = "trial";

/// What an operator should hear of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct News {
    /// The function.
    pub function: String,
    /// Its version.
    pub version: String,
    /// The name of the kind of fault ([`weir_sandbox::FaultKind::name`]), [`WORKER`] or [`TRIAL`].
    pub kind: String,
    /// What happened.
    pub message: String,
    /// Whether what it replaced is back.
    pub rolled_back: bool,
    /// Whether it has faulted too often, and is not called any more.
    pub quarantined: bool,
}

impl From<Notice> for News {
    fn from(notice: Notice) -> Self {
        let (function, version, fault, rolled_back, quarantined) = match notice {
            Notice::Fault { function, version, fault, quarantined } => {
                (function, version, fault, false, quarantined)
            }
            Notice::RolledBack { function, version, fault } => {
                (function, version, fault, true, false)
            }
        };
        let (kind, message) = (fault.kind.name().to_owned(), fault.message);
        Self { function, version, kind, message, rolled_back, quarantined }
    }
}

/// What a worker says on its control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    Reply(Reply),
    News(News),
    /// It is not shut in by these layers.
    Without(String),
}
