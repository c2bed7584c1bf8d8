//! The PROXY protocol, versions 1 and 2: who the client is, told by a proxy in front and told on to
//! an upstream.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{HeaderResult, v1, v2};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::config::ProxyHeader;

/// Bytes that tell the versions apart; no header is shorter.
const FIRST: usize = 12;
/// Bytes of a version 2 header before its addresses.
const V2_FIXED: usize = 16;
/// Longest version 1 header.
const V1_LONGEST: usize = 107;
/// Longest version 2 header that is read: addresses and some fields of a kind that is not looked
/// at.
const V2_LONGEST: usize = 4096;

/// Reads a header, and nothing behind it: the client's address and the one it connected to; `None`
/// if the proxy speaks for itself or does not know.
///
/// # Errors
/// What the kernel said, or that this is no header.
pub(crate) async fn read(stream: &mut TcpStream) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    let mut bytes = vec![0; FIRST];
    stream.read_exact(&mut bytes).await?;
    if bytes == v2::PROTOCOL_PREFIX {
        bytes.resize(V2_FIXED, 0);
        stream.read_exact(&mut bytes[FIRST..]).await?;
        let length = V2_FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        if length > V2_LONGEST {
            return Err(no_header());
        }
        bytes.resize(length, 0);
        stream.read_exact(&mut bytes[V2_FIXED..]).await?;
    } else {
        while !bytes.ends_with(b"\n") {
            let mut ahead = [0; V1_LONGEST];
            let seen = stream.peek(&mut ahead).await?;
            let line = ahead[..seen].iter().position(|&b| b == b'\n').map_or(seen, |at| at + 1);
            if seen == 0 || bytes.len() + line > V1_LONGEST {
                return Err(no_header());
            }
            let before = bytes.len();
            bytes.resize(before + line, 0);
            stream.read_exact(&mut bytes[before..]).await?;
        }
    }
    match HeaderResult::parse(&bytes) {
        HeaderResult::V1(Ok(header)) => Ok(of_v1(&header.addresses)),
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(None),
        HeaderResult::V2(Ok(header)) => Ok(of_v2(&header.addresses)),
        _ => Err(no_header()),
    }
}

fn no_header() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the connection begins with no PROXY protocol header",
    )
}

fn of_v1(addresses: &v1::Addresses) -> Option<(SocketAddr, SocketAddr)> {
    match addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(a) => Some((
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        )),
        v1::Addresses::Tcp6(a) => Some((
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        )),
    }
}

fn of_v2(addresses: &v2::Addresses) -> Option<(SocketAddr, SocketAddr)> {
    match addresses {
        v2::Addresses::IPv4(a) => Some((
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        )),
        v2::Addresses::IPv6(a) => Some((
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        )),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    }
}

/// A header for an upstream: the client's address and the one it connected to, or that the proxy
/// speaks for itself.
pub(crate) fn header(version: ProxyHeader, addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((client, local)) = addresses else {
        return match version {
            ProxyHeader::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            ProxyHeader::V2 => {
                let command = v2::Version::Two | v2::Command::Local;
                let no_family = v2::AddressFamily::Unspecified | v2::Protocol::Unspecified;
                v2::Builder::new(command, no_family).build().unwrap_or_default()
            }
        };
    };
    let (client, local) = of_one_family(client, local);
    match version {
        ProxyHeader::V1 => v1::Addresses::from((client, local)).to_string().into_bytes(),
        ProxyHeader::V2 => {
            let command = v2::Version::Two | v2::Command::Proxy;
            v2::Builder::with_addresses(command, v2::Protocol::Stream, (client, local))
                .build()
                .unwrap_or_default()
        }
    }
}

/// Both as IPv4 if both are, else both as IPv6.
fn of_one_family(client: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let (client, local) = (canonical(client), canonical(local));
    if client.is_ipv4() == local.is_ipv4() {
        return (client, local);
    }
    let six = |a: SocketAddr| match a.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), a.port()),
        IpAddr::V6(_) => a,
    };
    (six(client), six(local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_told_on_says_the_same_addresses() {
        let client: SocketAddr = "192.0.2.7:4000".parse().unwrap();
        let local: SocketAddr = "[::ffff:198.51.100.1]:443".parse().unwrap();
        assert_eq!(
            header(ProxyHeader::V1, Some((client, local))),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n"
        );
        let binary = header(ProxyHeader::V2, Some((client, local)));
        let read = v2::Header::try_from(binary.as_slice()).unwrap();
        let told = of_v2(&read.addresses).unwrap();
        assert_eq!(told, (client, "198.51.100.1:443".parse().unwrap()));
    }
}
