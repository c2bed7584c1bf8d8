use etherparse::{Icmpv6Slice, Ipv6HeaderSlice};

use super::*;

const WIRE: Mac = [2, 0, 0, 0, 0, 0];
const OWN: Mac = [2, 0, 0, 0, 0, 2];
const KERNEL: Mac = [2, 0, 0, 0, 0, 1];
const CLIENT: Mac = [2, 0, 0, 0, 0x88, 1];
const ROUTER: Mac = [2, 0, 0, 0, 0x88, 2];
const LINK: Addresses = Addresses { wire: WIRE, own: OWN, kernel: KERNEL };
const ALL: Mac = [0xff; 6];

fn frame(to: Mac, from: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), body].concat()
}

fn arp(operation: u8, sender: (Mac, [u8; 4]), target: (Mac, [u8; 4])) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &sender.0, &sender.1, &target.0, &target.1].concat()
}

fn ipv4(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let head = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0];
    [&head[..], &source, &destination].concat()
}

/// A message of neighbour discovery with a right checksum.
fn discovery(kind: u8, source: u8, destination: u8, middle: &[u8], option: (u8, Mac)) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0], middle].concat();
    message.extend([option.0, 1]);
    message.extend(option.1);
    let mut packet = vec![0x60, 0, 0, 0, 0, message.len() as u8, 58, 255];
    packet.extend(address(source));
    packet.extend(address(destination));
    let sum = Icmpv6Slice::from_slice(&message).expect("a message");
    let sum = sum.icmp_type().calc_checksum(address(source), address(destination), sum.payload());
    message[2..4].copy_from_slice(&sum.expect("a checksum").to_be_bytes());
    [packet, message].concat()
}

fn address(last: u8) -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[1], address[15]) = (0xfe, 0x80, last);
    address
}

#[track_caller]
fn checksum_is_right(packet: &[u8]) {
    let head = Ipv6HeaderSlice::from_slice(packet).expect("a header");
    let message = Icmpv6Slice::from_slice(&packet[40..]).expect("a message");
    assert!(message.is_checksum_valid(head.source(), head.destination()));
}

#[test]
fn the_wire_and_the_kernel_ask_each_other_by_arp() {
    let mut heard = Neighbours::default();
    let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 9]);
    // The wire asks, and nobody but the kernel hears it.
    let mut asked = frame(ALL, CLIENT, ARP, &arp(1, (CLIENT, client), ([0; 6], server)));
    LINK.up(&mut asked, &mut heard);
    assert_eq!(asked, frame(KERNEL, OWN, ARP, &arp(1, (OWN, client), ([0; 6], server))));
    let mut said = frame(OWN, KERNEL, ARP, &arp(2, (KERNEL, server), (OWN, client)));
    LINK.down(&mut said, &heard).unwrap();
    assert_eq!(said, frame(CLIENT, WIRE, ARP, &arp(2, (WIRE, server), (CLIENT, client))));
    // The kernel asks who was not heard yet.
    let mut heard = Neighbours::default();
    let mut asked = frame(ALL, KERNEL, ARP, &arp(1, (KERNEL, server), ([0; 6], client)));
    LINK.down(&mut asked, &heard).unwrap();
    assert_eq!(asked, frame(ALL, WIRE, ARP, &arp(1, (WIRE, server), ([0; 6], client))));
    let mut said = frame(WIRE, CLIENT, ARP, &arp(2, (CLIENT, client), (WIRE, server)));
    LINK.up(&mut said, &mut heard);
    assert_eq!(said, frame(KERNEL, OWN, ARP, &arp(2, (OWN, client), (KERNEL, server))));
    // It asks again whom it knows.
    let mut asked = frame(OWN, KERNEL, ARP, &arp(1, (KERNEL, server), ([0; 6], client)));
    LINK.down(&mut asked, &heard).unwrap();
    assert_eq!(asked, frame(CLIENT, WIRE, ARP, &arp(1, (WIRE, server), ([0; 6], client))));
}

