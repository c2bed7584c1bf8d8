/* The Internet checksum (RFC 1071), and changing it with the bytes that it covers (RFC 1624). Checksums and words are numbers: write
 * them with `weir_put16`. */
#ifndef WEIR_CHECKSUM_H
#define WEIR_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A sum in 16 bits, not complemented. */
static inline uint16_t weir_checksum_fold(uint64_t sum) {
    sum = (sum >> 32) + (sum & 0xffffffff);
    sum = (sum >> 32) + (sum & 0xffffffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    return (uint16_t)((sum >> 16) + (sum & 0xffff));
}

/* The one's complement sum of bytes as 16-bit words, for `weir_checksum_fold`; sums of parts can be added, if all but the last
 * have an even length. */
static inline uint64_t weir_checksum_sum(const uint8_t *bytes, size_t length) {
    uint64_t sum = 0;
    size_t at = 0;
    for (; at + 4 <= length; at += 4) {
        uint32_t word;
        memcpy(&word, bytes + at, 4);
        sum += word;
    }
    if (at < length) {
        uint32_t last = 0;
        memcpy(&last, bytes + at, length - at);
        sum += last;
    }
    uint16_t folded = weir_checksum_fold(sum);
    return (uint16_t)(folded << 8 | folded >> 8);
}

/* The checksum of bytes whose checksum field is 0; 0 for bytes whose field is right. */
static inline uint16_t weir_checksum(const uint8_t *bytes, size_t length) {
    return (uint16_t)~weir_checksum_fold(weir_checksum_sum(bytes, length));
}

/* The sum of the pseudo header of TCP and UDP over IPv4, for a segment of so many bytes. */
static inline uint64_t weir_checksum_pseudo_v4(uint32_t source, uint32_t destination, uint8_t protocol, uint16_t length) {
    return (uint64_t)source + destination + protocol + length;
}

/* The sum of the pseudo header over IPv6; addresses as they lie in the header. */
static inline uint64_t weir_checksum_pseudo_v6(const uint8_t source[16], const uint8_t destination[16], uint8_t protocol, uint32_t length) {
    return weir_checksum_sum(source, 16) + weir_checksum_sum(destination, 16) + protocol + length;
}

/* The checksum of a segment, whose checksum field is 0, with a pseudo header's sum. For UDP as `weir_checksum_udp`. */
static inline uint16_t weir_checksum_transport(uint64_t pseudo, const uint8_t *segment, size_t length) {
    return (uint16_t)~weir_checksum_fold(pseudo + weir_checksum_sum(segment, length));
}

/* As UDP writes a checksum: 0xffff for 0, which says that there is none. */
static inline uint16_t weir_checksum_udp(uint16_t checksum) { return checksum == 0 ? 0xffff : checksum; }

/* The checksum after a word changed. Never do this to a UDP checksum of 0; and what is 0 now UDP writes as `weir_checksum_udp` says. */
static inline uint16_t weir_checksum_update16(uint16_t checksum, uint16_t before, uint16_t after) {
    return (uint16_t)~weir_checksum_fold((uint64_t)(uint16_t)~checksum + (uint16_t)~before + after);
}

/* The checksum after two adjacent words changed, such as an IPv4 address; it must lie at an even offset. For UDP as `weir_checksum_update16`. */
static inline uint16_t weir_checksum_update32(uint16_t checksum, uint32_t before, uint32_t after) {
    return (uint16_t)~weir_checksum_fold((uint64_t)(uint16_t)~checksum + (uint32_t)~before + after);
}

#endif
