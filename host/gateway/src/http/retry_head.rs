//! A copy of a request's head, for the case that it has to be sent again.
//!
//! Nearly none is: so it is bytes one behind the other, written at once, and becomes a head when it
//! is needed. A copy of the map of fields costs an allocation more, and two counts of references
//! for each field.

use http::{HeaderName, HeaderValue, Method, Request, Uri, request};
use smallvec::SmallVec;

/// See the module.
pub(crate) struct RetryHead {
    method: Method,
    uri: Uri,
    /// Names and values of all fields.
    bytes: Vec<u8>,
    /// How long each is.
    lengths: SmallVec<[(u32, u32); 16]>,
}

impl RetryHead {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let mut bytes = Vec::with_capacity(512);
        let mut lengths = SmallVec::new();
        for (name, value) in request.headers() {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value);
            // Heads are shorter than 4 GiB by far.
            lengths.push((name.len() as u32, value.len() as u32));
        }
        Self { method: request.method().clone(), uri: request.uri().clone(), bytes, lengths }
    }

    /// The head.
    pub(crate) fn parts(&self) -> request::Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        (parts.method, parts.uri) = (self.method.clone(), self.uri.clone());
        let mut rest = &self.bytes[..];
        for (name, value) in &self.lengths {
            let (name, behind) = rest.split_at(*name as usize);
            let (value, behind) = behind.split_at(*value as usize);
            rest = behind;
            // They were a name and a value before.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                parts.headers.append(name, value);
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back_whole() {
        let mut request = Request::put("/a?b").body(()).unwrap();
        let fields: [(&str, &[u8]); 5] = [
            ("host", b"example.org"),
            ("x-a", b""),
            ("cookie", b"a=1"),
            ("cookie", "b=\u{e9}".as_bytes()),
            ("x-forwarded-for", b"192.0.2.1"),
        ];
        for (name, value) in fields {
            request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let parts = RetryHead::of(&request).parts();
        assert_eq!((&parts.method, &parts.uri), (request.method(), request.uri()));
        assert_eq!(&parts.headers, request.headers());
    }
}
