//! `[[listener]]` and `[gateway]`: where connections are accepted, and where they go.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::invalid::{Check, Invalid};
use crate::port::check_interface;
use crate::{IpPrefix, Name, Period, Size, Target};

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2.
    Http,
    /// Anything over TCP.
    Tcp,
}

/// Where functions of the message plane run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// In the gateway's own threads.
    #[default]
    Thread,
    /// In a confined process for each chain's part: a wall more, at some microseconds for each
    /// event.
    Process,
}

/// `[gateway]`: the threads that serve all listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Gateway {
    /// How many.
    #[serde(default = "one")]
    pub threads: u16,
    /// Where functions run.
    #[serde(default)]
    pub mode: GatewayMode,
    /// Rooms of each chain's pool, on each thread and for each listener.
    #[serde(default = "rooms")]
    pub rooms: u32,
    /// Bytes of a room: the longest head that functions see, and the longest piece of a body.
    #[serde(default = "room")]
    pub room: Size,
    /// Bytes of the store that a tenant's functions share.
    #[serde(default = "store")]
    pub store: Size,
    /// Bytes of responses that HTTP/2 clients leave untaken, on each thread; above it those are
    /// given up that have waited longest.
    #[serde(default = "response_buffers")]
    pub response_buffers: Size,
    /// How long a worker process may give no sign of life while something waits for it; then it is
    /// ended and started again.
    #[serde(default = "worker_timeout")]
    pub worker_timeout: Period,
}

const fn one() -> u16 {
    1
}

const fn rooms() -> u32 {
    1024
}

const fn room() -> Size {
    Size::bytes(16 << 10)
}

const fn store() -> Size {
    Size::mebibytes(64)
}

const fn response_buffers() -> Size {
    Size::mebibytes(128)
}

const fn worker_timeout() -> Period {
    Period::milliseconds(5_000)
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            threads: one(),
            mode: GatewayMode::default(),
            rooms: rooms(),
            room: room(),
            store: store(),
            response_buffers: response_buffers(),
            worker_timeout: worker_timeout(),
        }
    }
}

impl Gateway {
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if !(1..=256).contains(&self.threads) {
            let message = format!("{} threads", self.threads);
            return Err(Invalid::at("threads", message).help("allowed: 1 to 256"));
        }
        let room = self.room.get();
        if !room.is_power_of_two() || !(4096..=65_536).contains(&room) {
            return Err(Invalid::at("room", format!("rooms of {}", self.room))
                .help("allowed: a power of two from 4KiB to 64KiB"));
        }
        if !(16..=1 << 20).contains(&self.rooms) || u64::from(self.rooms) * room > 1 << 30 {
            return Err(Invalid::at("rooms", format!("{} rooms of {}", self.rooms, self.room))
                .help("allowed: 16 to 1048576, and 1GiB in all"));
        }
        if self.response_buffers < Size::mebibytes(1) {
            let message = format!("{} for all responses", self.response_buffers);
            return Err(Invalid::at("response-buffers", message).help("allowed: 1MiB and more"));
        }
        let timeout = self.worker_timeout.get();
        if !(Duration::from_millis(100)..=Duration::from_secs(600)).contains(&timeout) {
            let message = format!("a worker that is silent for {}", self.worker_timeout);
            return Err(Invalid::at("worker-timeout", message).help("allowed: 100ms to 10m"));
        }
        Ok(())
    }
}

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Listener {
    /// Its name.
    pub name: Name,
    /// Where it accepts connections: one address or several.
    #[serde(deserialize_with = "addresses")]
    pub address: Vec<SocketAddr>,
    /// The interface that it accepts connections from: its name, or a virtual function,
    /// `vf:PF/NUMBER`. It is set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Bits of the network of `address`, which that interface is given. Without it the interface
    /// has to have the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<u8>,
    /// What it speaks.
    pub protocol: Protocol,
    /// The chain that messages pass; none: they go straight on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Name>,
    /// Whose chain that is.
    #[serde(default = "Name::default_tenant")]
    pub tenant: Name,
    /// Where they go.
    #[serde(default)]
    pub upstream: Vec<Upstream>,
    /// How often the names of upstreams are looked up.
    #[serde(default = "resolve")]
    pub resolve: Period,
    /// Certificates; TLS is spoken if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<Tls>,
    /// Clients are asked for certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ClientCertificates>,
    /// Whether it takes connections to foreign addresses, too, which the kernel is told to deliver
    /// here.
    #[serde(default)]
    pub transparent: bool,
    /// Whether every connection begins with a PROXY protocol header.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// Addresses whose connections do; all others have none and speak for themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol_from: Option<Vec<IpPrefix>>,
    /// Version of that header towards upstreams.
    #[serde(default)]
    pub upstream_proxy_protocol: ProxyHeader,
    /// What becomes of a client's word of where its requests come from.
    #[serde(default)]
    pub forwarded: ForwardedFields,
    /// Periods.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// When a request is tried again.
    #[serde(default)]
    pub retry: Retry,
    /// How upstreams are looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Where its requests are written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
}

