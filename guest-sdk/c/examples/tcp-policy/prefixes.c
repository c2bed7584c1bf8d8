#include "prefixes.h"

#include <stdlib.h>
#include <string.h>

bool is_ipv4(const uint8_t address[16]) {
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(address, mapped, sizeof mapped) == 0;
}

bool prefixes_read(prefixes *prefixes, const char *of, weir_json list, weir_error *error) {
    if (weir_json_kind_of(list) != WEIR_JSON_LIST) return weir_refuse(error, "%s: a list of prefixes is needed", of);
    prefixes->all = calloc(weir_json_count(list) + 1, sizeof *prefixes->all);
    if (prefixes->all == NULL) return weir_refuse(error, "%s: no memory for so many", of);
    for (weir_json_member one = weir_json_first(list); one.there; one = weir_json_following(one)) {
        char text[64];
        weir_prefix prefix, address;
        if (!weir_json_copy(one.value, text, sizeof text) || !weir_prefix_read(text, strlen(text), &prefix)) {
            return weir_refuse(error, "%s: an entry is neither an address nor a prefix, such as 10.0.0.0/8", of);
        }
        size_t of_address = strcspn(text, "/");
        if (!weir_prefix_read(text, of_address, &address) || memcmp(prefix.address, address.address, 16) != 0) {
            return weir_refuse(error, "%s: \"%s\" has bits behind its length", of, text);
        }
        prefixes->all[prefixes->count++] = prefix;
    }
    return true;
}

static bool contains(const weir_prefix *prefix, const uint8_t address[16]) {
    if (!prefix->is_v6 && !is_ipv4(address)) return false;
    const uint8_t *bytes = prefix->is_v6 ? address : address + 12;
    uint32_t whole = prefix->length / 8, rest = prefix->length % 8;
    if (memcmp(prefix->address, bytes, whole) != 0) return false;
    return rest == 0 || (prefix->address[whole] ^ bytes[whole]) >> (8 - rest) == 0;
}

bool prefixes_contain(const prefixes *prefixes, const uint8_t address[16]) {
    for (uint32_t i = 0; i < prefixes->count; i++) {
        if (contains(&prefixes->all[i], address)) return true;
    }
    return false;
}
