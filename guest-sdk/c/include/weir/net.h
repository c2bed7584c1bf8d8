/* Headers of packets: typed views of single ones, and reading a whole frame in one pass.
 *
 * Fields lie in network byte order; their types have no alignment, so that a view may be laid over any byte of a packet. Check the length
 * first: a view checks nothing. */
#ifndef WEIR_NET_H
#define WEIR_NET_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Types of Ethernet frames. */
enum {
    WEIR_ETHERTYPE_IPV4 = 0x0800,
    WEIR_ETHERTYPE_ARP = 0x0806,
    WEIR_ETHERTYPE_VLAN = 0x8100,
    WEIR_ETHERTYPE_IPV6 = 0x86dd,
    WEIR_ETHERTYPE_QINQ = 0x88a8,
};

/* Numbers of protocols. */
enum {
    WEIR_PROTOCOL_ICMP = 1,
    WEIR_PROTOCOL_TCP = 6,
    WEIR_PROTOCOL_UDP = 17,
    WEIR_PROTOCOL_ICMPV6 = 58,
};

/* TCP's flags. */
enum {
    WEIR_TCP_FIN = 1,
    WEIR_TCP_SYN = 2,
    WEIR_TCP_RST = 4,
    WEIR_TCP_PSH = 8,
    WEIR_TCP_ACK = 16,
    WEIR_TCP_URG = 32,
};

/* Numbers in network byte order, of 16 and 32 bits. */
typedef struct weir_be16 {
    uint8_t bytes[2];
} weir_be16;
typedef struct weir_be32 {
    uint8_t bytes[4];
} weir_be32;

/* The number of two bytes in network order. */
static inline uint16_t weir_get16(const void *at) {
    uint16_t word;
    memcpy(&word, at, 2);
    return __builtin_bswap16(word);
}

/* The number of four bytes in network order. */
static inline uint32_t weir_get32(const void *at) {
    uint32_t word;
    memcpy(&word, at, 4);
    return __builtin_bswap32(word);
}

/* The number of eight bytes in network order. */
static inline uint64_t weir_get64(const void *at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return __builtin_bswap64(word);
}

/* Writes a number as two bytes in network order. */
static inline void weir_put16(void *at, uint16_t number) {
    number = __builtin_bswap16(number);
    memcpy(at, &number, 2);
}

/* Writes a number as four bytes in network order. */
static inline void weir_put32(void *at, uint32_t number) {
    number = __builtin_bswap32(number);
    memcpy(at, &number, 4);
}

/* Ethernet's header, 14 bytes. */
typedef struct weir_ethernet {
    uint8_t destination[6];
    uint8_t source[6];
    weir_be16 type;
} weir_ethernet;

/* A VLAN tag, 4 bytes, behind the type 0x8100 or 0x88a8. */
typedef struct weir_vlan {
    /* Priority (3 bits), drop eligible (1 bit), VLAN (12 bits). */
    weir_be16 control;
    weir_be16 type;
} weir_vlan;

/* IPv4's header, 20 bytes; options follow. */
typedef struct weir_ipv4 {
    uint8_t version_length;
    uint8_t tos;
    weir_be16 total_length;
    weir_be16 identification;
    /* Don't fragment 0x4000, more fragments 0x2000, and the offset in units of eight bytes. */
    weir_be16 fragment;
    uint8_t ttl;
    uint8_t protocol;
    weir_be16 checksum;
    weir_be32 source;
    weir_be32 destination;
} weir_ipv4;

/* Bytes of an IPv4 header with its options. */
static inline uint32_t weir_ipv4_length(const weir_ipv4 *header) {
    return (header->version_length & 15u) * 4;
}

/* IPv6's header, 40 bytes. */
typedef struct weir_ipv6 {
    /* Version (4 bits), traffic class (8 bits), flow label (20 bits). */
    weir_be32 version_class_flow;
    weir_be16 payload_length;
    uint8_t next_header;
    uint8_t hop_limit;
    uint8_t source[16];
    uint8_t destination[16];
} weir_ipv6;

/* TCP's header, 20 bytes; options follow. */
typedef struct weir_tcp {
    weir_be16 source;
    weir_be16 destination;
    weir_be32 sequence;
    weir_be32 acknowledgment;
    /* The header's length in units of four bytes, in the upper four bits. */
    uint8_t offset;
    uint8_t flags;
    weir_be16 window;
    weir_be16 checksum;
    weir_be16 urgent;
} weir_tcp;

/* UDP's header, 8 bytes. */
typedef struct weir_udp {
    weir_be16 source;
    weir_be16 destination;
    weir_be16 length;
    weir_be16 checksum;
} weir_udp;