/// `[listener.log]`: a line for each request, or connection that carries none, when it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Log {
    /// The file.
    pub file: PathBuf,
}

const fn resolve() -> Period {
    Period::milliseconds(30_000)
}

/// One address, or a list of them.
fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected an address like \"0.0.0.0:8080\", or a list of them")]
    enum Addresses {
        One(SocketAddr),
        Several(Vec<SocketAddr>),
    }
    Ok(match Addresses::deserialize(from)? {
        Addresses::One(address) => vec![address],
        Addresses::Several(addresses) => addresses,
    })
}

/// An upstream: an address, or a table that says more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "UpstreamTable")]
pub struct Upstream {
    /// Its address, or its name.
    pub address: Target,
    /// Its share, against the others' weights.
    pub weight: u32,
    /// Whether TLS is spoken with it.
    pub tls: bool,
    /// The name in its certificate.
    pub server_name: Option<String>,
    /// PEM file of the authorities that may have signed its certificate; without one, those of the
    /// system.
    pub authorities: Option<PathBuf>,
    /// PEM file of the gateway's own certificate, for an upstream that asks for one.
    pub certificate: Option<PathBuf>,
    /// PEM file of that certificate's private key.
    pub key: Option<PathBuf>,
    /// Whether HTTP/2 is spoken with it.
    pub http2: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct UpstreamTable {
    address: Target,
    #[serde(default = "weight")]
    weight: u32,
    #[serde(default)]
    tls: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authorities: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    #[serde(default)]
    http2: bool,
}

const fn weight() -> u32 {
    1
}

/// What is wrong in a table is told with its key, so that not just any of the two is tried.
impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = UpstreamTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "an address like \"127.0.0.1:9000\" or \"api.example:9000\", or a table with `address`, `weight`, `tls`, \
                     `server-name`, `authorities`, `certificate`, `key`, `http2`",
                )
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<UpstreamTable, E> {
                Ok(UpstreamTable {
                    address: text.parse().map_err(E::custom)?,
                    weight: weight(),
                    tls: false,
                    server_name: None,
                    authorities: None,
                    certificate: None,
                    key: None,
                    http2: false,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<UpstreamTable, A::Error> {
                UpstreamTable::deserialize(MapAccessDeserializer::new(table))
            }
        }

        let table = from.deserialize_any(Either)?;
        let UpstreamTable {
            address,
            weight,
            tls,
            server_name,
            authorities,
            certificate,
            key,
            http2,
        } = table;
        Ok(Self { address, weight, tls, server_name, authorities, certificate, key, http2 })
    }
}

impl From<Upstream> for UpstreamTable {
    fn from(upstream: Upstream) -> Self {
        let Upstream { address, weight, tls, server_name, authorities, certificate, key, http2 } =
            upstream;
        Self { address, weight, tls, server_name, authorities, certificate, key, http2 }
    }
}

