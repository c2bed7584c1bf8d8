//! What HTTP/2 clients leave of their responses: a thread holds so much of all of them, and no
//! more.

use std::future::poll_fn;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use weir_gateway::{Failure, Gateway, GatewayConfig};

use crate::http2::{HEADERS, PREFACE, client, frame, get, http2_server_allowing, runtime};
use crate::support::{self, connect, listener, until};

/// Bytes that the gateway may hold.
const LIMIT: usize = 4 << 20;
/// `:path /` is in [`HEADERS`], so this is what most get.
const ENDLESS: usize = 1 << 30;

/// Bytes that left of responses that have not ended: the gateway holds them, or is about to throw
/// them away.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Sends as much as it may, or as many bytes as the path says.
async fn generous(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let length = request.uri().path()[1..].parse().unwrap_or(ENDLESS);
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    let mut left = length;
    while left > 0 {
        let piece = left.min(16_384);
        send.reserve_capacity(piece);
        let more = poll_fn(|cx| {
            if send.poll_reset(cx).is_ready() {
                return std::task::Poll::Ready(None);
            }
            send.poll_capacity(cx)
        });
        let Some(Ok(room)) = more.await else { break };
        let piece = room.min(piece);
        if send.send_data(Bytes::from(vec![0; piece]), left == piece).is_err() {
            break;
        }
        left -= piece;
        HELD.fetch_add(piece, Ordering::SeqCst);
    }
    HELD.fetch_sub(length - left, Ordering::SeqCst);
}

/// A gateway with that limit, which gives nobody up for being slow.
fn gateway(upstream: SocketAddr, http2: bool, limit: usize) -> (Gateway, SocketAddr) {
    let config = GatewayConfig { response_buffers: limit, ..GatewayConfig::default() };
    let gateway = Gateway::start(config).unwrap();
    let listener = listener(&[upstream], |config| {
        config.upstreams[0].http2 = http2;
        config.limits.streams = 1000;
        config.timeouts.body = 10 * support::LONG;
    });
    gateway.set(listener).unwrap();
    let address = gateway.addresses("test")[0];
    (gateway, address)
}

/// A client that asks so often, has such a window for each stream, and reads nothing.
fn reads_nothing(address: SocketAddr, requests: u32, window: u32) -> TcpStream {
    let mut stream = connect(address);
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    let mut begin = [PREFACE, &frame(4, 0, 0, &settings), &frame(4, 1, 0, &[])].concat();
    begin.extend(frame(8, 0, 0, &(1_u32 << 30).to_be_bytes()));
    (0..requests).for_each(|i| begin.extend(frame(1, 5, 2 * i + 1, HEADERS)));
    stream.write_all(&begin).unwrap();
    stream
}

/// Waits until the one connection was ended for what it held.
fn ends(gateway: &Gateway) {
    let listener = || gateway.statistics().listeners.remove(0);
    until("it is counted", || listener().failed(Failure::BuffersFull) >= 1);
    until("it has ended", || listener().open == 0);
}

#[test]
fn those_that_have_waited_longest_make_room_and_others_go_on() {
    let upstream = http2_server_allowing(1000, generous);
    let (gateway, address) = gateway(upstream, true, LIMIT);
    let failed = |why| gateway.statistics().listeners[0].failed(why);
    // With all windows full that would be 32 MiB.
    let _clients = [(); 4].map(|()| reads_nothing(address, 32, 0));
    let most = LIMIT / (256 << 10);
    until("most are given up", || failed(Failure::BuffersFull) >= 128 - most as u64);
    until("the upstream has heard of it", || HELD.load(Ordering::SeqCst) <= LIMIT);
    assert!(gateway.statistics().listeners[0].active >= most as u64 / 2, "some are left");
    // Who takes what comes gets all of it, in the midst of that.
    runtime().block_on(async {
        let (mut client, _connection) = client(address).await;
        for _ in 0..3 {
            let (response, _) = client.send_request(get("/3000000"), true).unwrap();
            let (mut body, mut taken) = (response.await.unwrap().into_body(), 0);
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                taken += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            assert_eq!(taken, 3_000_000);
        }
    });
    assert_eq!(failed(Failure::ClientSlow), 0);
    until("it alone has gone", || gateway.statistics().listeners[0].open == 4);
}

#[test]
fn a_connection_that_alone_can_be_given_up_ends() {
    // What is written to it is not taken: no stream of it can be reset either.
    let (gateway, address) = gateway(http2_server_allowing(1000, generous), true, LIMIT);
    let _client = reads_nothing(address, 100, (1 << 31) - 1);
    ends(&gateway);
}

#[test]
fn what_nobody_has_a_stream_for_any_more_counts_until_it_is_written() {
    let server = support::Server::start(|mut stream, _| {
        while support::read_request(&mut stream).is_some() {
            // One piece, and the end.
            let answer = [&b"HTTP/1.1 200 OK\r\nContent-Length: 7000\r\n\r\n"[..], &[0; 7000]];
            if stream.write_all(&answer.concat()).is_err() {
                return;
            }
        }
    });
    let (gateway, address) = gateway(server.address, false, LIMIT / 4);
    let _client = reads_nothing(address, 300, 1);
    ends(&gateway);
    let statistics = gateway.statistics();
    assert!(statistics.listeners[0].responses[1] >= LIMIT as u64 / 4 / 7000);
}
