//! Connections through a function: a client, the gateway with the message plane's own engine, and
//! an upstream, all on the loopback interface, saying what the test says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use weir_gateway::Protocol;
use weir_sandbox::Sandbox;
use weir_spec::ResolvedFunction;

use crate::function::Function;
use crate::listener::{Listener, Run, Started};
use crate::suite::{Arrives, Connection, Expect, Octets, Step};

/// What has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is not to come has not come by then.
const QUIET: Duration = Duration::from_millis(150);
/// As long as the end that follows an event may be on its way.
const SOON: Duration = Duration::from_millis(20);

/// Runs the connections one after the other, and waits for what is expected of counters and gauges.
pub(crate) fn run(
    sandbox: &Arc<Sandbox>,
    function: &Function,
    resolved: &ResolvedFunction,
    connections: &[Connection],
    expect: &Expect,
) -> Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let upstream =
        runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("listening as the upstream")?;
    let started =
        Listener::start(sandbox, function, resolved, Protocol::Tcp, upstream.local_addr()?)?;
    let listener = match started {
        Started::Refused(message, log) => return Ok(Run::Refused(message, log)),
        Started::Failed(message, log) => return Ok(Run::Failed(message, log)),
        Started::Listens(listener) => listener,
    };
    let mut problems = Vec::new();
    for (n, connection) in connections.iter().enumerate() {
        let found = runtime.block_on(pass(listener.address, &upstream, connection))?;
        problems.extend(found.map(|what| format!("connection {}: {what}", n + 1)));
    }
    Ok(Run::Done(listener.finish(problems, expect)))
}

/// Lets both sides say what they are to say, up to the first thing that is not as expected.
async fn pass(
    to: SocketAddr,
    listening: &TcpListener,
    connection: &Connection,
) -> Result<Option<String>> {
    let socket = TcpSocket::new_v4()?;
    let from = connection.from.unwrap_or(Ipv4Addr::LOCALHOST);
    socket.bind((IpAddr::V4(from), 0).into()).with_context(|| format!("a client at {from}"))?;
    let client = match socket.connect(to).await {
        Ok(client) => client,
        // It was ended before the client had heard that it is there.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
            let expected = connection.expect.upstream == Some(false);
            return Ok(
                (!expected).then(|| format!("the client sees the connection's end: {error}"))
            );
        }
        Err(error) => return Err(error).context("connecting to the gateway"),
    };
    let mut sides = Sides { client, upstream: None, listening };
    for (n, step) in connection.steps.iter().enumerate() {
        if let Err(problem) = sides.step(step).await {
            return Ok(Some(format!("step {}: {problem}", n + 1)));
        }
    }
    let last = connection.steps.last().filter(|step| step.ends);
    Ok(sides.end(last, connection.expect.upstream).await.err())
}

/// The two ends of a connection.
struct Sides<'a> {
    client: TcpStream,
    /// None as long as the gateway has not connected to it.
    upstream: Option<TcpStream>,
    listening: &'a TcpListener,
}

/// What a side read.
enum Heard {
    /// So much came.
    Bytes(Vec<u8>),
    /// It ended after this.
    End(Vec<u8>),
}

