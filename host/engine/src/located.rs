//! What those say who know no configuration file, as something that is wrong at a key of it, with
//! what to do.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;

use weir_control::api::ServeError;
use weir_gateway::GatewayError;
use weir_spec::{Invalid, Listener};

/// What keeps the API from being offered, as an error at the key that says where it shall be.
pub fn api(error: &ServeError) -> Invalid {
    let invalid = match error {
        ServeError::Listen { address, source } => {
            let invalid = Invalid::at("listen", error.to_string());
            advised(invalid, *address, source)
        }
        _ => Invalid::at("socket", error.to_string()),
    };
    invalid.within("api")
}

/// What keeps a listener from being had, the one at this place.
pub(crate) fn listener(error: &GatewayError, listener: &Listener, place: usize) -> Invalid {
    let message = error.to_string();
    let invalid = match error {
        GatewayError::Listen { address, error, .. } => {
            advised(Invalid::at("address", message), *address, error)
        }
        GatewayError::Certificate { file, of_key, .. } => in_file(listener, file, *of_key, message),
        _ => Invalid::whole(message),
    };
    invalid.within_array("listener", place)
}

/// What keeps the listener from being had that the error is about, if it is one of these.
pub(crate) fn listener_of(error: &GatewayError, listeners: &[Listener]) -> Option<Invalid> {
    let is_about = |one: &Listener| match error {
        GatewayError::Certificate { file, of_key, .. } => {
            !in_file(one, file, *of_key, String::new()).path.is_empty()
        }
        GatewayError::Config { listener: name, .. }
        | GatewayError::Listen { listener: name, .. }
        | GatewayError::Chain { listener: name, .. }
        | GatewayError::Partly { listener: name, .. }
        | GatewayError::Unknown(name) => one.name.as_str() == name,
        GatewayError::Thread(_) => false,
    };
    let place = listeners.iter().position(is_about)?;
    Some(listener(error, &listeners[place], place))
}

/// The first key that names a file of certificates, or of a private key: one may be named as both,
/// by mistake.
fn in_file(listener: &Listener, file: &Path, of_key: bool, message: String) -> Invalid {
    for (place, tls) in listener.tls.iter().enumerate() {
        for (key, path) in [("certificate", &tls.certificate), ("key", &tls.key)] {
            if path == file && (key == "key") == of_key {
                return Invalid::at(key, message).within_array("tls", place);
            }
        }
    }
    if let Some(of) = &listener.client_certificates {
        for (key, path) in
            [("authorities", Some(&of.authorities)), ("revoked", of.revoked.as_ref())]
        {
            if path.is_some_and(|path| path == file) {
                return Invalid::at(key, message).within("client-certificates");
            }
        }
    }
    for (place, of) in listener.upstream.iter().enumerate() {
        for (key, path) in
            [("authorities", &of.authorities), ("certificate", &of.certificate), ("key", &of.key)]
        {
            if path.as_deref() == Some(file) && (key == "key") == of_key {
                return Invalid::at(key, message).within_array("upstream", place);
            }
        }
    }
    Invalid::whole(message)
}

/// What to do when an address cannot be listened at.
fn advised(invalid: Invalid, address: SocketAddr, error: &io::Error) -> Invalid {
    let port = address.port();
    match error.kind() {
        ErrorKind::AddrInUse => invalid.help(format!(
            "`ss -ltnp 'sport = :{port}'` tells which program listens there: stop it, or name another address"
        )),
        ErrorKind::AddrNotAvailable => invalid.help("`ip address` lists the addresses of this machine"),
        ErrorKind::PermissionDenied if port < 1024 => invalid.help(
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE (systemd: `AmbientCapabilities=CAP_NET_BIND_SERVICE`)",
        ),
        _ => invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_named_twice_is_told_at_the_key_that_it_is_no_good_for() {
        let text = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\nupstream = [\"127.0.0.1:2\"]\n\
                    protocol = \"http\"\n[[listener.tls]]\ncertificate = \"c.pem\"\nkey = \"c.pem\"\n";
        let config =
            weir_spec::Document::<weir_spec::HostConfig>::parse("weir.toml", text).unwrap().value;
        for (of_key, path) in
            [(true, "listener[0].tls[0].key"), (false, "listener[0].tls[0].certificate")]
        {
            let error =
                GatewayError::Certificate { file: "c.pem".into(), of_key, what: String::new() };
            let invalid = listener_of(&error, &config.listeners).unwrap();
            assert_eq!(invalid.key(), path);
        }
    }
}
