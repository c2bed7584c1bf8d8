//! What the configuration asks for of virtual functions and interfaces, and where it asks.

use std::net::IpAddr;

use weir_spec::{HostConfig, Invalid, MacAddress, Name, NicVf, PortKind, VfLink, VfName};
use weir_sriov::{
    Found, InterfaceWish, NewSettings, NicWish, PciAddress, Purpose, UnfulfilledWish, VfWish, Wish,
};

/// Who has a virtual function.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) tenant: Name,
    pub(super) name: Name,
    pub(super) role: Role,
}

/// As what somebody has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A port's device.
    Port,
    /// The kernel's end of a port's link.
    Peer,
    /// A listener's device.
    Listener,
}

/// A virtual function that ports or listeners have.
#[derive(Clone, Debug)]
pub(super) struct Used {
    pub(super) called: VfName,
    pub(super) address: PciAddress,
    pub(super) driver: Option<String>,
    pub(super) users: Vec<User>,
}

/// A key of the configuration that may name a function or an interface, by the place of its table.
#[derive(Clone, Copy, Debug)]
enum Key {
    PortDevice(usize),
    PortInterface(usize),
    PortPeer(usize),
    ListenerDevice(usize),
}

impl Key {
    fn text(self, config: &HostConfig) -> Option<&str> {
        match self {
            Self::PortDevice(place) => config.ports[place].device.as_deref(),
            Self::PortInterface(place) => config.ports[place].interface.as_deref(),
            Self::PortPeer(place) => config.ports[place].peer.as_deref(),
            Self::ListenerDevice(place) => config.listeners[place].device.as_deref(),
        }
    }

    /// Puts what was found in place of the name.
    fn put(self, config: &mut HostConfig, found: &Found) {
        let interface = found.interface.clone();
        match self {
            Self::PortDevice(place) => {
                let device = &mut config.ports[place].device;
                // What follows is for the driver.
                let arguments = device.as_deref().and_then(|device| device.split_once(','));
                let arguments = arguments.map_or_else(String::new, |(_, text)| format!(",{text}"));
                *device = Some(format!("{}{arguments}", found.address));
            }
            Self::PortInterface(place) => config.ports[place].interface = interface,
            Self::PortPeer(place) => config.ports[place].peer = interface,
            Self::ListenerDevice(place) => config.listeners[place].device = interface,
        }
    }

    fn user(self, config: &HostConfig) -> User {
        match self {
            Self::PortDevice(place) | Self::PortInterface(place) | Self::PortPeer(place) => {
                let port = &config.ports[place];
                let role = if let Self::PortPeer(_) = self { Role::Peer } else { Role::Port };
                User { tenant: port.tenant.clone(), name: port.name.clone(), role }
            }
            Self::ListenerDevice(place) => {
                let listener = &config.listeners[place];
                let (tenant, name) = (listener.tenant.clone(), listener.name.clone());
                User { tenant, name, role: Role::Listener }
            }
        }
    }

    /// For whom the function is.
    fn purpose(self) -> Purpose {
        match self {
            Self::PortDevice(_) => Purpose::Vfio,
            Self::PortInterface(_) | Self::PortPeer(_) | Self::ListenerDevice(_) => Purpose::Kernel,
        }
    }

    /// An error about what it says.
    fn invalid(self, message: String) -> Invalid {
        let (table, place, key) = match self {
            Self::PortDevice(place) => ("port", place, "device"),
            Self::PortInterface(place) => ("port", place, "interface"),
            Self::PortPeer(place) => ("port", place, "peer"),
            Self::ListenerDevice(place) => ("listener", place, "device"),
        };
        Invalid::at(key, message).within_array(table, place)
    }
}

/// Who names a function, and where.
struct Naming {
    name: VfName,
    key: Key,
    user: User,
}

/// The wish, and where it comes from.
pub(super) struct Wanted {
    pub(super) wish: Wish,
    namings: Vec<Naming>,
    /// The numbers of `[[nic]]`, for those of the wish's NICs that come from one.
    tables: Vec<Option<usize>>,
    /// What asks for each of the wish's interfaces.
    interfaces: Vec<Key>,
}

impl Wanted {
    pub(super) fn of(config: &HostConfig) -> Self {
        let mut wanted = Self {
            wish: Wish::default(),
            namings: Vec::new(),
            tables: Vec::new(),
            interfaces: Vec::new(),
        };
        for (place, nic) in config.nics.iter().enumerate() {
            let functions = nic.functions.iter().map(vf_wish).collect();
            wanted.wish.nics.push(NicWish { pf: nic.pf.clone(), vfs: nic.vfs, functions });
            wanted.tables.push(Some(place));
        }
        for (place, port) in config.ports.iter().enumerate() {
            match port.kind {
                PortKind::Dpdk => wanted.ask(config, Key::PortDevice(place), Vec::new()),
                PortKind::Xdp => wanted.ask(config, Key::PortInterface(place), Vec::new()),
                PortKind::Pcap | PortKind::Memory => {}
            }
            wanted.ask(config, Key::PortPeer(place), Vec::new());
        }
        for (place, listener) in config.listeners.iter().enumerate() {
            let given = |prefix| listener.address.iter().map(move |a| (a.ip(), prefix));
            let addresses = listener.prefix.into_iter().flat_map(given).collect();
            wanted.ask(config, Key::ListenerDevice(place), addresses);
        }
        wanted
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.wish == Wish::default()
    }

