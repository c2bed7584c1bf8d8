//! Whether a device, its configuration and the pool's rooms fit each other, and what a driver has
//! to be told so that they do.

use dpdk_sys as sys;
use weir_layout::HEADROOM;
use weir_pool::Pool;

use crate::address::Address;
use crate::device::Device;
use crate::{DpdkConfig, interface};

/// Bytes around an IP packet: Ethernet addresses and type, and two VLAN tags.
const ETHERNET: u32 = 14 + 2 * 4;
/// Bytes that the kernel puts in front of a frame in `net_af_packet`'s ring (`TPACKET2_HDRLEN` and
/// alignment).
const AF_PACKET_FRONT: u32 = 66;
/// Bytes of a place in that ring that the driver knows to hold nothing of a frame.
const AF_PACKET_UNUSED: u32 = 32;
/// Bytes of a place in that ring if nothing is said.
const AF_PACKET_PLACE: u32 = 2048;
/// Blocks of that ring are whole pages.
const AF_PACKET_PAGE: u32 = 4096;
/// Bytes of a buffer of `net_af_xdp`'s at most: with its two headers it lies in one page, as the
/// kernel has it.
const AF_XDP_BUFFER: u32 = 4096 - 64 - 128;
/// Bytes of them in front of a received frame: the kernel's (`XDP_PACKET_HEADROOM`) and DPDK's.
const AF_XDP_FRONT: u32 = 256 + 128;
/// Buffers of a pool for what is neither in a ring nor with a function: DPDK's cache, and a burst.
const SPARE: u32 = 2 * sys::BURST as u32;
/// Descriptors of a queue where neither the operator nor the driver says.
const DESCRIPTORS: u16 = 512;

/// Gives `net_af_packet` a ring whose places hold the interface's frames, and no more than rooms
/// hold: the kernel cuts off what is longer than a place.
pub(crate) fn fit_frames(address: &mut Address, config: &DpdkConfig) -> Result<(), String> {
    if address.driver() != "net_af_packet" || address.argument("framesz").is_some() {
        return Ok(());
    }
    let Some(name) = address.argument("iface").map(str::to_owned) else { return Ok(()) };
    // What does not exist is found out, and said, later.
    let mtu = match config.mtu {
        Some(mtu) => mtu.into(),
        None => interface::mtu(&name).unwrap_or(0),
    };
    let needed = (mtu + ETHERNET + AF_PACKET_FRONT).next_multiple_of(16);
    let most = (config.room_bytes - HEADROOM as u32 + AF_PACKET_UNUSED) & !15;
    if needed > most {
        return Err(format!(
            "the interface {name} has an MTU of {mtu}, whose frames do not fit into rooms of {} bytes: raise [pool] \
             room, or lower the MTU (`ip link set {name} mtu 1500`)",
            config.room_bytes
        ));
    }
    if needed > AF_PACKET_PLACE || most < AF_PACKET_PLACE {
        let (place, block) = af_packet_places(needed, most);
        address.push("framesz", place);
        address.push("blocksz", block);
    }
    Ok(())
}

/// The place of a frame in `net_af_packet`'s ring that needs the smallest block, in bytes: the
/// kernel begins each block on a page, and the driver takes for granted that places follow each
/// other without a gap.
fn af_packet_places(needed: u32, most: u32) -> (u32, u32) {
    // In units of 16 bytes, of which a page has 256.
    let pages = |place: &u32| place / (1 << place.trailing_zeros().min(8));
    let place = (needed / 16..=most / 16).min_by_key(pages).unwrap_or(needed / 16);
    (place * 16, pages(&place) * AF_PACKET_PAGE)
}

