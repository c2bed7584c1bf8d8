//! A head as a function sees it: the layout's view, which remembers that it was changed.

use std::net::{IpAddr, Ipv6Addr};

use weir_layout::message::{FLAG_MADE, FLAG_NO_BODY, FLAG_TLS, FLAG_UPGRADE, HeadFull, Part};

use crate::window::Window;

type View<'a> = weir_layout::message::Head<&'a mut [u8]>;

/// The head of a request or a response, or a connection's addresses. Field names are lower case.
/// Strings are bytes, which the host checked on their way in and checks again if the head was
/// changed.
#[derive(Debug)]
pub struct Head<'a> {
    view: View<'a>,
    changed: bool,
}

impl<'a> Head<'a> {
    /// The head at this offset of the window.
    ///
    /// # Safety
    /// A head must lie there that is this side's for `'a`, and no other reference into its room may
    /// be used meanwhile.
    pub(crate) unsafe fn at(window: &Window, offset: u32) -> Self {
        // SAFETY: as promised by the caller; the rest of a head's room is the head's.
        let bytes = unsafe { window.rest_of_room(offset) };
        let view = View::new(bytes).expect("the host lays heads out in whole rooms");
        Self { view, changed: false }
    }

    pub(crate) fn was_changed(&self) -> bool {
        self.changed
    }

    pub(crate) fn mark_changed(&mut self, changed: bool) {
        self.changed |= changed;
    }

    /// A request's method.
    #[must_use]
    #[inline]
    pub fn method(&self) -> &[u8] {
        self.view.part(Part::Method).unwrap_or_default()
    }

    /// The request target: path and query, as the client wrote them. Many servers take `/%61`,
    /// `//a` and `/./a` for `/a`.
    #[must_use]
    #[inline]
    pub fn path(&self) -> &[u8] {
        self.view.part(Part::Path).unwrap_or_default()
    }

    /// The request target's path, and its query without the question mark; empty without one.
    #[must_use]
    pub fn path_and_query(&self) -> (&[u8], &[u8]) {
        let target = self.path();
        match target.iter().position(|c| *c == b'?') {
            Some(mark) => (&target[..mark], &target[mark + 1..]),
            None => (target, &[]),
        }
    }

    /// The value of the first cookie of this name (RFC 6265, section 4.2).
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<&[u8]> {
        self.all("cookie").flat_map(|field| field.split(|c| *c == b';')).find_map(|pair| {
            let pair = pair.trim_ascii();
            pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
        })
    }

    /// Host and port that the request is for.
    #[must_use]
    #[inline]
    pub fn authority(&self) -> &[u8] {
        self.view.part(Part::Authority).unwrap_or_default()
    }

    /// What TLS's SNI said; empty without it.
    #[must_use]
    #[inline]
    pub fn server_name(&self) -> &[u8] {
        self.view.part(Part::ServerName).unwrap_or_default()
    }

    /// A response's status.
    #[must_use]
    #[inline]
    pub fn status(&self) -> u16 {
        self.view.status()
    }

    /// 10, 11 or 20 for HTTP/1.0, 1.1 and 2; 0 for a connection.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.view.version()
    }

    /// Whether the client's connection is encrypted.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.view.flags() & FLAG_TLS != 0
    }

    /// Whether the client asks for another protocol (WebSocket).
    #[must_use]
    pub fn upgrade(&self) -> bool {
        self.view.flags() & FLAG_UPGRADE != 0
    }

    /// Whether there is no body.
    #[must_use]
    pub fn no_body(&self) -> bool {
        self.view.flags() & FLAG_NO_BODY != 0
    }

    /// Whether a function made it, or the gateway, because no upstream answered.
    #[must_use]
    pub fn made(&self) -> bool {
        self.view.flags() & FLAG_MADE != 0
    }

    /// The upstream that sent a response, which need not be the one that was chosen: a number of
    /// `Setup::ports`. None if that is not known.
    #[must_use]
    pub fn upstream(&self) -> Option<usize> {
        self.view.upstream().map(|upstream| upstream as usize)
    }

    /// The client's address.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        Ipv6Addr::from(self.view.client().0).to_canonical()
    }

    /// The client's address as 16 bytes, IPv4 as `::ffff:a.b.c.d`: what keys are made of.
    #[must_use]
    #[inline]
    pub fn client_bytes(&self) -> [u8; 16] {
        self.view.client().0
    }

    /// The client's port.
    #[must_use]
    pub fn client_port(&self) -> u16 {
        self.view.client().1
    }

    /// The address that the client connected to.
    #[must_use]
    pub fn local(&self) -> IpAddr {
        Ipv6Addr::from(self.view.local().0).to_canonical()
    }

    /// The port that the client connected to.
    #[must_use]
    pub fn local_port(&self) -> u16 {
        self.view.local().1
    }

    /// Bytes of the body, if they are known.
    #[must_use]
    pub fn body_length(&self) -> Option<u32> {
        self.view.body_length()
    }

    /// Names and values of all fields, in order.
    #[inline]
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.view.fields()
    }

    /// The first field of this name (lower case).
    #[must_use]
    #[inline]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        assert_lower(name);
        self.view.field(name)
    }

    /// The values of all fields of this name (lower case), in order.
    #[inline]
    pub fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        assert_lower(name);
        self.view.fields().filter(move |(n, _)| *n == name.as_bytes()).map(|(_, value)| value)
    }

    /// Sets the method.
    ///
    /// # Errors
    /// When it does not fit; nothing has changed then. So for all that follow.
    pub fn set_method(&mut self, method: &[u8]) -> Result<(), HeadFull> {
        self.part(Part::Method, method)
    }

    /// Sets the request target.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn set_path(&mut self, path: &[u8]) -> Result<(), HeadFull> {
        self.part(Part::Path, path)
    }

    /// Sets host and port.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn set_authority(&mut self, authority: &[u8]) -> Result<(), HeadFull> {
        self.part(Part::Authority, authority)
    }

    fn part(&mut self, part: Part, string: &[u8]) -> Result<(), HeadFull> {
        self.view.set_part(part, string)?;
        self.changed = true;
        Ok(())
    }

    /// Sets a response's status, 200 to 599.
    pub fn set_status(&mut self, status: u16) {
        self.view.set_status(status);
        self.changed = true;
    }

    /// Makes this the only field of its name (lower case).
    ///
    /// # Errors
    /// When it does not fit.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), HeadFull> {
        assert_lower(name);
        self.view.set(name, value)?;
        self.changed = true;
        Ok(())
    }

    /// Adds a field, whether or not there are others of its name (lower case).
    ///
    /// # Errors
    /// When it does not fit.
    pub fn add(&mut self, name: &str, value: &[u8]) -> Result<(), HeadFull> {
        assert_lower(name);
        self.view.add(name.as_bytes(), value)?;
        self.changed = true;
        Ok(())
    }

    /// Deletes all fields of this name (lower case): whether there were any.
    pub fn remove(&mut self, name: &str) -> bool {
        assert_lower(name);
        let removed = self.view.remove(name) > 0;
        self.changed |= removed;
        removed
    }
}

/// Names of fields are lower case in heads. Another one would be found nowhere, and the host takes
/// none that is written: in unit tests, and in what is built for debugging, that is said.
#[inline]
fn assert_lower(name: &str) {
    debug_assert!(
        !name.bytes().any(|c| c.is_ascii_uppercase()),
        "names of fields are lower case, and \"{name}\" is not"
    );
}
