//! What a host that runs does not take of a configuration that it reads again.

use std::collections::BTreeSet;

use crate::HostConfig;

/// Entries that are in one of both and not alike in the other, by their names.
fn differ<T: PartialEq>(old: &[T], new: &[T], name: impl Fn(&T) -> String) -> BTreeSet<String> {
    let changed = |one: &[T], other: &[T]| {
        let changed = one.iter().filter(|entry| !other.contains(entry));
        changed.map(&name).collect::<BTreeSet<_>>()
    };
    &changed(old, new) | &changed(new, old)
}

impl HostConfig {
    /// The tables and keys of another configuration that hold only from the next start on, of those
    /// that differ.
    #[must_use]
    pub fn waits_for_start(&self, new: &Self) -> Vec<String> {
        let keys = [
            ("[workers]", self.workers != new.workers),
            ("[api] socket", self.api.socket != new.api.socket),
            ("[api] listen", self.api.listen != new.api.listen),
            ("[api] compile-timeout", self.api.compile_timeout != new.api.compile_timeout),
            ("[store]", self.store != new.store),
            ("[pool]", self.pool != new.pool),
            ("[gateway]", self.gateway != new.gateway),
        ];
        let keys = keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned());
        let nics = differ(&self.nics, &new.nics, |nic| format!("[[nic]] {}", nic.pf));
        let ports = differ(&self.ports, &new.ports, |port| format!("[[port]] {}", port.name));
        let listeners = new.listeners.iter().flat_map(|listener| {
            let old = self.listeners.iter().find(|old| old.name == listener.name);
            let (device, prefix, transparent) = old
                .map_or((&None, listener.prefix, listener.transparent), |old| {
                    (&old.device, old.prefix, old.transparent)
                });
            [
                ("device", *device != listener.device),
                ("prefix", prefix != listener.prefix),
                ("transparent", transparent != listener.transparent),
            ]
            .into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(key, _)| format!("[[listener]] {}: {key}", listener.name))
        });
        keys.chain(nics).chain(ports).chain(listeners).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Document, HostConfig};

    fn read(text: &str) -> HostConfig {
        Document::parse("weir.toml", text).unwrap().value
    }

    #[test]
    fn what_waits_for_the_next_start_is_named() {
        let old = read(
            "[[port]]\nname = \"a\"\nkind = \"memory\"\n[[port]]\nname = \"b\"\nkind = \"memory\"\n\
             [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:1\"\nprotocol = \"http\"\n\
             upstream = [\"127.0.0.1:2\"]\n",
        );
        assert_eq!(old.waits_for_start(&old), Vec::<String>::new());
        let new = read(
            "[api]\nlisten = \"127.0.0.1:3\"\ntimeout = \"5s\"\n[pool]\nrooms = 128\n\
             [[port]]\nname = \"a\"\nkind = \"memory\"\n[[port]]\nname = \"c\"\nkind = \"memory\"\n\
             [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:4\"\nprotocol = \"http\"\n\
             upstream = [\"127.0.0.1:5\"]\ndevice = \"eth1\"\nprefix = 24\n\
             [[listener]]\nname = \"other\"\naddress = \"127.0.0.1:6\"\nprotocol = \"http\"\n\
             upstream = [\"127.0.0.1:5\"]\ndevice = \"eth2\"\n",
        );
        assert_eq!(
            old.waits_for_start(&new),
            [
                "[api] listen",
                "[pool]",
                "[[port]] b",
                "[[port]] c",
                "[[listener]] web: device",
                "[[listener]] web: prefix",
                "[[listener]] other: device",
            ]
        );
    }
}