/// Checks that the device can do what is asked. The answer is the longest frame that it sends.
pub(crate) fn check(device: &Device, config: &DpdkConfig, queues: u16) -> Result<u32, String> {
    let (info, address) = (&device.info, &device.address);
    let most = info.max_rx_queues.min(info.max_tx_queues);
    if queues == 0 || u32::from(queues) > most {
        return Err(format!("queues is {queues}, but the device {address} has 1 to {most}"));
    }
    if config.checksum_offload && !(info.rx_checksums && info.tx_checksums) {
        return Err(format!(
            "checksum-offload is true, but the driver {} does not do the checksums of IPv4, TCP and UDP both ways: \
             leave it out",
            device.driver()
        ));
    }
    let room = config.room_bytes - HEADROOM as u32;
    if info.min_rx_bytes > room {
        return Err(format!(
            "the device {address} needs {} bytes for a frame, but a room takes {room}: raise [pool] room",
            info.min_rx_bytes
        ));
    }
    let mtu = match (config.mtu, device.interface()) {
        (Some(mtu), _) => {
            let mtu = u32::from(mtu);
            if !(info.min_mtu..=info.max_mtu).contains(&mtu) {
                return Err(format!(
                    "mtu is {mtu}, but the device {address} can do {} to {}",
                    info.min_mtu, info.max_mtu
                ));
            }
            Some(mtu)
        }
        (None, Some(name)) => {
            Some(interface::mtu(name).map_err(|e| format!("interface {name}: {e}"))?)
        }
        // What DPDK sets a device to if nothing is said.
        (None, None) if address.is_pci() => Some(1500),
        (None, None) => None,
    };
    match mtu.map(|mtu| mtu + ETHERNET) {
        Some(longest) if longest > room => Err(format!(
            "frames may have up to {longest} bytes with this MTU, but a room takes {room}: raise [pool] room, or \
             lower `mtu`"
        )),
        longest => Ok(longest.unwrap_or(room)),
    }
}

/// Bytes of a buffer in the driver's own memory, for a device that copies and sends frames of at
/// most `longest` bytes.
pub(crate) fn bounce_bytes(device: &Device, room_bytes: u32, longest: u32) -> Result<u32, String> {
    let bytes = room_bytes.max(2048) + HEADROOM as u32;
    if device.driver() != "net_af_xdp" {
        return Ok(bytes);
    }
    let bytes = bytes.min(AF_XDP_BUFFER);
    let most = bytes - AF_XDP_FRONT;
    if device.interface().is_some() && longest > most {
        return Err(format!(
            "frames may have up to {longest} bytes with this MTU, but the driver net_af_xdp receives at most {most} \
             with rooms of {room_bytes} bytes: lower the MTU to {}",
            most - ETHERNET
        ));
    }
    Ok(bytes)
}

/// Descriptors of each receive and transmit queue, of which a pool serves so many, beside `others`
/// of other devices.
pub(crate) fn descriptors(
    device: &Device,
    config: &DpdkConfig,
    queues: usize,
    pool: &Pool,
    others: u32,
) -> Result<(u16, u16), String> {
    let info = &device.info;
    let default = |own: u16| if own == 0 { DESCRIPTORS } else { own };
    let mut rx = config.rx_descriptors.unwrap_or(default(info.rx_descriptors_default));
    let mut tx = config.tx_descriptors.unwrap_or(default(info.tx_descriptors_default));
    let asked = (rx, tx);
    // SAFETY: [S]: the device is configured and not started; its ports are set up one at a time.
    let adjusted =
        unsafe { sys::weir_dpdk_adjust_descriptors(device.number, &raw mut rx, &raw mut tx) };
    device.did("have so many descriptors", adjusted)?;
    for (key, given, asked, got, least, most) in [
        (
            "rx",
            config.rx_descriptors,
            asked.0,
            rx,
            info.rx_descriptors_min,
            info.rx_descriptors_max,
        ),
        (
            "tx",
            config.tx_descriptors,
            asked.1,
            tx,
            info.tx_descriptors_min,
            info.tx_descriptors_max,
        ),
    ] {
        if given.is_some() && asked != got {
            return Err(format!(
                "{key}-descriptors is {asked}, but the device {} has {least} to {most} for a queue; {got} would do",
                device.address
            ));
        }
    }
    let needed = queues as u32 * (u32::from(rx) + u32::from(tx)) + others + SPARE;
    if !device.copies() && needed > pool.rooms() {
        let beside = match others {
            0 => String::new(),
            n => format!(" beside the {n} of the chain's other devices"),
        };
        return Err(format!(
            "the pool has {} buffers, but {queues} queues with {rx} and {tx} descriptors{beside} need {needed}: \
             raise [pool] rooms, or lower rx-descriptors and tx-descriptors",
            pool.rooms(),
        ));
    }
    Ok((rx, tx))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn af_packet_blocks_are_whole_pages_full_of_places() {
        assert_eq!(af_packet_places(1600, 1952), (1792, 7 * 4096));
        for (needed, most) in [(1600, 1952), (9088, 16_288), (2064, 3968), (1936, 1952)] {
            let (place, block) = af_packet_places(needed, most);
            assert!((needed..=most).contains(&place) && place % 16 == 0);
            assert!(block >= place && block % place == 0 && block % 4096 == 0, "{place} {block}");
            // The driver's 512 places are whole blocks.
            assert_eq!(512 % (block / place), 0);
        }
    }
}
