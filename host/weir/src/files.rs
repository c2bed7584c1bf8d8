//! How many files this process may have open, and whether that is enough: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use weir_spec::HostConfig;

/// Connections of the API, by TCP and by its socket.
const API: u64 = 640;
/// The store, ports, and chains, which have some each.
const OTHERS: u64 = 512;

/// Lets this process open as many files as the administrator allows. A chain has some open, and the
/// usual soft limit of 1,024 is there for programs that use select(2).
pub(crate) fn allow() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("the limit of open files cannot be raised: {error}");
    }
}

/// Warns if they are too few for what the configuration lets come.
pub(crate) fn warn_of_too_few(config: &HostConfig) {
    if let Some(warning) = warning(config, getrlimit(Resource::Nofile).current) {
        tracing::warn!("{warning}");
    }
}

/// `limit`: files that may be open; none: any number.
fn warning(config: &HostConfig, limit: Option<u64>) -> Option<String> {
    let limit = limit?;
    let clients = config.listeners.iter().map(|listener| u64::from(listener.limits.connections));
    let clients: u64 = clients.sum();
    // Each has one to an upstream.
    let needed = clients * 2 + API + OTHERS;
    (limit < needed).then(|| {
        let lower = if clients > 0 { ", or lower `connections`" } else { "" };
        format!(
            "at most {limit} files can be open, which is too few for all that may come: {clients} connections of clients (`[listener.limits] \
             connections`), each with one to an upstream, {API} of the API, and some {OTHERS} others are {needed}; raise the limit \
             (`LimitNOFILE=` in the systemd unit, `ulimit -Hn`){lower}"
        )
    })
}

#[cfg(test)]
mod tests {
    use weir_spec::Document;

    use super::*;

    #[test]
    fn files_are_counted_that_connections_take() {
        let listener = |name: &str, connections: u32| {
            format!(
                "[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
                 upstream = [\"127.0.0.1:9\"]\n[listener.limits]\nconnections = {connections}\n"
            )
        };
        let text = listener("a", 1000) + &listener("b", 24);
        let config = Document::<HostConfig>::parse("weir.toml", &text).unwrap().value;
        assert_eq!(warning(&config, None), None);
        assert_eq!(warning(&config, Some(3200)), None);
        let told = warning(&config, Some(3199)).unwrap();
        assert!(told.contains("at most 3199") && told.contains("are 3200"), "{told}");
        assert_eq!(warning(&HostConfig::default(), Some(1152)), None);
    }
}
