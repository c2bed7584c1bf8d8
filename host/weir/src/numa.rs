//! Whether workers run where the devices of ports are: a packet that crosses to another NUMA node
//! costs several times as much.

use std::fs;
use std::path::Path;

use weir_spec::{HostConfig, Port};

/// What to say about ports whose device is on another node than all cores of the workers. Nothing
/// is said of what the machine does not tell. `sys`: where sysfs is.
pub(crate) fn warnings(config: &HostConfig, sys: &Path) -> Vec<String> {
    let nodes: Option<Vec<u32>> =
        config.workers.cores.iter().map(|core| node_of_core(sys, *core)).collect();
    let Some(nodes) = nodes.filter(|nodes| !nodes.is_empty()) else { return Vec::new() };
    let far = config.ports.iter().filter_map(|port| {
        let node = node_of_port(sys, port)?;
        (!nodes.contains(&node)).then(|| {
            format!(
                "port {} is on NUMA node {node}, and no worker is: choose `cores` in [workers] there (`lscpu` lists them)",
                port.name
            )
        })
    });
    far.collect()
}

fn node_of_core(sys: &Path, core: u16) -> Option<u32> {
    let entries = fs::read_dir(sys.join(format!("devices/system/cpu/cpu{core}"))).ok()?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("node")?.parse().ok()).next()
}

/// By the interface's name, or the device's PCI address; others have no node.
fn node_of_port(sys: &Path, port: &Port) -> Option<u32> {
    let place = match (&port.interface, &port.device) {
        (Some(interface), _) => sys.join("class/net").join(interface).join("device"),
        (None, Some(device)) => sys.join("bus/pci/devices").join(device.split(',').next()?),
        (None, None) => return None,
    };
    // -1: the machine has none.
    fs::read_to_string(place.join("numa_node")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use weir_spec::Document;

    use super::*;

    #[test]
    fn a_port_is_told_of_whose_device_is_far_from_all_workers() {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("devices/system/cpu/cpu2/node0/cpulist", "0-3\n");
        write("class/net/eth1/device/numa_node", "0\n");
        write("class/net/eth2/device/numa_node", "-1\n");
        write("bus/pci/devices/0000:81:00.0/numa_node", "1\n");
        let warnings = |workers: &str| {
            let text = format!(
                "{workers}\n[[port]]\nname = \"near\"\nkind = \"xdp\"\ninterface = \"eth1\"\n\
                 [[port]]\nname = \"nowhere\"\nkind = \"xdp\"\ninterface = \"eth2\"\n\
                 [[port]]\nname = \"far\"\nkind = \"dpdk\"\ndevice = \"0000:81:00.0,txq=1\"\n\
                 [[port]]\nname = \"none\"\nkind = \"memory\"\n"
            );
            let config = Document::<HostConfig>::parse("weir.toml", &text).unwrap().value;
            super::warnings(&config, sys.path())
        };
        let told = warnings("[workers]\ncores = [2]");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("port far is on NUMA node 1, and no worker is"), "{told:?}");
        // Not pinned, or to a core of which nothing is known: nothing to say.
        assert_eq!(warnings(""), Vec::<String>::new());
        assert_eq!(warnings("[workers]\ncores = [7]"), Vec::<String>::new());
    }
}
