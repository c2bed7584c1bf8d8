//! Messages as tests write and read them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weir_layout::message::{
    FLAG_MADE, FLAG_NO_BODY, FLAG_TLS, FLAG_UPGRADE, Head, Part, SPARE_FIELDS,
};

/// A request, a response or a connection's addresses, with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Of a request.
    pub method: String,
    /// Of a request: path and query.
    pub path: Vec<u8>,
    /// Of a request: host and port.
    pub authority: String,
    /// What SNI said.
    pub server_name: String,
    /// Of a response, else 0.
    pub status: u16,
    /// 10, 11, 20; 0 for connections.
    pub version: u8,
    /// As in the head.
    pub flags: u8,
    /// Of a response: the upstream that sent it.
    pub upstream: Option<u16>,
    /// Names and values.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// The client's address.
    pub client: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
}

impl Message {
    fn empty() -> Self {
        Self {
            method: String::new(),
            path: Vec::new(),
            authority: String::new(),
            server_name: String::new(),
            status: 0,
            version: 11,
            flags: 0,
            upstream: None,
            fields: Vec::new(),
            body: Vec::new(),
            client: SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 40_000),
            local: SocketAddr::new(Ipv4Addr::new(192, 0, 2, 80).into(), 80),
        }
    }

    /// A request for `example.com`.
    #[must_use]
    pub fn request(method: &str, path: impl AsRef<[u8]>) -> Self {
        Self {
            method: method.into(),
            path: path.as_ref().to_vec(),
            authority: "example.com".into(),
            ..Self::empty()
        }
    }

    /// A request with method GET for `example.com`.
    #[must_use]
    pub fn get(path: impl AsRef<[u8]>) -> Self {
        Self::request("GET", path)
    }

    /// A response.
    #[must_use]
    pub fn response(status: u16) -> Self {
        Self { status, ..Self::empty() }
    }

    /// A connection.
    #[must_use]
    pub fn connection() -> Self {
        Self { version: 0, ..Self::empty() }
    }

    /// Adds a field.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name.into(), value.as_ref().to_vec()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// Sets the authority.
    #[must_use]
    pub fn authority(mut self, authority: &str) -> Self {
        self.authority = authority.into();
        self
    }

    /// It came by TLS, with this server name.
    #[must_use]
    pub fn tls(mut self, server_name: &str) -> Self {
        self.server_name = server_name.into();
        self.flags |= FLAG_TLS;
        self
    }

    /// It is this upstream's response.
    #[must_use]
    pub fn sent_by(mut self, upstream: usize) -> Self {
        self.upstream = u16::try_from(upstream).ok();
        self
    }

    /// It asks for an upgrade.
    #[must_use]
    pub fn upgrade(mut self) -> Self {
        self.flags |= FLAG_UPGRADE;
        self
    }

    /// It came from this address.
    ///
    /// # Panics
    /// When that is none.
    #[must_use]
    pub fn from(mut self, client: &str) -> Self {
        self.client.set_ip(client.parse().expect("an IP address"));
        self
    }

    /// It came to this port.
    #[must_use]
    pub fn to_port(mut self, port: u16) -> Self {
        self.local.set_port(port);
        self
    }

    /// The first field of this name, as text.
    ///
    /// # Panics
    /// When its value is not UTF-8.
    #[must_use]
    pub fn get_field(&self, name: &str) -> Option<&str> {
        let value = self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value);
        value.map(|value| std::str::from_utf8(value).expect("a value in UTF-8"))
    }

    /// The values of all fields of this name, as text.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<String> {
        let all = self.fields.iter().filter(|(n, _)| n == name);
        all.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// Lays the head out in these bytes, with what the host leaves to spare.
    pub(crate) fn lay_out(&self, room: &mut [u8]) {
        let mut head = Head::lay_out(room, self.fields.len() + SPARE_FIELDS).expect("a room");
        head.set_status(self.status);
        let no_body = if self.body.is_empty() { FLAG_NO_BODY } else { 0 };
        head.set_version(self.version, self.flags | no_body);
        let sixteen = |address: SocketAddr| {
            let ip = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            (ip.octets(), address.port())
        };
        head.set_addresses(sixteen(self.client), sixteen(self.local));
        head.set_upstream(self.upstream.map(u32::from));
        head.set_body_length(Some(self.body.len() as u64));
        for (part, text) in [
            (Part::Method, self.method.as_bytes()),
            (Part::Path, &self.path),
            (Part::Authority, self.authority.as_bytes()),
            (Part::ServerName, self.server_name.as_bytes()),
        ] {
            head.set_part(part, text).expect("a head that fits into its room");
        }
        for (name, value) in &self.fields {
            head.add(name.as_bytes(), value).expect("a head that fits into its room");
        }
    }

    /// Reads a head, and checks it as the host does.
    pub(super) fn read(room: &[u8]) -> Self {
        let head = Head::new(room).expect("a head");
        let text = |part| {
            let bytes = head.part(part).expect("a place within the head");
            String::from_utf8(bytes.to_vec()).expect("text")
        };
        let socket =
            |(ip, port): ([u8; 16], u16)| SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port);
        let mut fields = Vec::new();
        for entry in 0..head.entries() {
            let (name, value) = head.entry(entry).expect("places within the head");
            if name.is_empty() {
                continue;
            }
            assert!(crate::config::is_field_name(name), "{name:?} is no field name");
            let content = |c: &u8| *c >= b' ' && *c != 0x7f || *c == b'\t';
            assert!(value.iter().all(content), "{value:?} is no field value");
            assert!(
                !value.first().is_some_and(u8::is_ascii_whitespace)
                    && !value.last().is_some_and(u8::is_ascii_whitespace),
                "{value:?} has white space around it"
            );
            fields.push((String::from_utf8(name.to_vec()).expect("ASCII"), value.to_vec()));
        }
        let path = head.part(Part::Path).expect("a place within the head").to_vec();
        assert!(path.iter().all(|c| *c > b' ' && *c != 0x7f), "{path:?} is no target");
        Self {
            method: text(Part::Method),
            path,
            authority: text(Part::Authority),
            server_name: text(Part::ServerName),
            status: head.status(),
            version: head.version(),
            flags: head.flags() & !FLAG_NO_BODY,
            upstream: head.upstream().and_then(|upstream| u16::try_from(upstream).ok()),
            fields,
            body: Vec::new(),
            client: socket(head.client()),
            local: socket(head.local()),
        }
    }

    /// Whether a function made it, or the gateway.
    #[must_use]
    pub fn made(&self) -> bool {
        self.flags & FLAG_MADE != 0
    }
}
