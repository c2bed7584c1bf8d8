//! Whether `xdp` ports have all receive queues of their interfaces: what arrives at another queue
//! no chain sees, and rules only of a port that has the interface alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use weir_spec::{Port, PortKind};

/// What to say of a port whose interface has queues in use that none of all `ports` has. Nothing is
/// said of what the machine does not tell. `sys`: where sysfs is.
pub(crate) fn warning<'p>(
    ports: impl Iterator<Item = &'p Port> + Clone,
    port: &Port,
    sys: &Path,
) -> Option<String> {
    let interface = port.interface.as_deref().filter(|_| port.kind == PortKind::Xdp)?;
    let queues = in_use(sys, interface)?;
    let mine = ports.clone().filter(|other| is_on(other, interface));
    let had = mine.flat_map(Port::xdp_queues).filter(|queue| *queue < queues);
    let had: BTreeSet<u32> = had.collect();
    let had = had.len();
    let passed_by = match is_alone(ports, port) {
        true => "all chains, and go to the kernel if no rule drops them",
        false => "all chains and rules, and go to the kernel",
    };
    (had < queues as usize).then(|| {
        format!(
            "port {}: {interface} has {queues} receive queues, and ports have {had} of them: packets of the others pass by {passed_by}. \
             Let everything come to these (`ethtool -L {interface} combined {}`), or have \
             all of them (`queues = {queues}` for the port, `workers = {queues}` for its chains)",
            port.name,
            had.max(1)
        )
    })
}

/// Whether none of these ports but this one is on its interface: its rules hold at all queues then.
pub(crate) fn is_alone<'p>(mut ports: impl Iterator<Item = &'p Port>, port: &Port) -> bool {
    let interface = port.interface.as_deref().unwrap_or_default();
    ports.all(|other| other.name == port.name || !is_on(other, interface))
}

fn is_on(port: &Port, interface: &str) -> bool {
    port.kind == PortKind::Xdp && port.interface.as_deref() == Some(interface)
}

/// Receive queues that an interface has now; it may have been made for more.
fn in_use(sys: &Path, interface: &str) -> Option<u32> {
    let entries = fs::read_dir(sys.join("class/net").join(interface).join("queues")).ok()?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    u32::try_from(names.filter(|name| name.starts_with("rx-")).count()).ok()
}

#[cfg(test)]
mod tests {
    use weir_spec::{Document, HostConfig};

    use super::*;

    #[test]
    fn a_port_is_told_of_whose_interface_has_queues_without_a_port() {
        let sys = tempfile::tempdir().unwrap();
        for queue in ["rx-0", "rx-1", "rx-2", "tx-0"] {
            fs::create_dir_all(sys.path().join("class/net/eth1/queues").join(queue)).unwrap();
        }
        let told = |ports: &[(&str, &str)]| -> Vec<String> {
            let port = |(name, keys): &(&str, &str)| {
                format!("[[port]]\nname = \"{name}\"\nkind = \"xdp\"\n{keys}\n")
            };
            let text: String = ports.iter().map(port).collect();
            let ports = Document::<HostConfig>::parse("weir.toml", &text).unwrap().value.ports;
            let warning = |port| super::warning(ports.iter(), port, sys.path());
            ports.iter().filter_map(warning).collect()
        };
        let one = told(&[("a", "interface = \"eth1\"")]);
        assert_eq!(one.len(), 1, "{one:?}");
        assert!(
            one[0].starts_with("port a: eth1 has 3 receive queues, and ports have 1 of them: "),
            "{one:?}"
        );
        assert!(one[0].contains("`ethtool -L eth1 combined 1`"), "{one:?}");
        assert!(
            one[0].contains("all chains, and go to the kernel if no rule drops them"),
            "{one:?}"
        );
        // All of them, by one port or by several; and an interface that nothing is known of.
        assert_eq!(told(&[("a", "interface = \"eth1\"\nqueues = 3")]), Vec::<String>::new());
        let two = [
            ("a", "interface = \"eth1\"\nqueues = 2"),
            ("b", "interface = \"eth1\"\nqueue = 2"),
            ("c", "interface = \"eth2\""),
        ];
        assert_eq!(told(&two), Vec::<String>::new());
        assert_eq!(told(&two[..1]).len(), 1);
        // Rules of ports that share an interface hold at none of these queues.
        let shared =
            told(&[("a", "interface = \"eth1\""), ("b", "interface = \"eth1\"\nqueue = 1")]);
        assert_eq!(shared.len(), 2);
        assert!(
            shared.iter().all(|told| told.contains("all chains and rules, and go to")),
            "{shared:?}"
        );
    }
}
