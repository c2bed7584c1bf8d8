//! Headers: whatever a frame is, functions read it without a panic, and what they are told lies
//! within it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_sdk::parse::{Headers, Plain, parse};
use weir_sdk::wire::{Arp, Ethernet, Icmpv4, Icmpv6, Ipv4, Ipv6, Tcp, Udp, Vlan};

/// Reads and writes what a view of these bytes offers.
fn views(bytes: &mut [u8]) {
    let all = bytes.len();
    if let Ok(mut view) = Ethernet::new_checked(&mut *bytes) {
        view.payload_mut().reverse();
        view.payload_mut().reverse();
    }
    if let Ok(mut view) = Vlan::new_checked(&mut *bytes) {
        let (id, priority) = (view.id(), view.priority());
        view.set_id(id);
        assert_eq!((view.id(), view.priority()), (id, priority));
        let _ = view.payload().len();
    }
    let _ = Arp::new_checked(&*bytes).map(|view| view.into_inner().len());
    if let Ok(mut view) = Ipv4::new_checked(&mut *bytes) {
        let _ = (view.options().len(), view.fragment_offset(), view.dont_fragment());
        assert!(view.header_len() + view.payload().len() <= all);
        view.fill_checksum();
        assert!(view.verify_checksum());
        view.decrement_ttl();
        assert!(view.verify_checksum());
        transport(view.pseudo_header(), view.payload_mut());
    }
    if let Ok(mut view) = Ipv6::new_checked(&mut *bytes) {
        let _ = (view.traffic_class(), view.flow_label(), view.extensions().count());
        let (protocol, at) = view.extensions().position();
        view.decrement_hop_limit();
        let pseudo = view.pseudo_header(protocol, u32::try_from(view.payload().len()).unwrap_or(0));
        if let Some(payload) = at.checked_sub(40).and_then(|at| view.payload_mut().get_mut(at..)) {
            transport(pseudo, payload);
        }
    }
}

/// The same for what an IP packet carries.
fn transport(pseudo: u64, bytes: &mut [u8]) {
    if let Ok(mut view) = Tcp::new_checked(&mut *bytes) {
        assert!(view.header_len() >= view.options().len() + 20);
        view.fill_checksum(pseudo);
        assert!(view.verify_checksum(pseudo));
        view.options_mut().fill(1);
        let _ = view.payload_mut().len();
    }
    if let Ok(mut view) = Udp::new_checked(&mut *bytes) {
        view.fill_checksum(pseudo);
        assert!(view.verify_checksum(pseudo));
        let _ = view.payload_mut().len();
    }
    if let Ok(mut view) = Icmpv4::new_checked(&mut *bytes) {
        let _ = (view.is_error(), view.is_query());
        view.fill_checksum();
        assert!(view.verify_checksum());
        let _ = view.payload_mut().len();
    }
    if let Ok(mut view) = Icmpv6::new_checked(&mut *bytes) {
        let _ = (view.is_error(), view.is_query());
        view.fill_checksum(pseudo);
        assert!(view.verify_checksum(pseudo));
        let _ = view.payload_mut().len();
    }
}

fuzz_target!(|data: &[u8]| {
    let parsed = parse(data);
    if let Ok(headers) = parsed {
        assert!(headers.l3 <= headers.l4 && headers.l4 <= headers.end && headers.end <= data.len());
    }
    if let Some(plain) = Plain::of(data) {
        // The short way and the long one, which a tag makes it take.
        let tagged = [&data[..12], &[0x81, 0, 0, 1], &data[12..]].concat();
        let mut long = parse(&tagged).expect("a tag does not make a packet unreadable");
        (long.l3, long.l4, long.end) = (long.l3 - 4, long.l4 - 4, long.end - 4);
        assert_eq!(long, Headers::from(plain));
    }
    let mut bytes = data.to_vec();
    for at in [0, 14, 18] {
        if let Some(bytes) = bytes.get_mut(at..) {
            views(bytes);
        }
    }
});
