//! The keeper: a thread beside the gateway's own that looks at upstreams and at the files of
//! certificates, once for all threads.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use std::{io, thread};

use futures_util::future::join_all;
use http::{Request, StatusCode};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet};

use crate::config::{HealthCheck, Target};
use crate::http::request_body::RequestBody;
use crate::http::rules;
use crate::listen::listener::Plan;
use crate::listen::thread::LocalExecutor;
use crate::observe::counters::Traffic;
use crate::observe::statistics::FAILURES;
use crate::tls::FromFiles;
use crate::upstream::dial::{Route, Told};
use crate::upstream::members::{List, Member, Members};

/// Between two looks at the files of certificates.
const FILES: Duration = Duration::from_secs(3);

/// What the keeper is told.
pub(crate) enum Errand {
    /// Look after this plan, instead of the one of the same name before it.
    Keep(Arc<Plan>),
    /// Look these names up, and say when it is done.
    LookUp(Vec<Arc<Members>>, SyncSender<()>),
    /// No more.
    Forget(String),
    /// The end.
    Stop,
}

/// The keeper's thread and the way to tell it something.
pub(crate) struct Keeper {
    pub(crate) errands: mpsc::UnboundedSender<Errand>,
    pub(crate) thread: Option<thread::JoinHandle<()>>,
}

impl Keeper {
    /// Starts it.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (errands, receiver) = mpsc::unbounded_channel();
        let thread = thread::Builder::new().name("gateway-keeper".to_owned()).spawn(move || {
            LocalSet::new().block_on(&runtime, run(receiver));
            // A name that is being looked up may take its time: nobody waits for that.
            runtime.shutdown_background();
        })?;
        Ok(Self { errands, thread: Some(thread) })
    }
}

async fn run(mut errands: mpsc::UnboundedReceiver<Errand>) {
    let mut kept: HashMap<String, Vec<JoinHandle<()>>> = HashMap::new();
    while let Some(errand) = errands.recv().await {
        let (name, tasks) = match errand {
            Errand::Keep(plan) => (plan.config.name.clone(), keep(&plan)),
            Errand::LookUp(members, answer) => {
                tokio::task::spawn_local(async move {
                    join_all(members.iter().map(|members| members.look_up())).await;
                    // Whoever asked may have gone on.
                    let _ = answer.try_send(());
                });
                continue;
            }
            Errand::Forget(name) => (name, Vec::new()),
            Errand::Stop => return,
        };
        for task in kept.remove(&name).into_iter().flatten() {
            task.abort();
        }
        if !tasks.is_empty() {
            kept.insert(name, tasks);
        }
    }
}

fn keep(plan: &Plan) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    let files: Vec<_> = plan.files().collect();
    if !files.is_empty() {
        tasks.push(tokio::task::spawn_local(watch_files(files)));
    }
    for (route, members) in plan.routes.iter().zip(&plan.members) {
        if let Target::Name { .. } = members.target {
            let kept = Arc::clone(members).keep_up(plan.config.resolve);
            tasks.push(tokio::task::spawn_local(kept));
        }
        if let Some(check) = &plan.config.health {
            let upstream = (Arc::clone(route), plan.told_of_own());
            let all = look_after_all(upstream, members.watch(), check.clone());
            tasks.push(tokio::task::spawn_local(all));
        } else {
            for member in members.watch().borrow().iter() {
                member.standing.well();
            }
        }
    }
    tasks
}

/// A task that ends with whoever has this.
struct Ends(JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Looks at all members of an upstream, whoever they are.
async fn look_after_all(
    (route, told): (Arc<Route>, Told),
    mut members: watch::Receiver<List>,
    check: HealthCheck,
) {
    let mut looked: HashMap<SocketAddr, Ends> = HashMap::new();
    loop {
        let list = members.borrow_and_update().clone();
        looked.retain(|address, _| list.iter().any(|member| member.address == *address));
        for member in list {
            looked.entry(member.address).or_insert_with(|| {
                let looking = look_after(Arc::clone(&route), told, member, check.clone());
                Ends(tokio::task::spawn_local(looking))
            });
        }
        if members.changed().await.is_err() {
            return;
        }
    }
}

/// Reads certificates again when their files change, and while the last reading failed.
async fn watch_files(all: Vec<Arc<dyn FromFiles>>) {
    let mut told = vec![None; all.len()];
    loop {
        tokio::time::sleep(FILES).await;
        for (files, told) in all.iter().zip(&mut told) {
            if files.stale() {
                // What is wrong is kept with the files.
                let _ = files.reload();
            }
            let problem = files.problem();
            if problem == *told {
                continue;
            }
            match &problem {
                Some(error) => tracing::error!(%error, "certificates stay those they were"),
                None => tracing::info!("certificates that were not taken before are taken now"),
            }
            *told = problem;
        }
    }
}

/// Looks at an upstream, again and again.
async fn look_after(route: Arc<Route>, told: Told, member: Arc<Member>, check: HealthCheck) {
    let (mut good, mut bad) = (0, 0);
    let Member { address, standing, .. } = &*member;
    loop {
        let looked = tokio::time::timeout(check.timeout, look(&route, told, *address, &check));
        let looked = looked.await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        match looked {
            Ok(()) => {
                (good, bad) = (good + 1, 0);
                if good == check.healthy {
                    standing.well();
                }
            }
            Err(why) => {
                (good, bad) = (0, bad + 1);
                if bad >= check.unhealthy {
                    standing.ill(bad, &why);
                }
            }
        }
        tokio::time::sleep(check.interval).await;
    }
}

/// Looks at an upstream.
///
/// # Errors
/// Why it is not well.
async fn look(
    route: &Route,
    told: Told,
    address: SocketAddr,
    check: &HealthCheck,
) -> Result<(), String> {
    let traffic = Arc::new(Traffic::default());
    let connected = route.connect(address, told, &traffic, check.timeout, check.timeout).await;
    let stream = connected.map_err(|why| {
        let (_, name) = FAILURES[why.failure as usize];
        format!("{name}: {why}")
    })?;
    let Some(path) = &check.path else { return Ok(()) };
    let host = check.host.clone().unwrap_or_else(|| route.config.address.to_string());
    let request = Request::get(path.as_str()).header("host", &host).body(RequestBody::Empty);
    let mut request = request.map_err(|error| error.to_string())?;
    let host = http::HeaderValue::from_str(&host).map_err(|error| error.to_string())?;
    rules::address(&mut request, route.config.http2, route.config.tls.is_some(), &host);
    let stream = TokioIo::new(stream);
    let status = if route.config.http2 {
        let begun = http2::handshake(LocalExecutor, stream).await;
        let (mut sender, connection) = begun.map_err(|error| error.to_string())?;
        status(connection, sender.send_request(request)).await
    } else {
        let begun = http1::handshake(stream).await;
        let (mut sender, connection) = begun.map_err(|error| error.to_string())?;
        status(connection, sender.send_request(request)).await
    };
    match status {
        Ok(status) if status.as_u16() < 400 => Ok(()),
        Ok(status) => Err(format!("status {}", status.as_u16())),
        Err(error) => Err(error.to_string()),
    }
}

/// Drives a connection until its response is there.
async fn status<B>(
    connection: impl Future,
    response: impl Future<Output = hyper::Result<http::Response<B>>>,
) -> hyper::Result<StatusCode> {
    let (mut connection, mut response) = (pin!(connection), pin!(response));
    let mut over = false;
    let response = poll_fn(|cx| {
        over = over || connection.as_mut().poll(cx).is_ready();
        response.as_mut().poll(cx)
    });
    Ok(response.await?.status())
}
