/* Lists of prefixes of clients' addresses. */
#ifndef PREFIXES_H
#define PREFIXES_H

#include <weir/json.h>
#include <weir/net.h>

typedef struct prefixes {
    weir_prefix *all;
    uint32_t count;
} prefixes;

/* Whether an address of 16 bytes is one of IPv4, as ::ffff:a.b.c.d. */
bool is_ipv4(const uint8_t address[16]);
/* Reads a list of prefixes; `of` is the key that it stands under. */
bool prefixes_read(prefixes *prefixes, const char *of, weir_json list, weir_error *error);
/* Whether one of them has this address of 16 bytes. */
bool prefixes_contain(const prefixes *prefixes, const uint8_t address[16]);

#endif
