//! Tells of links of `xdp` ports that go down and come up, and of interfaces that go away and come back.

use std::sync::{Arc, OnceLock};

use weir_control::engine::{EngineEvent, EventSink};
use weir_spec::{Name, PortKind};
use weir_xdp::Link;

/// A port on an interface.
struct Watched {
    tenant: Name,
    port: Name,
    interface: String,
}

/// Tells this sink of the ports among these, as long as it is there.
pub(super) fn watch<'a>(
    ports: impl Iterator<Item = &'a weir_spec::Port>,
    sink: &Arc<OnceLock<EventSink>>,
) {
    let watched = |config: &weir_spec::Port| {
        let interface = config.interface.clone().filter(|_| config.kind == PortKind::Xdp)?;
        Some(Watched { tenant: config.tenant.clone(), port: config.name.clone(), interface })
    };
    let ports: Vec<Watched> = ports.filter_map(watched).collect();
    if ports.is_empty() {
        return;
    }
    let sink = Arc::downgrade(sink);
    let interfaces = ports.iter().map(|port| port.interface.clone()).collect();
    let watching = weir_xdp::watch(interfaces, move |place, link| {
        let Some(all) = sink.upgrade() else { return };
        let (Some(sink), Some(port)) = (all.get(), ports.get(place)) else { return };
        sink(told(port, link));
    });
    if let Err(error) = watching {
        tracing::warn!("nobody will tell when the link of an interface goes down: {error}");
    }
}

fn told(Watched { tenant, port, interface }: &Watched, link: Link) -> EngineEvent {
    let (tenant, name) = (tenant.clone(), port.clone());
    let down = |why: String| EngineEvent::PortDown {
        tenant: tenant.clone(),
        port: name.clone(),
        message: format!("port {port} is down: {why}"),
    };
    match link {
        Link::Gone => down(format!("there is no interface {interface} any more")),
        Link::Down => down(format!("the link of {interface} is down")),
        Link::Up => {
            let message = format!("the link of {interface}, which port {port} is on, is up");
            EngineEvent::PortUp { tenant, port: name, message }
        }
    }
}