/// `[[listener.tls]]`: a certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tls {
    /// PEM file: the certificate, then those that lead to its authority.
    pub certificate: PathBuf,
    /// PEM file of the private key.
    pub key: PathBuf,
    /// Server names it is for; those in the certificate if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// `[listener.client-certificates]`: which certificates clients are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ClientCertificates {
    /// PEM file of the authorities that may have signed them.
    pub authorities: PathBuf,
    /// PEM file of lists of revoked certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<PathBuf>,
    /// Whether clients are refused when a list of their authorities is out of date (`nextUpdate`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enforce_next_update: bool,
    /// Whether a client without one is refused.
    #[serde(default = "required")]
    pub required: bool,
}

const fn required() -> bool {
    true
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// No header.
    #[default]
    None,
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What becomes of `x-forwarded-for` and its like in requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedFields {
    /// The client's address is added to the list; the others are the gateway's own.
    #[default]
    Append,
    /// All are the gateway's own.
    Replace,
    /// The client is believed: its address is added, and what else it said stays.
    Keep,
}

macro_rules! defaults {
    ($(#[$about:meta])* $name:ident { $($(#[$field_about:meta])* $field:ident: $type:ty = $value:expr,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub struct $name { $($(#[$field_about])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $value,)* }
            }
        }
    };
}

defaults! {
    /// `[listener.timeouts]`
    Timeouts {
        /// For a request's head, a TLS handshake, a PROXY protocol header.
        header: Period = Period::milliseconds(10_000),
        /// Between two pieces of a request's body until the response begins, and for the client to
        /// take a piece of that.
        body: Period = Period::milliseconds(30_000),
        /// For a connection to an upstream.
        connect: Period = Period::milliseconds(5_000),
        /// From the request to the response's head, and then without a piece of either body.
        response: Period = Period::milliseconds(60_000),
        /// Without a request on a client's connection.
        idle: Period = Period::milliseconds(75_000),
        /// Without a byte on a TCP connection, or one that has changed to another protocol; and for
        /// either side of it to take one.
        tunnel: Period = Period::milliseconds(3_600_000),
        /// Without a request on an upstream's connection.
        upstream_idle: Period = Period::milliseconds(30_000),
    }
}

defaults! {
    /// `[listener.limits]`
    Limits {
        /// Connections of clients at one time.
        connections: u32 = 65_536,
        /// Requests on one connection; none: any number.
        requests_per_connection: Option<u64> = None,
        /// Bytes of a head.
        head: Size = Size::bytes(65_536),
        /// Fields of a head.
        fields: u16 = 100,
        /// Bytes of a request's body; none: any number.
        body: Option<Size> = None,
        /// Bytes of a body that functions may hold back.
        hold: Size = Size::mebibytes(1),
        /// Streams of one HTTP/2 connection at one time.
        streams: u32 = 128,
        /// Connections to one address of an upstream at one time; none: any number.
        upstream_connections: Option<u32> = None,
        /// Idle connections kept for each upstream, on each thread.
        upstream_idle: u32 = 256,
    }
}

defaults! {
    /// `[listener.retry]`
    Retry {
        /// Further attempts.
        attempts: u32 = 2,
        /// Those that may be under way at one time, in percent of the requests that are.
        budget: u8 = 20,
        /// After what: `connect`, `reset`, or statuses like 502.
        on: Vec<RetryOn> = vec![RetryOn::Connect, RetryOn::Reset],
    }
}

/// After what a request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum RetryOn {
    /// No connection could be made.
    Connect,
    /// It was lost before the response began.
    Reset,
    /// A response with this status.
    Status(u16),
}

