//! Requests and responses that a function makes itself.

use std::borrow::Cow;

use weir_layout::message::{ENTRY, FLAG_MADE, Head, HeadFull, Part, TABLE};

/// A response of the function's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    status: u16,
    fields: Fields<'a>,
    body: Cow<'a, [u8]>,
}

/// A request of the function's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    method: Cow<'a, [u8]>,
    path: Cow<'a, [u8]>,
    authority: Cow<'a, [u8]>,
    fields: Fields<'a>,
    body: Cow<'a, [u8]>,
}

type Text<'a> = Cow<'a, [u8]>;
type Fields<'a> = Vec<(Text<'a>, Text<'a>)>;

fn bytes<'a>(text: impl Into<Cow<'a, str>>) -> Text<'a> {
    match text.into() {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

impl<'a> Response<'a> {
    /// A response with this status (200 to 599), no fields, and no body.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Cow::Borrowed(&[]) }
    }

    /// Adds a field; its name has to be lower case.
    #[must_use]
    pub fn field(self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.field_bytes(bytes(name), bytes(value))
    }

    /// Adds a field whose name and value are bytes.
    #[must_use]
    pub fn field_bytes(
        mut self,
        name: impl Into<Cow<'a, [u8]>>,
        value: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Cow<'a, [u8]>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to plain text, and says so in `content-type`.
    #[must_use]
    pub fn text(self, text: impl Into<Cow<'a, str>>) -> Self {
        self.field("content-type", "text/plain; charset=utf-8").body(bytes(text))
    }

    pub(super) fn status(&self) -> u16 {
        self.status
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.body
    }

    pub(super) fn size(&self) -> usize {
        fields_size(&self.fields)
    }

    pub(super) fn lay_out(&self, room: &mut [u8]) -> Result<(), HeadFull> {
        let mut head = Head::lay_out(room, self.fields.len()).ok_or(HeadFull)?;
        head.set_status(self.status);
        head.set_version(11, FLAG_MADE);
        head.set_body_length(Some(self.body.len() as u64));
        lay_out_fields(&mut head, &self.fields)
    }
}

impl<'a> Request<'a> {
    /// A request with this method and target, for this authority.
    #[must_use]
    pub fn new(
        method: impl Into<Cow<'a, str>>,
        authority: impl Into<Cow<'a, str>>,
        path: impl Into<Cow<'a, str>>,
    ) -> Self {
        Self {
            method: bytes(method),
            path: bytes(path),
            authority: bytes(authority),
            fields: Vec::new(),
            body: Cow::Borrowed(&[]),
        }
    }

    /// As [`Request::new`], of bytes.
    #[must_use]
    pub fn of_bytes(
        method: impl Into<Cow<'a, [u8]>>,
        authority: impl Into<Cow<'a, [u8]>>,
        path: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        Self {
            method: method.into(),
            path: path.into(),
            authority: authority.into(),
            fields: Vec::new(),
            body: Cow::Borrowed(&[]),
        }
    }

    /// Adds a field; its name has to be lower case.
    #[must_use]
    pub fn field(self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.field_bytes(bytes(name), bytes(value))
    }

    /// Adds a field whose name and value are bytes.
    #[must_use]
    pub fn field_bytes(
        mut self,
        name: impl Into<Cow<'a, [u8]>>,
        value: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Cow<'a, [u8]>>) -> Self {
        self.body = body.into();
        self
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.body
    }

    pub(super) fn size(&self) -> usize {
        fields_size(&self.fields) + self.method.len() + self.path.len() + self.authority.len()
    }

    pub(super) fn lay_out(&self, room: &mut [u8]) -> Result<(), HeadFull> {
        let mut head = Head::lay_out(room, self.fields.len()).ok_or(HeadFull)?;
        head.set_version(11, FLAG_MADE);
        head.set_body_length(Some(self.body.len() as u64));
        head.set_part(Part::Method, &self.method)?;
        head.set_part(Part::Path, &self.path)?;
        head.set_part(Part::Authority, &self.authority)?;
        lay_out_fields(&mut head, &self.fields)
    }
}

/// Bytes that a head with these fields takes.
fn fields_size(fields: &Fields<'_>) -> usize {
    let strings: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
    TABLE + fields.len() * ENTRY + strings
}

fn lay_out_fields(head: &mut Head<&mut [u8]>, fields: &Fields<'_>) -> Result<(), HeadFull> {
    fields.iter().try_for_each(|(name, value)| head.add(name, value))
}
