//! A model of the kernel: a device tree of files in a directory, which changes as sysfs does when
//! it is written, and links.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;
use weir_sriov::{Kernel, Link, LinkState, MacAddress, VfSettings, VfValue};

pub(crate) const PF: &str = "0000:01:00.0";
pub(crate) const PF_INTERFACE: &str = "ens1f0";
/// What the model's device can have at most.
pub(crate) const TOTAL: u16 = 7;
/// Of the first virtual function from the physical one, and from one to the next; as the Intel
/// 82576 has them.
const OFFSET: u16 = 128;
const STRIDE: u16 = 2;

const EIO: i32 = 5;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const EOPNOTSUPP: i32 = 95;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Face {
    pub(crate) up: bool,
    pub(crate) addresses: Vec<(IpAddr, u8)>,
    /// The MAC address that its driver took when it got the function.
    pub(crate) mac: MacAddress,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) vfs: BTreeMap<u16, VfSettings>,
    pub(crate) faces: BTreeMap<String, Face>,
}

/// When the host crashes: before this many more calls, and whether the last one still has its
/// effect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash {
    pub(crate) after: u32,
    pub(crate) acts: bool,
}

pub(crate) struct Model {
    pub(crate) directory: TempDir,
    sys: PathBuf,
    proc: PathBuf,
    pub(crate) state: Mutex<State>,
    pub(crate) crash: Mutex<Option<Crash>>,
}

/// The address of a virtual function.
pub(crate) fn vf_address(index: u16) -> String {
    let number = 0x100 + OFFSET + STRIDE * index;
    format!("0000:{:02x}:{:02x}.{}", number >> 8, number >> 3 & 0x1f, number & 7)
}

fn vf_index(address: &str) -> Option<u16> {
    (0..TOTAL).find(|index| vf_address(*index) == address)
}

