//! Who calls, and what they may do.
//!
//! The Unix socket is for whoever may open it (mode 0600): it speaks for the administrator. On TCP
//! a bearer token is needed. Tokens are compared by their SHA-256, all of them, in constant time,
//! so that the time an answer takes tells nothing.

use std::sync::{PoisonError, RwLock};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use weir_spec::{Invalid, Name, Role, Token, TokenSource};

use crate::engine::EngineError;
use crate::error::ControlError;
use crate::store::State;
use crate::store::hex;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// For logs: the name of its token, or that token's id.
    name: Option<Name>,
    role: Role,
    /// The only tenant that it may know of; none: it may know of all.
    tenant: Option<Name>,
    /// Of its token; none by the Unix socket.
    digest: Option<[u8; 32]>,
}

impl Caller {
    /// Who came by the Unix socket: may do everything.
    #[must_use]
    pub fn local() -> Self {
        Self { name: None, role: Role::Admin, tenant: None, digest: None }
    }

    /// For logs.
    pub(crate) fn name(&self) -> &str {
        self.name.as_ref().map_or("socket", Name::as_str)
    }

    /// The tenant that it belongs to; none: it is an administrator, or may look at everything.
    pub(crate) fn own_tenant(&self) -> Option<&Name> {
        self.tenant.as_ref()
    }

    /// The tenant whose thing is meant: that of the request, or the caller's own.
    ///
    /// # Errors
    /// When that is not the caller's.
    pub fn tenant(&self, asked: Option<Name>) -> Result<Name, ControlError> {
        match (&self.tenant, asked) {
            (None, asked) => Ok(asked.unwrap_or_else(Name::default_tenant)),
            (Some(own), None) => Ok(own.clone()),
            (Some(own), Some(asked)) if *own == asked => Ok(asked),
            (Some(own), Some(asked)) => Err(ControlError::Forbidden(format!(
                "this token is for tenant {own}, not for {asked}"
            ))),
        }
    }

    /// The only tenant whose things may be listed; none: all.
    ///
    /// # Errors
    /// When the request asks for another.
    pub fn filter(&self, asked: Option<Name>) -> Result<Option<Name>, ControlError> {
        match &self.tenant {
            None => Ok(asked),
            Some(_) => self.tenant(asked).map(Some),
        }
    }

    /// # Errors
    /// When the caller may only look.
    pub(crate) fn may_change(&self) -> Result<(), ControlError> {
        if self.role == Role::Viewer {
            return Err(ControlError::Forbidden(
                "this token may only look (its role is `viewer`)".into(),
            ));
        }
        Ok(())
    }

    /// Whether it may do everything.
    pub(crate) fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// # Errors
    /// When the caller may know of one tenant only.
    pub(crate) fn must_see_all(&self) -> Result<(), ControlError> {
        if self.tenant.is_some() {
            return Err(ControlError::Forbidden(
                "this is for the administrator (role `admin`), and for a `viewer` without a tenant"
                    .into(),
            ));
        }
        Ok(())
    }

    /// # Errors
    /// When the caller is not the administrator.
    pub(crate) fn must_be_admin(&self) -> Result<(), ControlError> {
        if !self.is_admin() {
            return Err(ControlError::Forbidden(
                "this is for the administrator (role `admin`)".into(),
            ));
        }
        Ok(())
    }
}

/// Tokens of the configuration file.
#[derive(Debug)]
pub struct Tokens(RwLock<Vec<([u8; 32], Caller)>>);

impl Tokens {
    /// Reads the files that hold them.
    ///
    /// # Errors
    /// When one cannot be read, or a token is too short, or another one's.
    pub fn new(tokens: &[Token]) -> Result<Self, ControlError> {
        Ok(Self(RwLock::new(read(tokens)?)))
    }

    /// Takes others instead.
    pub(crate) fn replace(&self, others: Self) {
        let others = others.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = others;
    }

    /// Who holds this token.
    #[must_use]
    pub fn caller(&self, token: &str, state: &State) -> Option<Caller> {
        self.holder(Sha256::digest(token).into(), state)
    }

    /// Whether this caller is still who it was when it came.
    pub(crate) fn know(&self, caller: &Caller, state: &State) -> bool {
        caller.digest.is_none_or(|digest| self.holder(digest, state).as_ref() == Some(caller))
    }

    /// Those of this tenant, by their names.
    pub(crate) fn of_tenant(&self, tenant: &Name) -> Vec<Name> {
        let tokens = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let own = tokens.iter().filter(|(_, caller)| caller.tenant.as_ref() == Some(tenant));
        own.filter_map(|(_, caller)| caller.name.clone()).collect()
    }

    fn holder(&self, digest: [u8; 32], state: &State) -> Option<Caller> {
        let text = hex(&digest);
        let mut found = None;
        for (known, caller) in &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            if bool::from(known.ct_eq(&digest)) {
                found = Some(caller.clone());
            }
        }
        for (id, record) in &state.tokens {
            if bool::from(record.digest.as_bytes().ct_eq(text.as_bytes())) {
                let (name, tenant) = (Some(id.clone()), Some(record.tenant.clone()));
                found = Some(Caller { name, role: record.role, tenant, digest: Some(digest) });
            }
        }
        found
    }
}

