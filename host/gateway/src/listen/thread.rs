//! A gateway thread: a runtime of its own, the sockets it accepts from, and what it is told to do.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use std::{io, thread};

use hyper::rt::Executor;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::Instant;

use crate::chain::Stage;
use crate::http::response_buffers::ResponseBuffers;
use crate::listen::accept;
use crate::listen::listener::{Listener, Plan, Site, ThreadCounters};

/// While connections are drained, it is looked so often whether there are any left.
const LOOK: Duration = Duration::from_millis(10);

/// Runs hyper's tasks on the thread that has the connection.
#[derive(Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// What a thread is told.
pub(crate) enum Command {
    /// A new listener, or a new plan for one. The answer is what keeps it from being followed.
    Set {
        plan: Arc<Plan>,
        stage: Option<Stage>,
        counters: ThreadCounters,
        /// Sockets that are not there yet.
        sockets: Vec<(SocketAddr, TcpListener)>,
        answer: SyncSender<Result<(), String>>,
    },
    /// No more of this listener; its connections end when they have done what they are doing, or
    /// when the time has come.
    Remove { name: String, deadline: Instant, closed: SyncSender<()>, ended: SyncSender<()> },
    /// The end: all connections are cut off.
    Stop,
}

/// A thread and the way to tell it something.
pub(crate) struct Handle {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) thread: Option<thread::JoinHandle<()>>,
}

impl Handle {
    /// Starts a thread. `response_buffers`: bytes, as
    /// [`GatewayConfig`](crate::config::GatewayConfig) has them.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn start(number: usize, response_buffers: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let name = format!("gateway-{number}");
        let thread = thread::Builder::new().name(name).spawn(move || {
            LocalSet::new().block_on(&runtime, run(receiver, response_buffers));
        })?;
        Ok(Self { commands, thread: Some(thread) })
    }
}

/// A listener with the tasks that accept for it.
struct Running {
    listener: Rc<Listener>,
    sockets: HashMap<SocketAddr, JoinHandle<()>>,
}

impl Running {
    /// Accepts no more at addresses that are not to be kept. A socket is closed when its task has
    /// ended.
    fn close(&mut self, keep: &[SocketAddr]) -> Vec<JoinHandle<()>> {
        let closed = self.sockets.extract_if(|address, task| {
            let stays = keep.contains(address);
            if !stays {
                task.abort();
            }
            !stays
        });
        closed.map(|(_, task)| task).collect()
    }
}

async fn run(mut commands: mpsc::UnboundedReceiver<Command>, response_buffers: usize) {
    let buffers = ResponseBuffers::new(response_buffers);
    let listeners: RefCell<HashMap<String, Running>> = RefCell::default();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Set { plan, stage, counters, sockets, answer } => {
                let site = Site::new(Arc::clone(&plan), stage, counters);
                let set = site.and_then(|site| {
                    set(&mut listeners.borrow_mut(), &buffers, &plan, site, sockets)
                });
                let set = match set {
                    Ok(closed) => {
                        wait_for(closed).await;
                        Ok(())
                    }
                    Err(what) => Err(what),
                };
                // Whoever asked may have given up.
                let _ = answer.send(set);
            }
            Command::Remove { name, deadline, closed, ended } => {
                let mut removed = listeners.borrow_mut().remove(&name);
                wait_for(removed.as_mut().map(|r| r.close(&[])).unwrap_or_default()).await;
                let _ = closed.send(());
                tokio::task::spawn_local(async move {
                    if let Some(running) = removed {
                        drain(&running.listener, deadline).await;
                    }
                    let _ = ended.send(());
                });
            }
            Command::Stop => break,
        }
    }
    for running in listeners.borrow_mut().values_mut() {
        drop(running.close(&[]));
        running.listener.drain(true);
    }
    tokio::task::yield_now().await;
}

/// Puts a plan to work. Answers with the tasks of sockets that are to be closed.
fn set(
    listeners: &mut HashMap<String, Running>,
    buffers: &Rc<ResponseBuffers>,
    plan: &Plan,
    site: Rc<Site>,
    sockets: Vec<(SocketAddr, TcpListener)>,
) -> Result<Vec<JoinHandle<()>>, String> {
    let mut opened = Vec::new();
    for (address, socket) in sockets {
        let socket =
            tokio::net::TcpListener::from_std(socket).map_err(|error| error.to_string())?;
        opened.push((address, socket));
    }
    let running = listeners.entry(plan.config.name.clone()).or_insert_with(|| Running {
        listener: Listener::new(Rc::clone(&site), Rc::clone(buffers)),
        sockets: HashMap::new(),
    });
    running.listener.follow(site);
    let closed = running.close(&plan.config.addresses);
    for (address, socket) in opened {
        let accepting = accept::run(Rc::clone(&running.listener), socket);
        running.sockets.insert(address, tokio::task::spawn_local(accepting));
    }
    Ok(closed)
}

/// Waits until sockets are closed whose tasks were told to end.
async fn wait_for(closed: Vec<JoinHandle<()>>) {
    for task in closed {
        // It was cut off, which is an error.
        let _ = task.await;
    }
}

async fn drain(listener: &Listener, deadline: Instant) {
    listener.drain(false);
    while listener.clients() > 0 && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
    if listener.clients() > 0 {
        listener.drain(true);
        tokio::task::yield_now().await;
    }
}