impl Sides<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        let (sent, from_client) = match (&step.client, &step.upstream) {
            (Some(sent), _) => (sent, true),
            (None, Some(sent)) => (sent, false),
            (None, None) => return Ok(()),
        };
        let sender = if from_client { &mut self.client } else { self.reached(PATIENCE).await? };
        let wrote = sender.write_all(&sent.0).await;
        wrote.map_err(|error| format!("the connection ended before it could be sent: {error}"))?;
        let expected = match &step.arrives {
            Some(Arrives::Something(false)) => None,
            Some(Arrives::These(bytes)) => Some(bytes),
            Some(Arrives::Something(true)) | None if step.ends => None,
            Some(Arrives::Something(true)) | None => Some(sent),
        };
        let whom = if from_client { "the upstream" } else { "the client" };
        match expected {
            Some(expected) => {
                let receiver =
                    if from_client { self.reached(PATIENCE).await? } else { &mut self.client };
                match hear(receiver, expected.0.len(), PATIENCE).await {
                    Heard::Bytes(got) if got == expected.0 => {}
                    Heard::End(got) if got == expected.0 && step.ends => {}
                    Heard::Bytes(got) | Heard::End(got) => {
                        return Err(format!(
                            "{whom}: expected {}, got {}",
                            shown(expected),
                            shown(&Octets(got))
                        ));
                    }
                }
            }
            // The end is looked at when it is due.
            None if step.ends => {}
            None => {
                let receiver = if from_client {
                    self.reached(QUIET).await.ok()
                } else {
                    Some(&mut self.client)
                };
                if let Some(receiver) = receiver {
                    match hear(receiver, usize::MAX, QUIET).await {
                        Heard::Bytes(got) if got.is_empty() => {}
                        Heard::Bytes(got) => {
                            return Err(format!(
                                "{whom}: expected nothing, got {}",
                                shown(&Octets(got))
                            ));
                        }
                        Heard::End(_) => return Err(format!("{whom} sees the connection's end")),
                    }
                }
            }
        }
        Ok(())
    }

    /// The connection's end, by this step if there is one, and whether it ever reached the
    /// upstream.
    async fn end(mut self, last: Option<&Step>, reaches: Option<bool>) -> Result<(), String> {
        if reaches == Some(false) {
            if self.reached(QUIET).await.is_ok() {
                return Err("it was not to reach the upstream, and does".into());
            }
            return ends("the client", &mut self.client).await;
        }
        if reaches == Some(true) {
            self.reached(PATIENCE).await?;
        }
        if last.is_none() {
            if matches!(timeout(SOON, self.client.peek(&mut [0])).await, Ok(Ok(0) | Err(_))) {
                return Err("the client sees the connection's end, and no step says so".into());
            }
            // Without an error: the other side is asked next.
            drop(self.client.shutdown().await);
        }
        // The side that would have got the last step's bytes comes first: it may have got some.
        if last.is_some_and(|step| step.client.is_none()) {
            ends("the client", &mut self.client).await?;
        }
        // The gateway may have connected without anything having been said: the next connection is
        // another one.
        if let Ok(upstream) = self.reached(QUIET).await {
            ends("the upstream", upstream).await?;
            drop(upstream.shutdown().await);
        }
        ends("the client", &mut self.client).await
    }

    /// The upstream's end, if the gateway connects to it in time.
    async fn reached(&mut self, patience: Duration) -> Result<&mut TcpStream, String> {
        if self.upstream.is_none() {
            let late = |_| "the connection has not reached the upstream".to_owned();
            let accepted = timeout(patience, self.listening.accept()).await.map_err(late)?;
            let (stream, _) = accepted.map_err(|error| format!("the upstream: {error}"))?;
            self.upstream = Some(stream);
        }
        Ok(self.upstream.as_mut().expect("it was put there just now"))
    }
}

/// Reads until so many bytes have come, the end has, or time is up.
async fn hear(side: &mut TcpStream, bytes: usize, patience: Duration) -> Heard {
    let mut got = Vec::new();
    let reading = async {
        let mut piece = [0; 4096];
        while got.len() < bytes {
            let room = piece.len().min(bytes - got.len());
            match side.read(&mut piece[..room]).await {
                // A reset is an end, too.
                Ok(0) | Err(_) => return true,
                Ok(n) => got.extend_from_slice(&piece[..n]),
            }
        }
        false
    };
    let over = timeout(patience, reading).await.unwrap_or(false);
    if over { Heard::End(got) } else { Heard::Bytes(got) }
}

/// Nothing more comes but the end.
async fn ends(whom: &str, side: &mut TcpStream) -> Result<(), String> {
    match hear(side, usize::MAX, PATIENCE).await {
        Heard::End(got) if got.is_empty() => Ok(()),
        Heard::End(got) | Heard::Bytes(got) if !got.is_empty() => {
            Err(format!("{whom}: expected nothing more, got {}", shown(&Octets(got))))
        }
        Heard::End(_) | Heard::Bytes(_) => Err(format!("{whom} does not see the connection's end")),
    }
}

/// Bytes as they would be written in the file.
fn shown(Octets(bytes): &Octets) -> String {
    match std::str::from_utf8(bytes) {
        _ if bytes.is_empty() => "nothing".to_owned(),
        Ok(text) => format!("{text:?}"),
        Err(_) => {
            let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{{ hex = \"{}\" }}", digits.join(" "))
        }
    }
}
