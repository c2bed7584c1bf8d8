//! Tells of links of the interfaces that ports are on that go down and come up, and of interfaces
//! that go away and come back.
//!
//! A port whose interface went away is down until it is opened anew, when there is another one of
//! that name and its link is up: with the chains that have it, or, if none has, as any port that
//! could not be opened. Until then whatever becomes of that is not of the port.

use std::mem;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use weir_control::engine::{EngineEvent, EventSink};
use weir_spec::{Chain, Name};
use weir_xdp::Link;

use super::ports::{Ports, interface};

/// What was told of a port's interface.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// It went away, and the port has no other one yet.
    gone: bool,
    /// There is another one of that name, which the port does not have, and that was told.
    other: bool,
}

impl Told {
    /// What there is to tell of the port when the link of what has its interface's name has become
    /// so. `has_ended`: the port works no more. `is_set_up`: its interface was set up by the host,
    /// which another one of that name is not.
    fn next(
        &mut self,
        port: &weir_spec::Port,
        link: Link,
        has_ended: bool,
        is_set_up: bool,
    ) -> Option<EngineEvent> {
        let (tenant, name) = (port.tenant.clone(), port.name.clone());
        let interface = interface(port).unwrap_or_default();
        let why = match link {
            Link::Gone => {
                self.other = false;
                if mem::replace(&mut self.gone, true) && has_ended {
                    return None;
                }
                format!("there is no interface {interface} any more")
            }
            _ if has_ended && is_set_up => {
                let message = format!(
                    "there is an interface {interface}, but port {name} is down until a chain that has it is applied again (`weir chain apply`)"
                );
                let again = mem::replace(&mut self.other, true);
                return (!again).then_some(EngineEvent::PortNote { tenant, port: name, message });
            }
            Link::Down if has_ended => return None,
            Link::Up if has_ended => {
                self.gone = false;
                let again = mem::replace(&mut self.other, true);
                let message =
                    format!("there is an interface {interface} again: port {name} is opened on it");
                return (!again).then_some(EngineEvent::PortBack { tenant, port: name, message });
            }
            Link::Down => {
                *self = Self::default();
                format!("the link of {interface} is down")
            }
            Link::Up => {
                *self = Self::default();
                return Some(up(port));
            }
        };
        let message = format!("port {name} is down: {why}");
        Some(EngineEvent::PortDown { tenant, port: name, message })
    }
}

fn up(port: &weir_spec::Port) -> EngineEvent {
    let (tenant, name) = (port.tenant.clone(), port.name.clone());
    let interface = interface(port).unwrap_or_default();
    let message = format!("the link of {interface}, which port {name} is on, is up");
    EngineEvent::PortUp { tenant, port: name, message }
}

/// Tells this sink of these ports, as long as both are there.
pub(super) fn watch(ports: &Arc<Mutex<Ports>>, sink: &Arc<OnceLock<EventSink>>) {
    let watched = |config: &weir_spec::Port| Some((config.name.clone(), interface(config)?));
    let all = ports.lock().unwrap_or_else(PoisonError::into_inner);
    let watched = all.iter().filter_map(|slot| watched(&slot.config));
    let (names, interfaces): (Vec<Name>, Vec<String>) = watched.unzip();
    drop(all);
    if names.is_empty() {
        return;
    }
    let (ports, sink) = (Arc::downgrade(ports), Arc::downgrade(sink));
    let watching = weir_xdp::watch(interfaces, move |place, link| {
        let (Some(ports), Some(sink)) = (ports.upgrade(), sink.upgrade()) else { return };
        let mut ports = ports.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(sink), Some(slot)) = (sink.get(), ports.slot_mut(&names[place])) else { return };
        if slot.away().is_some() {
            // It is not on the interface yet, and tried again in any case.
            return;
        }
        let (has_ended, is_set_up) = (slot.has_ended(), slot.is_set_up);
        if slot.chain.is_none() && !is_set_up && (link == Link::Gone || has_ended) {
            // There is no chain with which it would be opened.
            ports.lost_interface(&names[place]);
            return;
        }
        if let Some(event) = slot.told.next(&slot.config, link, has_ended, is_set_up) {
            sink(event);
        }
    });
    if let Err(error) = watching {
        tracing::warn!("nobody will tell when the link of an interface goes down: {error}");
    }
}

/// A chain's ports were opened: tells of those that were down because their interfaces had gone,
/// and whose links are up.
pub(super) fn tell_again(ports: &mut Ports, chain: &Chain, sink: &OnceLock<EventSink>) {
    let Some(sink) = sink.get() else { return };
    for name in ports.names(chain.from.as_ref(), chain.to.as_ref()) {
        let Some(slot) = ports.slot_mut(&name) else { continue };
        if mem::take(&mut slot.told).gone && slot.has_link() {
            sink(up(&slot.config));
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_spec::{Document, HostConfig};

    use super::*;

    #[test]
    fn of_an_interface_that_is_not_the_ports_nothing_is_told_but_that_it_is_there() {
        let text = "[[port]]\nname = \"lan\"\nkind = \"xdp\"\ninterface = \"eth1\"\n";
        let config = Document::<HostConfig>::parse("weir.toml", text).unwrap().value;
        let mut told = Told::default();
        let mut next = |link, has_ended, is_set_up| match told.next(
            &config.ports[0],
            link,
            has_ended,
            is_set_up,
        ) {
            Some(EngineEvent::PortDown { message, .. }) => ("down", message),
            Some(EngineEvent::PortUp { message, .. }) => ("up", message),
            Some(EngineEvent::PortBack { message, .. }) => ("back", message),
            Some(EngineEvent::PortNote { message, .. }) => ("note", message),
            None => ("", String::new()),
            other => panic!("{other:?}"),
        };
        assert_eq!(next(Link::Down, false, false).0, "down");
        assert_eq!(next(Link::Up, false, false).0, "up");
        for is_set_up in [false, true, false] {
            let mut next = |link, has_ended| next(link, has_ended, is_set_up);
            let gone = next(Link::Gone, true);
            let (kind, text) = ("down", "there is no interface eth1 any more");
            assert!(gone.0 == kind && gone.1.contains(text), "{gone:?}");
            // It comes back down, goes up, and all that once more.
            for round in 0..2 {
                let [down, up] = [next(Link::Down, true), next(Link::Up, true)];
                let (told, other, text) = if is_set_up {
                    (down, up, "port lan is down until")
                } else {
                    (up, down, "there is an interface eth1 again")
                };
                let kind = if is_set_up { "note" } else { "back" };
                assert!(told.0 == kind && told.1.contains(text), "{told:?}");
                assert_eq!(
                    (other.0, next(Link::Down, true).0, next(Link::Up, true).0),
                    ("", "", "")
                );
                // That another one went which the port was to have is told.
                let again = if is_set_up { "" } else { "down" };
                assert_eq!(next(Link::Gone, true).0, again, "{round}");
            }
            // The port is opened anew.
            assert_eq!(next(Link::Up, false).0, "up");
        }
    }
}
