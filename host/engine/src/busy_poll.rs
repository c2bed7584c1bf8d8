//! Whether the kernel keeps interrupts off where `xdp` ports poll their device themselves: else
//! both serve the queue, and polling brings nothing. See "Busy polling" in
//! `Documentation/networking/napi.rst`.

use std::fs;
use std::path::Path;

use weir_spec::{Port, PortKind};

/// What an interface needs for it, with values to begin with: rounds without packets before
/// interrupts come again, and nanoseconds after which the kernel polls by itself if nobody else
/// does.
const NEEDED: [(&str, u64); 2] = [("napi_defer_hard_irqs", 2), ("gro_flush_timeout", 200_000)];

/// What to say of a port with `busy-poll` whose interface has not what that needs. `sys`: where
/// sysfs is.
pub(crate) fn warning(port: &Port, sys: &Path) -> Option<String> {
    let interface = port.interface.as_deref().filter(|_| port.kind == PortKind::Xdp)?;
    port.busy_poll?;
    let directory = sys.join("class/net").join(interface);
    let is_off = |(name, _): &&(&str, u64)| {
        fs::read_to_string(directory.join(name)).is_ok_and(|text| text.trim() == "0")
    };
    let off: Vec<_> = NEEDED.iter().filter(is_off).collect();
    if off.is_empty() {
        return None;
    }
    let names: Vec<String> = off.iter().map(|(name, _)| format!("`{name}`")).collect();
    let commands: Vec<String> = off
        .iter()
        .map(|(name, value)| format!("`echo {value} > /sys/class/net/{interface}/{name}`"))
        .collect();
    Some(format!(
        "port {}: `busy-poll` brings nothing while {} of {interface} is 0, because interrupts come all the same: {}",
        port.name,
        names.join(" and "),
        commands.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use weir_spec::{Document, HostConfig};

    use super::*;

    #[test]
    fn a_port_is_told_of_whose_interface_goes_on_with_interrupts() {
        let sys = tempfile::tempdir().unwrap();
        let directory = sys.path().join("class/net/eth1");
        fs::create_dir_all(&directory).unwrap();
        let set = |name: &str, value: &str| fs::write(directory.join(name), value).unwrap();
        let told = |keys: &str| {
            let text =
                format!("[[port]]\nname = \"wan\"\nkind = \"xdp\"\ninterface = \"eth1\"\n{keys}\n");
            let config = Document::<HostConfig>::parse("weir.toml", &text).unwrap().value;
            warning(&config.ports[0], sys.path())
        };
        // Nothing is known of it.
        assert_eq!(told("busy-poll = \"20us\""), None);
        set("napi_defer_hard_irqs", "0\n");
        set("gro_flush_timeout", "0\n");
        assert_eq!(told(""), None);
        let both = told("busy-poll = \"20us\"").unwrap();
        assert!(both.contains("`napi_defer_hard_irqs` and `gro_flush_timeout` of eth1"), "{both}");
        set("napi_defer_hard_irqs", "2\n");
        let one = told("busy-poll = \"20us\"").unwrap();
        assert!(one.ends_with("`echo 200000 > /sys/class/net/eth1/gro_flush_timeout`"), "{one}");
        set("gro_flush_timeout", "200000\n");
        assert_eq!(told("busy-poll = \"20us\""), None);
    }
}
