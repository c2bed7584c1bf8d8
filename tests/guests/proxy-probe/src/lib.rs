//! A component of the world `wasi:http/proxy`, written against the crate `wasip2` alone. It does
//! what a request's path says.
//!
//! | path | what it does |
//! | --- | --- |
//! | `/answer` | answers itself, with what it knows of the request, and the variable `GREETING` |
//! | `/to/AUTHORITY/...` | calls that authority, and answers with what it was told if that failed |
//! | `/twice` | calls twice, and answers with both statuses |
//! | `/count`, `/keep`, `/grow` | answers with the number of such requests that its instance has had, and keeps nothing, the request, or 8 MiB of memory |
//! | `/trap`, `/half` | panics at once, or in the middle of its response's body |
//! | `/read-and-trap` | reads the request's body, expects it to be whole, then panics |
//! | `/spin`, `/sleep` | goes on forever, busy or waiting |
//! | `/memory` | takes as much memory as it gets |
//! | `/silent` | returns without a response |
//! | `/error` | gives an error for a response |
//! | `/files` | answers with the number of preopened directories, and whether a socket can be had |
//! | all others | sends the request on with `x-probe`, as it comes, and gives the response back with `x-probe-response` |

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use wasip2::cli::{environment, stdout};
use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

struct Probe;

wasip2::http::proxy::export!(Probe);

/// Requests that wanted to be counted.
static COUNTED: AtomicU32 = AtomicU32::new(0);
const CHUNK: u64 = 64 << 10;

impl Guest for Probe {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        say(&format!("{path}\n"));
        match path.as_str() {
            "/answer" => answer(outparam, 200, &about(&request)),
            "/count" | "/keep" | "/grow" => {
                match path.as_str() {
                    "/keep" => std::mem::forget(request),
                    "/grow" => std::mem::forget(std::hint::black_box(vec![1u8; 8 << 20])),
                    _ => {}
                }
                let counted = COUNTED.fetch_add(1, Relaxed) + 1;
                answer(outparam, 200, &format!("counted {counted}"));
            }
            "/twice" => {
                let status = |_| match call(&request, "upstream", "/counted") {
                    Ok(response) => response.status().to_string(),
                    Err(error) => format!("{error:?}"),
                };
                let statuses: Vec<String> = (0..2).map(status).collect();
                answer(outparam, 200, &statuses.join(" "));
            }
            "/trap" => panic!("as it was told"),
            "/half" => {
                let (_, stream) = begin(outparam, 200);
                write(&stream, &[b'h'; 100_000]);
                panic!("half of it");
            }
            "/read-and-trap" => {
                let body = request.consume().expect("consumed once");
                let stream = body.stream().expect("streamed once");
                loop {
                    match stream.blocking_read(CHUNK) {
                        Ok(_) => {}
                        Err(StreamError::Closed) => panic!("the body was whole"),
                        Err(error) => panic!("the body was not whole: {error:?}"),
                    }
                }
            }
            "/spin" => {
                let mut n = 0u64;
                loop {
                    n = std::hint::black_box(n.wrapping_add(1));
                }
            }
            "/sleep" => {
                monotonic_clock::subscribe_duration(600_000_000_000).block();
                answer(outparam, 200, "slept");
            }
            "/memory" => {
                let mut all = Vec::new();
                loop {
                    all.push(vec![1u8; 1 << 20]);
                    std::hint::black_box(&all);
                }
            }
            "/silent" => {}
            "/error" => ResponseOutparam::set(outparam, Err(ErrorCode::LoopDetected)),
            "/files" => answer(outparam, 200, &files()),
            _ => match path
                .strip_prefix("/to/")
                .map(|rest| rest.split_once('/').unwrap_or((rest, "")))
            {
                Some((authority, rest)) => match call(&request, authority, &format!("/{rest}")) {
                    Ok(response) => give_back(response, outparam),
                    Err(error) => answer(outparam, 200, &format!("{error:?}")),
                },
                None => {
                    let authority = request.authority().unwrap_or_default();
                    match call(&request, &authority, &path) {
                        Ok(response) => give_back(response, outparam),
                        Err(error) => answer(outparam, 502, &format!("{error:?}")),
                    }
                }
            },
        }
    }
}

fn say(text: &str) {
    let stdout = stdout::get_stdout();
    stdout.blocking_write_and_flush(text.as_bytes()).expect("it is a log");
}