fn read(tokens: &[Token]) -> Result<Vec<([u8; 32], Caller)>, ControlError> {
    let mut all: Vec<([u8; 32], Caller)> = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let key = if token.token_file.is_some() { "token-file" } else { "token" };
        let wrong = |message: String, help: &str| {
            let invalid = Invalid::at(key, message).help(help);
            Err(invalid.within_array("token", index).within("api").into())
        };
        let text = match token.source() {
            Some(TokenSource::Inline(text)) => text.to_owned(),
            Some(TokenSource::File(path)) => std::fs::read_to_string(path).map_err(|error| {
                let message = format!("cannot read {}: {error}", path.display());
                Invalid::at(key, message).within_array("token", index).within("api")
            })?,
            None => String::new(),
        };
        let text = text.trim();
        let characters = text.chars().count();
        if characters < Token::LEAST {
            let message = format!("the token {} has {characters} characters", token.name);
            return wrong(message, "allowed: at least 16, better 32 random ones");
        }
        if text.contains(char::is_control) {
            let message = format!("the token {} has several lines", token.name);
            return wrong(message, "a token is one line");
        }
        let digest: [u8; 32] = Sha256::digest(text).into();
        let same = all.iter().zip(tokens).find(|((known, _), _)| *known == digest);
        if let Some((_, other)) = same {
            let message = format!("the token {} has the same text as {}", token.name, other.name);
            return wrong(message, "give each a text of its own: by that it is known who calls");
        }
        let (name, tenant) = (Some(token.name.clone()), token.tenant.clone());
        all.push((digest, Caller { name, role: token.role, tenant, digest: Some(digest) }));
    }
    Ok(all)
}

/// A new token with its id.
pub(crate) fn random_token() -> Result<(Name, String), ControlError> {
    let mut bytes = [0u8; 40];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)
            .map_err(|error| EngineError::Internal(format!("no random numbers: {error}")))?;
    }
    let id = hex(&bytes[..8]).parse().expect("hexadecimal digits are a name");
    Ok((id, format!("weir_{}", hex(&bytes[8..]))))
}

pub(crate) fn digest_text(token: &str) -> String {
    hex(&Sha256::digest(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, role: Role, tenant: Option<&str>) -> Token {
        Token {
            name: "t".parse().unwrap(),
            token: Some(text.into()),
            token_file: None,
            role,
            tenant: tenant.map(|t| t.parse().unwrap()),
        }
    }

    #[test]
    fn a_token_opens_its_tenant_and_nothing_else() {
        let tokens = Tokens::new(&[
            token("0123456789abcdef-a", Role::Operator, Some("acme")),
            token("0123456789abcdef-v", Role::Viewer, Some("acme")),
            token("0123456789abcdef-r", Role::Admin, None),
            token("0123456789abcdef-p", Role::Viewer, None),
        ])
        .unwrap();
        let state = State::new();
        assert_eq!(tokens.caller("0123456789abcdef", &state), None);
        assert_eq!(tokens.caller("", &state), None);
        let acme = tokens.caller("0123456789abcdef-a", &state).unwrap();
        assert_eq!(acme.tenant(None).unwrap().as_str(), "acme");
        assert!(acme.tenant(Some("default".parse().unwrap())).is_err());
        assert_eq!(acme.filter(None).unwrap().unwrap().as_str(), "acme");
        assert!(acme.must_be_admin().is_err());
        assert!(acme.may_change().is_ok());
        let viewer = tokens.caller("0123456789abcdef-v", &state).unwrap();
        assert!(viewer.may_change().is_err());
        let admin = tokens.caller("0123456789abcdef-r", &state).unwrap();
        assert_eq!(admin.filter(None).unwrap(), None);
        assert_eq!(admin.tenant(None).unwrap(), Name::default_tenant());
        assert!(admin.is_admin() && admin.must_see_all().is_ok());
        let of_all = tokens.caller("0123456789abcdef-p", &state).unwrap();
        assert_eq!(of_all.filter(None).unwrap(), None);
        assert!(of_all.must_see_all().is_ok() && acme.must_see_all().is_err());
        assert!(of_all.may_change().is_err() && of_all.must_be_admin().is_err());
    }

    #[test]
    fn a_token_file_is_read_and_its_absence_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let mut with_file = token("", Role::Admin, None);
        (with_file.token, with_file.token_file) = (None, Some(path.clone()));
        let error = Tokens::new(std::slice::from_ref(&with_file)).unwrap_err().to_string();
        assert!(error.starts_with("api.token[0].token-file: cannot read"), "{error}");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let tokens = Tokens::new(std::slice::from_ref(&with_file)).unwrap();
        assert!(tokens.caller("0123456789abcdef", &State::new()).is_some());
        std::fs::write(&path, "0123456789abcdef\nfedcba9876543210\n").unwrap();
        let error = Tokens::new(&[with_file]).unwrap_err().to_string();
        assert!(error.contains("has several lines (a token is one line)"), "{error}");
    }

    #[test]
    fn a_text_is_one_tokens() {
        let of = |name: &str, text: &str, role| {
            let tenant = (role == Role::Viewer).then_some("acme");
            Token { name: name.parse().unwrap(), ..token(text, role, tenant) }
        };
        let view = of("view", "0123456789abcdef", Role::Viewer);
        let same = [view, of("adm", "0123456789abcdef", Role::Admin)];
        let error = Tokens::new(&same).unwrap_err().to_string();
        assert!(
            error.starts_with("api.token[1].token: the token adm has the same text as view"),
            "{error}"
        );
        // Sixteen bytes, of eight characters.
        let short = Tokens::new(&[of("short", "ääääääää", Role::Admin)]).unwrap_err();
        assert!(short.to_string().contains("has 8 characters"), "{short}");
    }

    #[test]
    fn random_tokens_differ() {
        let (a, b) = (random_token().unwrap(), random_token().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.1.len(), 5 + 64);
    }
}
