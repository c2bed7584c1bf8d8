//! Which queue a device puts a flow into: receive side scaling, computed as the device does.
//!
//! The device hashes a flow's ends by Toeplitz with a key that repeats itself every 16 bits, and
//! has the queue in a table by the hash (`weir_dpdk_spread`). With such a key the hash of an input
//! is that of the exclusive or of the input's 16-bit words.

use weir_steering::Key;

/// Sixteen bits of the key, twice.
const KEY: u32 = 0x6d5a_6d5a;
/// `RTE_ETH_RSS_NONFRAG_IPV4_TCP`, `_UDP` and `_OTHER`, and `RTE_ETH_RSS_IPV4`; the shim compares
/// them.
const TCP_V4: u64 = 1 << 4;
const UDP_V4: u64 = 1 << 5;
const ANY_V4: u64 = 1 << 7 | 1 << 2;
/// So many bits higher are those of IPv6.
const V6: u32 = 6;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The queue of a flow, in whichever direction, for a device that hashes these fields
/// (`RTE_ETH_RSS_*`), with a table of so many entries. None: it does not hash such flows, or not by
/// what is known of them.
pub(crate) fn queue_of(flow: &Key, fields: u64, table: u16, queues: u16) -> Option<u16> {
    let up = match (flow.is_ipv4(), flow.is_ipv6()) {
        (true, _) => 0,
        (_, true) => V6,
        _ => return None,
    };
    let (field, ports) = match flow.protocol {
        TCP => (TCP_V4, flow.source_port ^ flow.destination_port),
        UDP => (UDP_V4, flow.source_port ^ flow.destination_port),
        _ => (ANY_V4, 0),
    };
    if fields & field << up == 0 {
        return None;
    }
    // Of IPv4 addresses in the form of IPv6 what is before them is the same twice.
    let words = flow.source.chunks_exact(2).chain(flow.destination.chunks_exact(2));
    let words = words.map(|word| u16::from_be_bytes([word[0], word[1]]));
    let hash = toeplitz(words.fold(ports, |all, word| all ^ word));
    let entry = hash.checked_rem(table.into())?;
    u16::try_from(entry).ok()?.checked_rem(queues)
}

/// The hash of one word.
fn toeplitz(word: u16) -> u32 {
    let set = (0..u16::BITS).filter(|bit| word & 0x8000 >> bit != 0);
    set.fold(0, |hash, bit| hash ^ KEY.rotate_left(bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the standard has it: bit by bit, with the whole key.
    fn hash(input: &[u8]) -> u32 {
        let key: Vec<u8> = [0x6d, 0x5a].into_iter().cycle().take(52).collect();
        let mut window = u64::from_be_bytes(key[..8].try_into().unwrap());
        let (mut hash, mut next) = (0, 8);
        for byte in input {
            for bit in (0..8).rev() {
                if byte >> bit & 1 == 1 {
                    hash ^= (window >> 32) as u32;
                }
                window <<= 1;
            }
            window |= u64::from(key[next]);
            next += 1;
        }
        hash
    }

    fn key(ethertype: u16, ends: [&[u8]; 2], protocol: u8, ports: [u16; 2]) -> Key {
        let address = |bytes: &[u8]| {
            let mut address = [0; 16];
            if bytes.len() == 4 {
                address[10..12].fill(0xff);
            }
            address[16 - bytes.len()..].copy_from_slice(bytes);
            address
        };
        let [source, destination] = ends.map(address);
        let [source_port, destination_port] = ports;
        let key = Key { ethertype, protocol, source_port, destination_port, ..Key::default() };
        Key { source, destination, ..key }
    }

    #[test]
    fn a_flows_queue_is_that_of_the_hash_over_its_ends() {
        let all = TCP_V4 | UDP_V4 | ANY_V4;
        let fields = all | all << V6;
        let mut seen = [0; 3];
        for n in 0..200_u16 {
            let [a, b] = n.wrapping_mul(40_503).to_be_bytes();
            let (four, six) = ([[10, a, 0, b], [192, 0, b, 7]], [[a; 16], [b ^ 0x55; 16]]);
            let ports = [1024 + n, 443];
            let with = |addresses: &[u8], protocol: u8| {
                let mut input = addresses.to_vec();
                if protocol != 1 {
                    input.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
                }
                (hash(&input) % 128 % 3) as u16
            };
            for protocol in [TCP, UDP, 1] {
                let of = |ethertype, ends| key(ethertype, ends, protocol, ports);
                for (flow, addresses) in [
                    (of(0x0800, [&four[0], &four[1]]), four.concat()),
                    (of(0x86dd, [&six[0], &six[1]]), six.concat()),
                ] {
                    let queue = queue_of(&flow, fields, 128, 3);
                    assert_eq!(queue, Some(with(&addresses, protocol)), "{flow:?}");
                    assert_eq!(queue, queue_of(&flow.reversed(1), fields, 128, 3));
                    seen[usize::from(queue.unwrap())] += 1;
                }
            }
        }
        assert!(seen.iter().all(|flows| *flows > 200), "{seen:?}");
    }

    #[test]
    fn of_what_the_device_does_not_hash_nothing_is_said() {
        let of = |ethertype, protocol| {
            key(ethertype, [&[10, 0, 0, 1], &[10, 0, 0, 2]], protocol, [1, 2])
        };
        assert_eq!(queue_of(&of(0x0806, 0), u64::MAX, 128, 2), None);
        assert_eq!(queue_of(&of(0x0800, TCP), UDP_V4 | ANY_V4, 128, 2), None);
        assert_eq!(queue_of(&of(0x0800, 132), TCP_V4, 128, 2), None);
        assert_eq!(queue_of(&of(0x86dd, TCP), TCP_V4, 128, 2), None);
        assert_eq!(queue_of(&of(0x0800, TCP), u64::MAX, 0, 2), None);
    }
}
