//! Where instances are made when there are more of them than memories that are used again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use weir_exchange::{CallFault, CallResult, Environment, Onward, Origin, Pieces, Stream};
use weir_proxy_function::{GuestEnd, How, LinkedProxy, ProxyConfig, ProxyFunction, Runners};
use weir_sandbox::{FaultKind, Sandbox, SandboxConfig, Telemetry};
use weir_tests::built::built_file;

/// The thread that asks; nothing is called, and nothing sent on.
struct Alone;

impl Environment for Alone {
    fn call(
        &self,
        _: usize,
        _: Request<Pieces>,
        _: Duration,
        _: usize,
    ) -> LocalBoxFuture<'static, CallResult> {
        unreachable!("it calls nobody")
    }

    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()> {
        tokio::time::sleep(time).boxed_local()
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(task);
    }
}

impl Onward for Alone {
    fn send(
        &self,
        _: Request<Stream>,
        _: Option<usize>,
    ) -> LocalBoxFuture<'static, Result<Response<Stream>, CallFault>> {
        unreachable!("it sends nothing on")
    }
}

fn function(places: bool, telemetry: &Arc<Telemetry>) -> Arc<ProxyFunction> {
    let config = SandboxConfig { service_memories: Some(1), ..SandboxConfig::default() };
    let sandbox = Arc::new(Sandbox::new(config).unwrap());
    let admitted = sandbox.admit(&fs::read(built_file("proxy-probe")).unwrap()).unwrap();
    let mut components = sandbox.service_places(&admitted.component, admitted.hash).unwrap();
    assert_eq!(components.len(), 2);
    components.truncate(if places { 2 } else { 1 });
    let config = ProxyConfig {
        name: "probe".into(),
        hash: admitted.hash,
        memory_at_start: admitted.memory_at_start,
        memory: 16 << 20,
        deadline: Duration::from_millis(100),
        timeout: Duration::from_secs(30),
        instances: 64,
        requests_per_instance: 1,
        instance_idle: Duration::from_secs(1),
        config: "{}".into(),
        upstreams: Vec::new(),
        telemetry: Arc::clone(telemetry),
    };
    let linked = LinkedProxy::new(config, &components, Duration::ZERO).unwrap();
    ProxyFunction::new(linked, &sandbox, Arc::new(Runners::start(1).unwrap())).unwrap()
}

/// Asks for a path: the status, if there is a response, and how the guest ended.
async fn ask(function: &Arc<ProxyFunction>, path: &'static str) -> (Option<u16>, Option<GuestEnd>) {
    let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
    let (client, local) = (address, address);
    let origin = Origin { client, local, tls: false, server_name: None, upgrade: false };
    let body: Stream = Box::pin(Empty::<Bytes>::new().map_err(|never| match never {}));
    let request = Request::get(path).header("host", "probe").body(body).unwrap();
    let serving = function.serve(request, &origin, false, Rc::new(Alone), Rc::new(Alone));
    let (head, ended) = tokio::join!(
        async {
            let response = serving.head.await.ok()?;
            let status = response.status().as_u16();
            response.into_body().collect().await.ok()?;
            Some(status)
        },
        serving.ended
    );
    (head, ended)
}

fn on_one_thread<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

#[test]
fn when_memories_that_are_used_again_are_taken_there_are_others() {
    let telemetry = Arc::default();
    let function = function(true, &telemetry);
    on_one_thread(async {
        // Two that stay: the first one in the only such memory.
        let staying = [Arc::clone(&function), Arc::clone(&function)];
        let staying = staying.map(|function| {
            tokio::task::spawn_local(async move { ask(&function, "/sleep").await })
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(ask(&function, "/answer").await.0, Some(200));
        // There, too, deadlines and memory have limits.
        let fault = |ended: Option<GuestEnd>| match ended.unwrap().how {
            Some(How::Fault(fault)) => fault.kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault(ask(&function, "/spin").await.1), FaultKind::Deadline);
        assert_eq!(fault(ask(&function, "/memory").await.1), FaultKind::Memory);
        assert_eq!(ask(&function, "/error").await.0, None);
        let said = telemetry.lines().0;
        let last = said.last().map(|line| line.message.as_str());
        assert_eq!(
            last,
            Some("it gave no response: it answered with an error: ErrorCode::LoopDetected")
        );
        assert_eq!(ask(&function, "/answer").await.0, Some(200));
        assert!(staying.iter().all(|task| !task.is_finished()));
        staying.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

#[test]
fn without_others_it_is_said_that_there_is_no_room() {
    let function = function(false, &Arc::default());
    on_one_thread(async {
        let first = Arc::clone(&function);
        let staying = tokio::task::spawn_local(async move { ask(&first, "/sleep").await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (status, ended) = ask(&function, "/answer").await;
        assert_eq!(status, None);
        assert!(matches!(ended.unwrap().how, Some(How::Full)));
        staying.abort();
        drop(staying.await);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(ask(&function, "/answer").await.0, Some(200));
    });
}