fn about(request: &IncomingRequest) -> String {
    let greeting = environment::get_environment().into_iter().find(|(name, _)| name == "GREETING");
    let scheme = match request.scheme() {
        Some(Scheme::Http) => "http",
        Some(Scheme::Https) => "https",
        _ => "?",
    };
    let fields = request.headers().entries();
    let fields =
        fields.iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value)));
    format!(
        "{} {scheme}://{}\n{}",
        greeting.map_or_else(|| "no greeting".to_owned(), |(_, value)| value),
        request.authority().unwrap_or_default(),
        fields.collect::<String>()
    )
}

fn files() -> String {
    let directories = wasip2::filesystem::preopens::get_directories().len();
    let socket = wasip2::sockets::tcp_create_socket::create_tcp_socket(
        wasip2::sockets::network::IpAddressFamily::Ipv4,
    );
    let reaches = socket.is_ok_and(|socket| {
        let network = wasip2::sockets::instance_network::instance_network();
        let address =
            wasip2::sockets::network::Ipv4SocketAddress { port: 80, address: (127, 0, 0, 1) };
        socket
            .start_connect(&network, wasip2::sockets::network::IpSocketAddress::Ipv4(address))
            .is_ok()
    });
    format!("directories: {directories}, network: {reaches}")
}

/// Sends a request on to an authority, with its body as it comes.
fn call(
    request: &IncomingRequest,
    authority: &str,
    path: &str,
) -> Result<IncomingResponse, ErrorCode> {
    let fields = Fields::from_list(&request.headers().entries()).expect("they were allowed before");
    fields.set("x-probe", &[b"passed".to_vec()]).expect("a plain name");
    let onward = OutgoingRequest::new(fields);
    let has_body = !matches!(request.method(), Method::Get | Method::Head);
    onward.set_method(&request.method()).expect("it came so");
    onward.set_path_with_query(Some(path)).expect("it came so");
    onward.set_authority(Some(authority)).expect("an authority");
    onward.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    let body = onward.body().expect("asked for once");
    let future = outgoing_handler::handle(onward, None)?;
    if has_body && let Ok(incoming) = request.consume() {
        let (from, to) = (incoming.stream().expect("once"), body.write().expect("once"));
        splice(&from, &to);
        drop((from, to));
        let trailers = IncomingBody::finish(incoming);
        trailers.subscribe().block();
        let trailers = trailers.get().and_then(Result::ok).and_then(Result::ok).flatten();
        OutgoingBody::finish(body, trailers)?;
    } else {
        OutgoingBody::finish(body, None)?;
    }
    future.subscribe().block();
    future.get().expect("it is ready").expect("it is got once")
}

/// Gives a response back as it comes.
fn give_back(response: IncomingResponse, outparam: ResponseOutparam) {
    let fields =
        Fields::from_list(&response.headers().entries()).expect("they were allowed before");
    fields.set("x-probe-response", &[b"passed".to_vec()]).expect("a plain name");
    let outgoing = OutgoingResponse::new(fields);
    outgoing.set_status_code(response.status()).expect("it came so");
    let body = outgoing.body().expect("once");
    ResponseOutparam::set(outparam, Ok(outgoing));
    let incoming = response.consume().expect("once");
    let (from, to) = (incoming.stream().expect("once"), body.write().expect("once"));
    splice(&from, &to);
    drop((from, to));
    let trailers = IncomingBody::finish(incoming);
    trailers.subscribe().block();
    let trailers = trailers.get().and_then(Result::ok).and_then(Result::ok).flatten();
    OutgoingBody::finish(body, trailers).expect("all of it was written");
}

/// Copies until there is no more.
fn splice(from: &InputStream, to: &OutputStream) {
    loop {
        match to.blocking_splice(from, CHUNK) {
            Ok(_) => {}
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => panic!("{}", error.to_debug_string()),
        }
    }
    // The other side may not want it any more.
    let _ = to.blocking_flush();
}

fn begin(outparam: ResponseOutparam, status: u16) -> (OutgoingBody, OutputStream) {
    let fields = Fields::new();
    fields.set("content-type", &[b"text/plain".to_vec()]).expect("a plain name");
    let response = OutgoingResponse::new(fields);
    response.set_status_code(status).expect("a status");
    let body = response.body().expect("once");
    ResponseOutparam::set(outparam, Ok(response));
    let stream = body.write().expect("once");
    (body, stream)
}

fn write(stream: &OutputStream, bytes: &[u8]) {
    for chunk in bytes.chunks(4096) {
        stream.blocking_write_and_flush(chunk).expect("somebody reads it");
    }
}

fn answer(outparam: ResponseOutparam, status: u16, text: &str) {
    let (body, stream) = begin(outparam, status);
    write(&stream, text.as_bytes());
    drop(stream);
    OutgoingBody::finish(body, None).expect("all of it was written");
}