impl Model {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (sys, proc) = (directory.path().join("sys"), directory.path().join("proc"));
        let model = Self { directory, sys, proc, state: Mutex::default(), crash: Mutex::default() };
        for driver in ["igb", "igbvf", "vfio-pci"] {
            fs::create_dir_all(model.sys.join("bus/pci/drivers").join(driver)).unwrap();
        }
        fs::create_dir_all(model.sys.join("class/net")).unwrap();
        fs::create_dir_all(model.proc.join("sys/kernel/random")).unwrap();
        fs::write(model.proc.join("sys/kernel/random/boot_id"), "this\n").unwrap();
        model.add_device(PF, 1);
        for (file, text) in [
            ("sriov_totalvfs", TOTAL.to_string()),
            ("sriov_numvfs", "0".to_owned()),
            ("sriov_offset", OFFSET.to_string()),
            ("sriov_stride", STRIDE.to_string()),
            ("sriov_drivers_autoprobe", "1".to_owned()),
            ("numa_node", "-1".to_owned()),
        ] {
            model.put(PF, file, &text);
        }
        model.bind(PF, "igb");
        model
    }

    pub(crate) fn device(&self, address: &str) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address)
    }

    fn put(&self, address: &str, file: &str, text: &str) {
        fs::write(self.device(address).join(file), format!("{text}\n")).unwrap();
    }

    fn get(&self, address: &str, file: &str) -> String {
        fs::read_to_string(self.device(address).join(file)).unwrap_or_default().trim().to_owned()
    }

    fn add_device(&self, address: &str, group: u32) {
        let groups = self.sys.join(format!("kernel/iommu_groups/{group}"));
        fs::create_dir_all(groups.join("devices")).unwrap();
        fs::create_dir_all(self.device(address)).unwrap();
        symlink(&groups, self.device(address).join("iommu_group")).unwrap();
        symlink(self.device(address), groups.join("devices").join(address)).unwrap();
        self.put(address, "class", "0x020000");
        self.put(address, "driver_override", "(null)");
    }

    fn face_of(address: &str) -> String {
        vf_index(address).map_or_else(|| PF_INTERFACE.to_owned(), |i| format!("{PF_INTERFACE}v{i}"))
    }

    pub(crate) fn driver(&self, address: &str) -> Option<String> {
        let link = fs::read_link(self.device(address).join("driver")).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    fn bind(&self, address: &str, driver: &str) {
        symlink(self.sys.join("bus/pci/drivers").join(driver), self.device(address).join("driver"))
            .unwrap();
        if driver == "vfio-pci" {
            return;
        }
        let name = Self::face_of(address);
        fs::create_dir_all(self.device(address).join("net").join(&name)).unwrap();
        let class = self.sys.join("class/net").join(&name);
        fs::create_dir_all(&class).unwrap();
        symlink(self.device(address), class.join("device")).unwrap();
        let mut state = self.state.lock().unwrap();
        let set = vf_index(address).and_then(|index| state.vfs.get(&index)?.mac);
        let face = Face { mac: set.unwrap_or_default(), ..Face::default() };
        state.faces.insert(name, face);
    }

    fn unbind(&self, address: &str) {
        if self.driver(address).is_none() {
            return;
        }
        fs::remove_file(self.device(address).join("driver")).unwrap();
        let _ = fs::remove_dir_all(self.device(address).join("net"));
        let name = Self::face_of(address);
        let _ = fs::remove_dir_all(self.sys.join("class/net").join(&name));
        self.state.lock().unwrap().faces.remove(&name);
    }

    /// What the kernel does with a device that has no driver.
    fn probe(&self, address: &str) {
        let only = self.get(address, "driver_override");
        let may = only != "(null)" || self.get(PF, "sriov_drivers_autoprobe") == "1";
        let driver = if only == "(null)" { "igbvf" } else { &only };
        let loaded = self.sys.join("bus/pci/drivers").join(driver).exists();
        if self.driver(address).is_none() && may && loaded {
            self.bind(address, driver);
        }
    }

    fn count(&self, wanted: u16) -> io::Result<()> {
        let now: u16 = self.get(PF, "sriov_numvfs").parse().unwrap();
        if now == wanted {
            return Ok(());
        }
        if now > 0 && wanted > 0 {
            return Err(io::Error::from_raw_os_error(EBUSY));
        }
        for index in 0..now {
            let address = vf_address(index);
            self.unbind(&address);
            self.state.lock().unwrap().vfs.remove(&index);
            fs::remove_file(self.device(PF).join(format!("virtfn{index}"))).unwrap();
            fs::remove_dir_all(self.device(&address)).unwrap();
            fs::remove_dir_all(self.sys.join(format!("kernel/iommu_groups/{}", 10 + index)))
                .unwrap();
        }
        for index in 0..wanted {
            let address = vf_address(index);
            let settings = VfSettings {
                index,
                mac: Some(MacAddress::default()),
                trust: Some(false),
                spoof_check: Some(true),
                link: Some(LinkState::Auto),
                ..VfSettings::default()
            };
            self.state.lock().unwrap().vfs.insert(index, settings);
            self.add_device(&address, 10 + u32::from(index));
            symlink(self.device(PF), self.device(&address).join("physfn")).unwrap();
            symlink(self.device(&address), self.device(PF).join(format!("virtfn{index}"))).unwrap();
            self.probe(&address);
        }
        self.put(PF, "sriov_numvfs", &wanted.to_string());
        Ok(())
    }

    fn act(&self, file: &Path, text: &str) -> io::Result<()> {
        let path = file.strip_prefix(&self.sys).unwrap().to_str().unwrap().to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        let text = text.trim();
        match parts[..] {
            ["bus", "pci", "devices", PF, "sriov_numvfs"] => self.count(text.parse().unwrap()),
            ["bus", "pci", "devices", PF, file @ "sriov_drivers_autoprobe"]
            | ["bus", "pci", "devices", _, "physfn", file @ "sriov_drivers_autoprobe"] => {
                self.put(PF, file, text);
                Ok(())
            }
            ["bus", "pci", "devices", address, file @ "driver_override"] => {
                self.put(address, file, if text.is_empty() { "(null)" } else { text });
                Ok(())
            }
            ["bus", "pci", "devices", address, "driver", "unbind"] => {
                assert_eq!(address, text);
                self.unbind(address);
                Ok(())
            }
            ["bus", "pci", "drivers", driver, "bind"] => {
                let only = self.get(text, "driver_override");
                if self.driver(text).is_some()
                    || !(only == driver || only == "(null)" && driver == "igbvf")
                {
                    return Err(io::Error::from_raw_os_error(ENODEV));
                }
                self.probe(text);
                match self.driver(text) {
                    Some(_) => Ok(()),
                    None => Err(io::Error::from_raw_os_error(ENODEV)),
                }
            }
            ["bus", "pci", "drivers_probe"] => {
                self.probe(text);
                Ok(())
            }
            _ => panic!("nobody writes {path}"),
        }
    }

    /// Does it, unless the host crashes here; then nothing has an effect any more.
    fn unless_crashed<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut crash = self.crash.lock().unwrap();
        match &mut *crash {
            Some(Crash { after: 0, acts }) => {
                if std::mem::replace(acts, false) {
                    let _ = act();
                }
                Err(io::Error::from_raw_os_error(EIO))
            }
            Some(Crash { after, .. }) => {
                *after -= 1;
                act()
            }
            None => act(),
        }
    }

    /// Everything that can be seen from outside.
    pub(crate) fn snapshot(&self) -> (BTreeMap<PathBuf, String>, State) {
        fn walk(directory: &Path, all: &mut BTreeMap<PathBuf, String>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                let text = if kind.is_symlink() {
                    fs::read_link(&path).unwrap().display().to_string()
                } else if kind.is_dir() {
                    walk(&path, all);
                    String::new()
                } else {
                    fs::read_to_string(&path).unwrap()
                };
                all.insert(path, text);
            }
        }
        let mut all = BTreeMap::new();
        walk(&self.sys, &mut all);
        (all, self.state.lock().unwrap().clone())
    }
}

