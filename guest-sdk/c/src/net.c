/* Reading IPv6, and prefixes as text. */

#include <weir/net.h>

weir_frame weir_parse_ipv6(const uint8_t *frame, uint32_t length, weir_headers *headers) {
    uint32_t at = headers->l3;
    if (length - at < sizeof(weir_ipv6)) return WEIR_CUT_SHORT;
    const uint8_t *header = frame + at;
    at += sizeof(weir_ipv6);
    uint32_t payload = weir_get16(header + 4);
    if (header[0] >> 4 != 6 || payload > length - at) return WEIR_CUT_SHORT;
    headers->end = at + payload;
    headers->later_fragment = false;
    uint32_t protocol = header[6];
    for (int walked = 0; (protocol == 0 || protocol == 43 || protocol == 44 || protocol == 60) && !headers->later_fragment; walked++) {
        if (walked == WEIR_EXTENSIONS_MAX || headers->end - at < 8) return WEIR_CUT_SHORT;
        const uint8_t *extension = frame + at;
        uint32_t bytes = 8;
        if (protocol == 44) {
            headers->later_fragment = (weir_get16(extension + 2) & 0xfff8) != 0;
        } else {
            bytes += extension[1] * 8u;
        }
        if (bytes > headers->end - at) return WEIR_CUT_SHORT;
        at += bytes;
        protocol = extension[0];
    }
    headers->l4 = at;
    headers->protocol = protocol;
    return weir_parse_transport(frame, headers) ? WEIR_IPV6 : WEIR_CUT_SHORT;
}

/* A decimal number of at most three digits; moves `at` behind it. False if there is none, or it is beyond `most`. */
static bool decimal(const char **at, const char *end, uint32_t most, uint32_t *number) {
    uint32_t read = 0;
    const char *from = *at;
    while (*at < end && **at >= '0' && **at <= '9' && *at - from < 3) read = read * 10 + (uint32_t)(*(*at)++ - '0');
    *number = read;
    return *at > from && read <= most;
}

static bool read_v4(const char *at, const char *end, uint8_t *address) {
    for (int place = 0; place < 4; place++) {
        uint32_t number;
        if (place > 0 && (at == end || *at++ != '.')) return false;
        if (!decimal(&at, end, 255, &number)) return false;
        address[place] = (uint8_t)number;
    }
    return at == end;
}

static int hexadecimal(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    digit |= 0x20;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

static bool read_v6(const char *at, const char *end, uint8_t *address) {
    uint8_t words[16] = {0};
    int count = 0, gap = -1;
    if (end - at >= 2 && at[0] == ':' && at[1] == ':') {
        gap = 0;
        at += 2;
    }
    while (at < end && count < 16) {
        uint32_t word = 0;
        const char *from = at;
        while (at < end && at - from < 4 && hexadecimal(*at) >= 0) word = word << 4 | (uint32_t)hexadecimal(*at++);
        if (at < end && *at == '.' && count <= 12) {
            if (!read_v4(from, end, words + count)) return false;
            count += 4;
            at = end;
            break;
        }
        if (at == from) return false;
        words[count++] = (uint8_t)(word >> 8);
        words[count++] = (uint8_t)word;
        if (at == end) break;
        if (*at++ != ':' || at == end) return false;
        if (*at == ':') {
            if (gap >= 0) return false;
            gap = count;
            at++;
        }
    }
    if (at != end || (gap < 0 ? count != 16 : count > 14)) return false;
    memset(address, 0, 16);
    if (gap < 0) gap = count;
    memcpy(address, words, (size_t)gap);
    memcpy(address + 16 - (count - gap), words + gap, (size_t)(count - gap));
    return true;
}

bool weir_prefix_read(const char *text, size_t length, weir_prefix *prefix) {
    const char *end = text + length;
    const char *slash = memchr(text, '/', length);
    const char *of_address = slash == NULL ? end : slash;
    memset(prefix, 0, sizeof *prefix);
    prefix->is_v6 = memchr(text, ':', (size_t)(of_address - text)) != NULL;
    uint32_t most = prefix->is_v6 ? 128 : 32, bits = most;
    if (!(prefix->is_v6 ? read_v6 : read_v4)(text, of_address, prefix->address)) return false;
    if (slash != NULL) {
        slash++;
        if (!decimal(&slash, end, most, &bits) || slash != end) return false;
    }
    prefix->length = (uint8_t)bits;
    for (uint32_t at = 0; at < 16; at++) {
        if (bits < 8 * (at + 1)) prefix->address[at] &= bits <= 8 * at ? 0 : (uint8_t)(0xff00 >> (bits - 8 * at));
    }
    return true;
}