#[test]
fn answers_go_to_who_sent_what_they_answer() {
    let mut heard = Neighbours::default();
    let (far, server) = ([198, 51, 100, 7], [10, 0, 0, 9]);
    for tag in [&[][..], &[0x81, 0, 0, 100], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 100]] {
        let tagged = |to: Mac, from: Mac, body: &[u8]| {
            [&to[..], &from, tag, &IPV4.to_be_bytes(), body].concat()
        };
        let mut request = tagged(WIRE, ROUTER, &ipv4(far, server));
        LINK.up(&mut request, &mut heard);
        assert_eq!(request, tagged(KERNEL, OWN, &ipv4(far, server)));
        let mut answer = tagged(OWN, KERNEL, &ipv4(server, far));
        LINK.down(&mut answer, &heard).unwrap();
        assert_eq!(answer, tagged(ROUTER, WIRE, &ipv4(server, far)));
    }
    let mut other = frame(OWN, KERNEL, IPV4, &ipv4(server, [198, 51, 100, 8]));
    assert_eq!(LINK.down(&mut other, &heard), Err(Stray::Unheard));
    // What has another address than ours is sent so, and what the kernel did not send is not.
    let mut group = frame([1, 0, 0x5e, 0, 0, 1], KERNEL, IPV4, &ipv4(server, [224, 0, 0, 1]));
    LINK.down(&mut group, &heard).unwrap();
    assert_eq!(group[..12], [1, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 0]);
    let mut strange = frame(OWN, CLIENT, IPV4, &ipv4(server, far));
    assert_eq!(LINK.down(&mut strange, &heard), Err(Stray::Stranger));
}

#[test]
fn neighbours_of_ipv6_are_discovered() {
    let mut heard = Neighbours::default();
    let (client, server) = (1, 9);
    let group = [0x33, 0x33, 0xff, 0, 0, 9];
    // Both ways a solicitation, then the advertisement.
    let asked = discovery(135, client, server, &address(server), (1, CLIENT));
    let mut asked = frame(group, CLIENT, IPV6, &asked);
    LINK.up(&mut asked, &mut heard);
    let as_kernel_sees = discovery(135, client, server, &address(server), (1, OWN));
    assert_eq!(asked, frame(KERNEL, OWN, IPV6, &as_kernel_sees));
    checksum_is_right(&asked[14..]);
    let said = discovery(136, server, client, &address(server), (2, KERNEL));
    let mut said = frame(OWN, KERNEL, IPV6, &said);
    LINK.down(&mut said, &heard).unwrap();
    let as_wire_sees = discovery(136, server, client, &address(server), (2, WIRE));
    assert_eq!(said, frame(CLIENT, WIRE, IPV6, &as_wire_sees));
    checksum_is_right(&said[14..]);
    // A proxy advertises somebody else.
    let said = discovery(136, 3, server, &address(4), (2, ROUTER));
    LINK.up(&mut frame(WIRE, CLIENT, IPV6, &said), &mut heard);
    assert_eq!(heard.find(host(Ipv6Addr::from(address(4)))), Some(ROUTER));
}

#[test]
fn what_is_cut_off_or_malformed_is_passed_on_or_dropped() {
    let mut heard = Neighbours::default();
    let all = [
        frame(WIRE, CLIENT, ARP, &arp(1, (CLIENT, [10, 0, 0, 1]), ([0; 6], [10, 0, 0, 9]))),
        frame(WIRE, CLIENT, IPV4, &ipv4([10, 0, 0, 1], [10, 0, 0, 9])),
        frame(WIRE, CLIENT, IPV6, &discovery(135, 1, 9, &address(9), (1, CLIENT))),
        frame(WIRE, CLIENT, 0x8100, &[0, 1, 0x81, 0, 0, 1, 8, 0]),
    ];
    for whole in all {
        for length in 0..whole.len() {
            let mut short = whole[..length].to_vec();
            LINK.up(&mut short, &mut heard);
            assert_eq!(short.len(), length);
            let mut short = whole[..length].to_vec();
            if length >= 12 {
                short[6..12].copy_from_slice(&KERNEL);
            }
            let _ = LINK.down(&mut short, &heard);
        }
    }
    // Options without an end.
    let mut message = discovery(135, 1, 9, &address(9), (1, CLIENT));
    message[40 + 24 + 1] = 0;
    LINK.up(&mut frame(WIRE, CLIENT, IPV6, &message), &mut heard);
}
