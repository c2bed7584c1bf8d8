//! A bare proxy: `proxy LISTEN UPSTREAM[,UPSTREAM...] [tcp|http|http2]`. For measuring what the
//! gateway itself costs.

use std::net::SocketAddr;

use weir_gateway::{Gateway, GatewayConfig, ListenerConfig, Protocol, UpstreamConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstreams, rest @ ..] = arguments.as_slice() else {
        return Err("usage: proxy LISTEN UPSTREAM[,UPSTREAM...] [tcp|http|http2]".into());
    };
    let kind = rest.first().map_or("http", String::as_str);
    let protocol = if kind == "tcp" { Protocol::Tcp } else { Protocol::Http };
    let addresses: Vec<SocketAddr> =
        upstreams.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let upstreams = addresses
        .into_iter()
        .map(|address| UpstreamConfig { http2: kind == "http2", ..UpstreamConfig::new(address) })
        .collect();
    let gateway = Gateway::start(GatewayConfig::default())?;
    gateway.set(ListenerConfig::new("proxy", listen.parse()?, protocol, upstreams))?;
    println!("listening at {:?}", gateway.addresses("proxy"));
    loop {
        std::thread::park();
    }
}