impl From<RetryOn> for String {
    fn from(on: RetryOn) -> Self {
        match on {
            RetryOn::Connect => "connect".to_owned(),
            RetryOn::Reset => "reset".to_owned(),
            RetryOn::Status(status) => status.to_string(),
        }
    }
}

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected \"connect\", \"reset\" or a status like 502")]
        enum Text {
            Number(u16),
            Word(String),
        }
        let status = match Text::deserialize(from)? {
            Text::Word(word) if word == "connect" => return Ok(Self::Connect),
            Text::Word(word) if word == "reset" => return Ok(Self::Reset),
            Text::Word(word) => word.parse().ok(),
            Text::Number(number) => Some(number),
        };
        match status.filter(|status| (400..600).contains(status)) {
            Some(status) => Ok(Self::Status(status)),
            None => {
                Err(D::Error::custom("expected \"connect\", \"reset\" or a status from 400 to 599"))
            }
        }
    }
}

defaults! {
    /// `[listener.health]`
    Health {
        /// Path of a GET request that has to be answered with a status below 400; none: a
        /// connection is enough.
        path: Option<String> = None,
        /// Its `host`.
        host: Option<String> = None,
        /// Between two looks.
        interval: Period = Period::milliseconds(5_000),
        /// For one look.
        timeout: Period = Period::milliseconds(2_000),
        /// Good ones in a row that make an upstream healthy.
        healthy: u32 = 2,
        /// Bad ones in a row that make it unhealthy.
        unhealthy: u32 = 3,
    }
}

impl Health {
    fn check(&self) -> Result<(), Invalid> {
        // RFC 3986 section 3.3, and a query: what a request's line takes.
        let is_path = |path: &str| {
            path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
        };
        if let Some(path) = self.path.as_deref().filter(|path| !is_path(path)) {
            return Err(Invalid::at("path", format!("{path:?} is no path"))
                .help("allowed: `/` and what may stand in a URI behind it, as in \"/up?deep=1\""));
        }
        let is_host = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic());
        if let Some(host) = self.host.as_deref().filter(|host| !is_host(host)) {
            return Err(Invalid::at("host", format!("{host:?} is no host"))
                .help("allowed: a name or an address, and a port, as in \"api.example:8080\""));
        }
        for (key, period, least) in [("interval", self.interval, 10), ("timeout", self.timeout, 1)]
        {
            at_least(key, period, Period::milliseconds(least))?;
        }
        let counts = [("healthy", self.healthy), ("unhealthy", self.unhealthy)];
        match counts.into_iter().find(|(_, count)| *count == 0) {
            Some((key, _)) => Err(Invalid::at(key, "0 looks in a row decide nothing")
                .help("allowed: 1 and more; leave it out for the default")),
            None => Ok(()),
        }
    }
}

impl Listener {
    /// Whether it can listen beside another one.
    pub(crate) fn check_beside(&self, other: &Self) -> Result<(), Invalid> {
        let taken = |address: &&SocketAddr| address.port() != 0 && other.address.contains(address);
        match self.address.iter().find(taken) {
            Some(address) if self.device == other.device => {
                let message = format!("{address} is where listener {} listens, too", other.name);
                Err(Invalid::at("address", message)
                    .help("give each listener an address of its own"))
            }
            _ => Ok(()),
        }
    }

    /// Paths of files that it names.
    pub(crate) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let tls = self.tls.iter_mut().flat_map(|tls| [&mut tls.certificate, &mut tls.key]);
        let clients = self.client_certificates.iter_mut();
        let clients =
            clients.flat_map(|of| [&mut of.authorities].into_iter().chain(&mut of.revoked));
        let upstreams = self.upstream.iter_mut();
        let upstreams =
            upstreams.flat_map(|of| [&mut of.authorities, &mut of.certificate, &mut of.key]);
        let log = self.log.iter_mut().map(|log| &mut log.file);
        tls.chain(clients).chain(upstreams.flatten()).chain(log)
    }
}

