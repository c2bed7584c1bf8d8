//! The worker: a chain of message functions, shut in, with nothing but rings and a control socket.
//!
//! The first thread is an event loop of its own: what comes by the hop, tasks, timers. A runtime
//! would need files and sockets that a worker may not make. A second thread carries out orders,
//! which may take long.

mod line;
mod obey;
mod services;
mod serving;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use weir_hop::{Inherited, Limits};
use weir_message::{Orders, Remote, Site, SiteConfig, StoreRequest, Values, orders};
use weir_pool::Memory;
use weir_sandbox::{Sandbox, SandboxConfig};

use self::line::{Alarm, Line};
use self::obey::{Ordered, refused};
use self::serving::run;
use crate::control;
use crate::orders::{FromWorker, Order};
use crate::rings::{Rings, Side, Table};

/// What a worker may have open: two files for each state region, and what the engine keeps of each
/// component.
const LIMITS: Limits = Limits { files: 4096, threads: 64 };
/// Questions to the store that wait to be sent.
const QUESTIONS_MAX: usize = 4096;

/// Runs this process as a worker until the gateway is gone. First thing in `main`.
///
/// # Errors
/// When it was not started as one, cannot be shut in, or the gateway breaks off.
pub fn serve() -> Result<(), String> {
    let inherited = Inherited::take().map_err(|error| error.to_string())?;
    let confined = inherited.confine(&LIMITS, &[]).map_err(|error| error.to_string())?;
    let Inherited { end, memories, .. } = inherited;
    let Ok([rings, control]) = <[OwnedFd; 2]>::try_from(memories) else {
        return Err("a worker is given rings and a control socket".into());
    };
    let table = rings.try_clone().map_err(|error| error.to_string())?;
    let open = |fd| Memory::open("rings", fd).map_err(|error| error.to_string());
    let (rings, table) = (open(rings)?, open(table)?);
    let rings = Rings::new(rings, Side::Worker).map_err(|error| error.to_string())?;
    let control = Arc::new(Control { socket: UnixStream::from(control), writing: Mutex::new(()) });
    let missing = confined.missing();
    if !missing.is_empty() {
        control.say(&FromWorker::Without(missing.join(", ")));
    }
    let sandbox = Sandbox::new(SandboxConfig { shut_in: true, ..SandboxConfig::default() })
        .map_err(|error| error.to_string())?;
    let sandbox = Arc::new(sandbox);
    let alarm = Arc::new(Alarm::new().map_err(|error| error.to_string())?);
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let Some(begun) = begin(&control, &sandbox, table, questions)? else { return Ok(()) };
    let line = Rc::new(Line {
        end: RefCell::new(end),
        rings: RefCell::new(rings),
        alarm,
        calls: RefCell::default(),
        next_call: Cell::new(0),
        timers: RefCell::default(),
        spawned: RefCell::default(),
        broken: Cell::new(None),
    });
    run(&line, &control, begun, asked)
}

/// The control socket as both threads write to it.
struct Control {
    socket: UnixStream,
    writing: Mutex<()>,
}

impl Control {
    fn say(&self, what: &FromWorker) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a keeper, the end of the hop comes, too.
        let _ = control::write(&self.socket, what);
    }
}

struct Begun {
    ordered: Ordered,
    staged: weir_message::StagedChain,
    orders: Orders,
    remote: Remote,
    kept: Vec<String>,
    room_bytes: usize,
}

/// Takes the first order. None: it cannot be carried out, and the keeper has been told why.
fn begin(
    control: &Arc<Control>,
    sandbox: &Arc<Sandbox>,
    table: Memory,
    questions: mpsc::Sender<StoreRequest>,
) -> Result<Option<Begun>, String> {
    let (mut order, files) =
        control::read_with::<Order>(&control.socket).map_err(|error| error.to_string())?;
    order.take_files(files);
    let Order::Begin { chain, site, functions } = order else {
        return Err("the first order is to begin".into());
    };
    let room_bytes = site.room_bytes as usize;
    let table = Arc::new(Table::new(table, site.names.len()));
    let config = SiteConfig {
        rooms: site.rooms,
        room_bytes: site.room_bytes,
        hold: site.hold,
        names: site.names,
        seed: site.seed,
    };
    let values = Values::Elsewhere(questions);
    let begun = Site::new(Arc::clone(sandbox), &chain, config, table, values).and_then(|site| {
        let mut ordered = Ordered {
            site,
            sandbox: Arc::clone(sandbox),
            chain,
            tallies: BTreeMap::new(),
            counters: Arc::default(),
            findings: Arc::default(),
            runners: None,
        };
        let (staged, kept) = ordered.stage_chain(functions)?;
        let (remote, orders) = orders();
        Ok(Begun { ordered, staged, orders, remote, kept, room_bytes })
    });
    match begun {
        Ok(begun) => Ok(Some(begun)),
        Err(error) => {
            control.say(&FromWorker::Reply(refused(error)));
            Ok(None)
        }
    }
}