    /// Asks for what a key names. `addresses`: what its interface is to have.
    fn ask(&mut self, config: &HostConfig, key: Key, addresses: Vec<(IpAddr, u8)>) {
        let Some(text) = key.text(config) else { return };
        // What begins like a name and is none was refused when the file was read.
        let interface = match (VfName::of(text), key) {
            (Ok(Some(name)), _) => {
                let interface = InterfaceWish::OfVf(of_sriov(&name), addresses);
                self.name(Naming { name, key, user: key.user(config) });
                (key.purpose() == Purpose::Kernel).then_some(interface)
            }
            // Ports open theirs by themselves.
            (_, Key::PortDevice(_) | Key::PortInterface(_)) => None,
            (_, Key::PortPeer(_) | Key::ListenerDevice(_)) => {
                Some(InterfaceWish::Named(text.to_owned(), addresses))
            }
        };
        if let Some(interface) = interface {
            self.wish.interfaces.push(interface);
            self.interfaces.push(key);
        }
    }

    fn name(&mut self, naming: Naming) {
        let Naming { name, key, .. } = &naming;
        let nics = &mut self.wish.nics;
        let place = nics.iter().position(|nic| nic.pf == name.pf).unwrap_or_else(|| {
            nics.push(NicWish { pf: name.pf.clone(), vfs: None, functions: Vec::new() });
            self.tables.push(None);
            nics.len() - 1
        });
        let functions = &mut nics[place].functions;
        let purpose = Some(key.purpose());
        match functions.iter_mut().find(|vf| vf.index == name.index) {
            Some(vf) => vf.purpose = purpose,
            None => functions.push(VfWish {
                index: name.index,
                settings: NewSettings::default(),
                purpose,
            }),
        }
        self.namings.push(naming);
    }

    /// An error where the configuration has what cannot be had.
    pub(super) fn locate(&self, unfulfilled: UnfulfilledWish) -> Invalid {
        let message = unfulfilled.error.to_string();
        if let Some(key) = unfulfilled.interface.and_then(|i| self.interfaces.get(i)) {
            return key.invalid(message);
        }
        let number = unfulfilled.nic.unwrap_or(usize::MAX);
        let nic = self.wish.nics.get(number);
        let names = |naming: &&Naming| {
            nic.is_some_and(|nic| nic.pf == naming.name.pf)
                && unfulfilled.vf.is_none_or(|index| index == naming.name.index)
        };
        let naming = self.namings.iter().find(names);
        let table = self.tables.get(number).copied().flatten();
        match (table, naming, unfulfilled.vf) {
            (Some(table), _, None) => Invalid::at("pf", message).within_array("nic", table),
            (_, Some(naming), _) => naming.key.invalid(message),
            (Some(table), None, Some(_)) => Invalid::whole(message).within_array("nic", table),
            (None, None, _) => Invalid::whole(message),
        }
    }

    /// Puts what was found in place of names.
    pub(super) fn resolve(self, config: &mut HostConfig, found: &[Found]) -> Vec<Used> {
        let mut all: Vec<Used> = Vec::new();
        for Naming { name, key, user } in self.namings {
            let of = of_sriov(&name);
            let Some(found) = found.iter().find(|found| found.name == of) else { continue };
            key.put(config, found);
            match all.iter_mut().find(|used| used.address == found.address) {
                Some(used) => used.users.push(user),
                None => all.push(Used {
                    called: name,
                    address: found.address,
                    driver: found.driver.clone(),
                    users: vec![user],
                }),
            }
        }
        all
    }
}

pub(super) fn of_sriov(name: &VfName) -> weir_sriov::VfName {
    weir_sriov::VfName { pf: name.pf.clone(), index: name.index }
}

fn vf_wish(vf: &NicVf) -> VfWish {
    let settings = NewSettings {
        mac: vf.mac.map(|mac: MacAddress| weir_sriov::MacAddress(mac.get())),
        vlan: vf.vlan,
        qos: vf.qos,
        trust: vf.trust,
        spoof_check: vf.spoof_check,
        min_rate: vf.min_rate,
        max_rate: vf.max_rate,
        link: vf.link.map(|link| match link {
            VfLink::Auto => weir_sriov::LinkState::Auto,
            VfLink::Up => weir_sriov::LinkState::Up,
            VfLink::Down => weir_sriov::LinkState::Down,
        }),
    };
    VfWish { index: vf.index, settings, purpose: None }
}