/* What a frame turned out to be. */
typedef enum weir_frame {
    /* Neither IPv4 nor IPv6 over Ethernet with up to two tags. */
    WEIR_NOT_IP,
    /* IP, but cut short, or its lengths contradict each other. */
    WEIR_CUT_SHORT,
    /* A whole IPv4 packet. */
    WEIR_IPV4,
    /* A whole IPv6 packet. */
    WEIR_IPV6,
} weir_frame;

/* Stands for the ports of a packet that has none. */
#define WEIR_NO_PORT 0x10000u

/* Where the headers of an IP packet lie in its frame, and what they say. */
typedef struct weir_headers {
    /* Where the IP header begins. */
    uint32_t l3;
    /* Where what it carries begins, behind options and extension headers. */
    uint32_t l4;
    /* Where the IP packet ends; padding may follow. */
    uint32_t end;
    /* The transport protocol. */
    uint32_t protocol;
    /* Ports of TCP and UDP; WEIR_NO_PORT for other protocols and later fragments. */
    uint32_t source_port, destination_port;
    /* It is a piece of a packet, but not the first. */
    bool later_fragment;
} weir_headers;

/* Extension headers that are walked; a packet with more counts as cut short. */
#define WEIR_EXTENSIONS_MAX 8

/* Ports; false if TCP's or UDP's header is not all there. For `weir_parse`. */
static inline bool weir_parse_transport(const uint8_t *frame, weir_headers *headers) {
    headers->source_port = headers->destination_port = WEIR_NO_PORT;
    uint32_t protocol = headers->protocol;
    if ((protocol != WEIR_PROTOCOL_TCP && protocol != WEIR_PROTOCOL_UDP) || headers->later_fragment) return true;
    if (headers->end - headers->l4 < (protocol == WEIR_PROTOCOL_TCP ? sizeof(weir_tcp) : sizeof(weir_udp))) return false;
    headers->source_port = weir_get16(frame + headers->l4);
    headers->destination_port = weir_get16(frame + headers->l4 + 2);
    return true;
}

/* Reads an IPv6 packet at `headers->l3`. For `weir_parse`. */
weir_frame weir_parse_ipv6(const uint8_t *frame, uint32_t length, weir_headers *headers);

/* Reads a frame in one pass; `headers` is filled in for WEIR_IPV4 and WEIR_IPV6. Reads nothing beyond `length`. */
static inline weir_frame weir_parse(const uint8_t *frame, uint32_t length, weir_headers *headers) {
    if (length < sizeof(weir_ethernet)) return WEIR_NOT_IP;
    uint32_t type = weir_get16(frame + 12);
    uint32_t l3 = sizeof(weir_ethernet);
    for (int tags = 0; tags < 2 && (type == WEIR_ETHERTYPE_VLAN || type == WEIR_ETHERTYPE_QINQ); tags++) {
        if (length < l3 + sizeof(weir_vlan)) return WEIR_NOT_IP;
        type = weir_get16(frame + l3 + 2);
        l3 += sizeof(weir_vlan);
    }
    headers->l3 = l3;
    if (type == WEIR_ETHERTYPE_IPV6) return weir_parse_ipv6(frame, length, headers);
    if (type != WEIR_ETHERTYPE_IPV4) return WEIR_NOT_IP;
    if (length - l3 < sizeof(weir_ipv4)) return WEIR_CUT_SHORT;
    const uint8_t *header = frame + l3;
    uint32_t bytes = (header[0] & 15u) * 4;
    uint32_t total = weir_get16(header + 2);
    if (header[0] >> 4 != 4 || bytes < sizeof(weir_ipv4) || bytes > total || total > length - l3) return WEIR_CUT_SHORT;
    headers->l4 = l3 + bytes;
    headers->end = l3 + total;
    headers->protocol = header[9];
    headers->later_fragment = (weir_get16(header + 6) & 0x1fff) != 0;
    return weir_parse_transport(frame, headers) ? WEIR_IPV4 : WEIR_CUT_SHORT;
}

/* An address with the length of its prefix. */
typedef struct weir_prefix {
    /* As it lies in a header; an IPv4 address in the first four bytes. Bits behind the prefix are 0. */
    uint8_t address[16];
    /* Leading bits that count. */
    uint8_t length;
    bool is_v6;
} weir_prefix;

/* Reads "10.0.0.0/8", "2001:db8::/32", or an address alone, which is a prefix of all its bits. False if it is neither. */
bool weir_prefix_read(const char *text, size_t length, weir_prefix *prefix);

#ifdef __cplusplus
}
#endif
#endif