impl Kernel for Model {
    fn sys(&self) -> &Path {
        &self.sys
    }

    fn proc(&self) -> &Path {
        &self.proc
    }

    /// The model does everything at once.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        self.unless_crashed(|| self.act(file, text))
    }

    fn link(&self, interface: &str) -> io::Result<Option<Link>> {
        let state = self.state.lock().unwrap();
        let vfs = state.vfs.values().cloned().collect();
        let vfs = if interface == PF_INTERFACE { vfs } else { Vec::new() };
        Ok(state.faces.get(interface).map(|face| Link { up: face.up, vfs, ..Link::default() }))
    }

    fn addresses(&self, interface: &str) -> io::Result<Vec<(IpAddr, u8)>> {
        let state = self.state.lock().unwrap();
        Ok(state.faces.get(interface).map(|face| face.addresses.clone()).unwrap_or_default())
    }

    fn set_vf(&self, interface: &str, index: u16, value: &VfValue) -> io::Result<()> {
        assert_eq!(interface, PF_INTERFACE);
        self.unless_crashed(|| {
            let mut state = self.state.lock().unwrap();
            let vf = state.vfs.get_mut(&index).ok_or(io::ErrorKind::InvalidInput)?;
            match *value {
                VfValue::Mac(mac) => vf.mac = Some(mac),
                VfValue::Vlan { vlan, qos } => (vf.vlan, vf.qos) = (vlan, qos),
                VfValue::Trust(on) => vf.trust = Some(on),
                VfValue::SpoofCheck(on) => vf.spoof_check = Some(on),
                VfValue::Rate { min, max } => (vf.min_rate, vf.max_rate) = (min, max),
                // As igb does.
                VfValue::Link(_) => return Err(io::Error::from_raw_os_error(EOPNOTSUPP)),
            }
            Ok(())
        })
    }

    fn set_up(&self, interface: &str, up: bool) -> io::Result<()> {
        self.unless_crashed(|| {
            self.state.lock().unwrap().faces.get_mut(interface).unwrap().up = up;
            Ok(())
        })
    }

    fn set_address(
        &self,
        interface: &str,
        address: IpAddr,
        prefix: u8,
        present: bool,
    ) -> io::Result<()> {
        self.unless_crashed(|| {
            let mut state = self.state.lock().unwrap();
            let face = state.faces.get_mut(interface).unwrap();
            face.addresses.retain(|given| *given != (address, prefix));
            if present {
                face.addresses.push((address, prefix));
            }
            Ok(())
        })
    }
}