impl Listener {
    fn check_proxies(&self) -> Result<(), Invalid> {
        let wrong =
            |message: &str, help: &str| Err(Invalid::at("proxy-protocol-from", message).help(help));
        match &self.proxy_protocol_from {
            Some(_) if !self.proxy_protocol => wrong(
                "no connection begins with a PROXY protocol header",
                "add `proxy-protocol = true`, or leave it out",
            ),
            Some(from) if from.is_empty() => wrong(
                "nobody's PROXY protocol header would be read",
                "name the proxies, as in [\"10.0.0.0/8\"], or set `proxy-protocol` to false",
            ),
            Some(from) => {
                for (index, prefix) in from.iter().enumerate() {
                    let Some(v4) = prefix.mapped() else { continue };
                    let message = format!("addresses of {prefix} are IPv4 addresses in disguise");
                    return Err(Invalid::whole(message)
                        .help(format!("write \"{v4}\""))
                        .within_array("proxy-protocol-from", index));
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn check_addresses(&self) -> Result<(), Invalid> {
        if self.address.is_empty() {
            return Err(Invalid::at("address", "there is no address")
                .help("name at least one, as in \"0.0.0.0:8080\""));
        }
        for (index, address) in self.address.iter().enumerate() {
            if address.port() != 0 && self.address[..index].contains(address) {
                return Err(Invalid::at("address", format!("{address} is named twice"))
                    .help("name it once"));
            }
            if let IpAddr::V6(ip) = address.ip()
                && let Some(ip) = ip.to_ipv4_mapped()
            {
                let message = format!("{address} is an IPv4 address in disguise");
                return Err(Invalid::at("address", message)
                    .help(format!("write \"{ip}:{}\"", address.port())));
            }
        }
        Ok(())
    }

    /// What only those have that speak HTTP.
    fn check_tcp(&self) -> Result<(), Invalid> {
        let status = |on: &RetryOn| matches!(on, RetryOn::Status(_));
        let http_only: [(&[&str], bool); 4] = [
            (&["forwarded"], self.forwarded != ForwardedFields::default()),
            (&["limits", "body"], self.limits.body.is_some()),
            (&["limits", "requests-per-connection"], self.limits.requests_per_connection.is_some()),
            (&["retry", "on"], self.retry.on.iter().any(status)),
        ];
        let set = http_only.into_iter().find(|(_, set)| *set);
        let Some((keys, _)) = set.filter(|_| self.protocol == Protocol::Tcp) else {
            return Ok(());
        };
        let message = "it is about requests, and the listener's protocol is tcp";
        let invalid = Invalid::whole(message)
            .help("leave it out (statuses, of `on`), or set the listener's protocol to \"http\"");
        Err(keys.iter().rev().fold(invalid, |invalid, key| invalid.within(key)))
    }

    fn check_device(&self) -> Result<(), Invalid> {
        match (&self.device, self.prefix) {
            (Some(device), None) if !device.starts_with("vf:") => check_interface("device", device),
            (None, Some(_)) => {
                Err(Invalid::at("prefix", "no interface is named that could be given the address")
                    .help("add `device`, or leave `prefix` out"))
            }
            (Some(device), Some(prefix)) => {
                if !device.starts_with("vf:") {
                    check_interface("device", device)?;
                }
                for address in &self.address {
                    let most = if address.is_ipv4() { 32 } else { 128 };
                    if prefix > most {
                        return Err(Invalid::at(
                            "prefix",
                            format!("a prefix of {prefix} bits for {}", address.ip()),
                        )
                        .help(format!("allowed: 0 to {most}")));
                    }
                    if address.ip().is_unspecified() {
                        return Err(Invalid::at(
                            "address",
                            format!("an interface cannot be given {}", address.ip()),
                        )
                        .help("name an address, or leave `prefix` out"));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Check for Listener {
    fn check(&self) -> Result<(), Invalid> {
        self.check_addresses()?;
        self.check_device()?;
        self.check_proxies()?;
        self.check_tcp()?;
        if self.upstream.is_empty() && self.chain.is_none() {
            return Err(Invalid::whole("the listener has neither an upstream nor a chain")
                .help("add `upstream = [\"127.0.0.1:9000\"]`, or `chain = \"NAME\"` of one that answers itself"));
        }
        if self.client_certificates.is_some() && self.tls.is_empty() {
            let message = "clients are asked for certificates, and no TLS is spoken with them";
            return Err(Invalid::at("client-certificates", message)
                .help("add `[[listener.tls]]`, or leave it out"));
        }
        if let Some(of) = &self.client_certificates
            && of.enforce_next_update
            && of.revoked.is_none()
        {
            let invalid = Invalid::at("enforce-next-update", "there is no list to be out of date");
            let invalid = invalid.help("add `revoked = \"FILE\"`, or leave it out");
            return Err(invalid.within("client-certificates"));
        }
        for (index, upstream) in self.upstream.iter().enumerate() {
            let wrong = |key, message: &str, help: &str| {
                Err(Invalid::at(key, message).help(help.to_owned()).within_array("upstream", index))
            };
            if self.upstream[..index].iter().any(|u| u.address == upstream.address) {
                return wrong("address", "the upstream is named twice", "give it a `weight`");
            }
            if upstream.tls && upstream.server_name.is_none() {
                let help = "add `server-name`: the name in its certificate";
                return wrong("tls", "there is no name to expect in the certificate", help);
            }
            let of_tls = [
                ("server-name", upstream.server_name.is_some()),
                ("authorities", upstream.authorities.is_some()),
                ("certificate", upstream.certificate.is_some()),
                ("key", upstream.key.is_some()),
            ];
            if let Some((key, _)) = of_tls.into_iter().find(|(_, set)| *set && !upstream.tls) {
                let help = format!("add `tls = true`, or leave `{key}` out");
                return wrong(key, "TLS is not spoken with this upstream", &help);
            }
            match (&upstream.certificate, &upstream.key) {
                (Some(_), None) => {
                    let help = "add `key`: the file of its private key";
                    return wrong("certificate", "there is no key for the certificate", help);
                }
                (None, Some(_)) => {
                    let help = "add `certificate`: the file of the certificate";
                    return wrong("key", "there is no certificate for the key", help);
                }
                _ => (),
            }
            if upstream.http2 && self.protocol == Protocol::Tcp {
                let help = "leave it out, or set the listener's protocol to \"http\"";
                return wrong("http2", "the listener's protocol is tcp", help);
            }
            if upstream.http2 && self.upstream_proxy_protocol != ProxyHeader::None {
                let help = "an HTTP/2 connection is shared by many clients; keep one of the two";
                return wrong("http2", "`upstream-proxy-protocol` is set", help);
            }
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(&self.resolve.get())
        {
            let message = format!("names looked up every {}", self.resolve);
            return Err(Invalid::at("resolve", message).help("allowed: 100ms to 24h"));
        }
        let t = &self.timeouts;
        for (key, period) in [
            ("header", t.header),
            ("body", t.body),
            ("connect", t.connect),
            ("response", t.response),
            ("idle", t.idle),
            ("tunnel", t.tunnel),
            ("upstream-idle", t.upstream_idle),
        ] {
            at_least(key, period, Period::milliseconds(1)).map_err(|e| e.within("timeouts"))?;
        }
        let l = &self.limits;
        let limits = [
            ("connections", u64::from(l.connections)),
            ("streams", u64::from(l.streams)),
            ("upstream-connections", l.upstream_connections.map_or(u64::MAX, u64::from)),
            ("head", l.head.get()),
            ("fields", u64::from(l.fields)),
        ];
        if let Some((key, _)) = limits.iter().find(|(_, limit)| *limit == 0) {
            return Err(Invalid::at(key, "a limit of 0 lets nothing through")
                .help("leave it out for the default")
                .within("limits"));
        }
        if self.retry.budget > 100 {
            let message = format!("{} percent of the requests", self.retry.budget);
            let wrong = Invalid::at("budget", message).help("allowed: 0 to 100");
            return Err(wrong.within("retry"));
        }
        self.health.as_ref().map_or(Ok(()), |h| h.check().map_err(|e| e.within("health")))
    }
}

/// Refuses a period that is shorter.
fn at_least(key: &str, period: Period, least: Period) -> Result<(), Invalid> {
    if period >= least {
        return Ok(());
    }
    Err(Invalid::at(key, format!("{period} is too short"))
        .help(format!("allowed: {least} and more")))
}
