// Reading frames: Ethernet with up to two VLAN tags, IPv4, IPv6 with extension headers, ports of TCP and UDP.
export const ICMP = 1;
export const TCP = 6;
export const UDP = 17;
export const ICMPV6 = 58;

export class Malformed extends Error {}

const NONE = -1;

// Whether this is the type of a VLAN tag, and whether that of an IPv6 extension header.
const isTag = (kind) => kind === 0x8100 || kind === 0x88a8;
const isExtension = (protocol) => protocol === 0 || protocol === 43 || protocol === 44 || protocol === 60;

// The headers of a packet; null if it is not IP. Throws Malformed. All arithmetic is on places in `packet.bytes`; what is
// given back is relative to the packet, and the packet's own: the next call writes to it.
export function parse(packet) {
  const b = packet.bytes;
  const at = packet.at;
  const have = at + packet.given;
  const length = at + packet.length;
  if (at + 14 > have) return null;
  let kind = (b[at + 12] << 8) | b[at + 13];
  let l3 = at + 14;
  if (kind !== 0x0800) {
    for (let tags = 0; tags < 2 && isTag(kind); tags++) {
      if (l3 + 4 > have) return null;
      kind = (b[l3 + 2] << 8) | b[l3 + 3];
      l3 += 4;
    }
  }
  let version, l4, end, protocol;
  let fragment = false;
  if (kind === 0x0800) {
    if (l3 + 20 > have) throw new Malformed("IPv4 header is cut short");
    version = 4;
    const first = b[l3];
    l4 = l3 + (first & 15) * 4;
    end = l3 + ((b[l3 + 2] << 8) | b[l3 + 3]);
    if (first < 0x45 || first > 0x4f || l4 > end || end > length) {
      throw new Malformed("IPv4 header contradicts the frame");
    }
    fragment = (((b[l3 + 6] << 8) | b[l3 + 7]) & 0x1fff) !== 0;
    protocol = b[l3 + 9];
  } else if (kind === 0x86dd) {
    if (l3 + 40 > have) throw new Malformed("IPv6 header is cut short");
    version = 6;
    l4 = l3 + 40;
    end = l4 + ((b[l3 + 4] << 8) | b[l3 + 5]);
    protocol = b[l3 + 6];
    if (b[l3] >> 4 !== 6 || end > length) throw new Malformed("IPv6 header contradicts the frame");
    const limit = Math.min(end, have);
    for (let count = 0; isExtension(protocol); count++) {
      if (count === 8 || l4 + 8 > limit) {
        throw new Malformed("IPv6 extension headers are cut short or too many");
      }
      const was = protocol;
      protocol = b[l4];
      if (was === 44) {
        fragment = (((b[l4 + 2] << 8) | b[l4 + 3]) & 0xfff8) !== 0;
        l4 += 8;
      } else {
        l4 += (b[l4 + 1] + 1) * 8;
      }
      if (l4 > limit) throw new Malformed("IPv6 extension headers are cut short");
      if (fragment) break;
    }
  } else {
    return null;
  }
  let sport = NONE;
  let dport = NONE;
  if ((protocol === TCP || protocol === UDP) && !fragment) {
    const least = l4 + (protocol === TCP ? 20 : 8);
    if (least > end || least > have) throw new Malformed("transport header is cut short");
    sport = (b[l4] << 8) | b[l4 + 1];
    dport = (b[l4 + 2] << 8) | b[l4 + 3];
  }
  const headers = packet.headers;
  headers.version = version;
  headers.l3 = l3 - at;
  headers.l4 = l4 - at;
  headers.end = end - at;
  headers.protocol = protocol;
  headers.sport = sport;
  headers.dport = dport;
  headers.fragment = fragment;
  return headers;
}
