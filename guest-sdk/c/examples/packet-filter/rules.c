#include "rules.h"

static bool read_action(weir_json value, bool *allow) {
    weir_text text = {"", 0};
    weir_json_string(value, &text);
    *allow = weir_text_is(text, "allow");
    return *allow || weir_text_is(text, "deny");
}

static bool read_protocol(weir_json value, int64_t *number) {
    static const struct {
        const char *name;
        int64_t number;
    } known[] = {{"icmp", 1}, {"tcp", 6}, {"udp", 17}, {"icmpv6", 58}};
    weir_text text;
    if (!weir_json_string(value, &text)) return weir_json_integer(value, 0, 255, number);
    for (size_t at = 0; at < sizeof known / sizeof known[0]; at++) {
        *number = known[at].number;
        if (weir_text_is(text, known[at].name)) return true;
    }
    return false;
}

/* Reads a port at `*at`, and moves it behind. */
static bool read_port(const char **at, const char *end, uint32_t *port) {
    const char *from = *at;
    *port = 0;
    while (*at < end && **at >= '0' && **at <= '9' && *port <= 65535) *port = *port * 10 + (uint32_t)(*(*at)++ - '0');
    return *at > from && *port <= 65535;
}

static bool read_ports(weir_json value, uint32_t *first, uint32_t *more) {
    weir_text text;
    int64_t number;
    *more = 0;
    if (weir_json_integer(value, 0, 65535, &number)) {
        *first = (uint32_t)number;
        return true;
    }
    if (!weir_json_string(value, &text)) return false;
    const char *at = text.bytes, *end = at + text.length;
    uint32_t last;
    if (!read_port(&at, end, first)) return false;
    if (at == end) return true;
    if (*at++ != '-' || !read_port(&at, end, &last) || at != end || last < *first) return false;
    *more = last - *first;
    return true;
}

static bool read_prefix(weir_json value, weir_prefix *prefix) {
    weir_text text;
    return weir_json_string(value, &text) && weir_prefix_read(text.bytes, text.length, prefix);
}

/* The mask of a prefix as it lies in a header. */
static void mask_of(const weir_prefix *prefix, uint8_t mask[16]) {
    for (int at = 0; at < 16; at++) {
        int bits = prefix->length - 8 * at;
        mask[at] = bits >= 8 ? 0xff : bits <= 0 ? 0 : (uint8_t)(0xff00 >> bits);
    }
}

/* Reads a rule and adds it to those of the families that it is for. */
static bool read_rule(weir_json value, unsigned number, rules *into, weir_error *error) {
    common common = {.sports = WEIR_NO_PORT, .dports = WEIR_NO_PORT};
    weir_prefix prefix[2];
    bool has[2] = {false, false}, has_action = false;
    for (weir_json_member key = weir_json_first(value); key.there; key = weir_json_following(key)) {
        if (weir_text_is(key.key, "action")) {
            has_action = read_action(key.value, &common.allow);
            if (!has_action) return weir_refuse(error, "rules[%u].action: allowed are allow and deny", number);
        } else if (weir_text_is(key.key, "proto")) {
            int64_t protocol;
            if (!read_protocol(key.value, &protocol)) {
                return weir_refuse(error, "rules[%u].proto: allowed are tcp, udp, icmp, icmpv6 and 0 to 255", number);
            }
            common.protocol = (uint32_t)protocol;
            common.protocol_mask = 0xff;
        } else if (weir_text_is(key.key, "src") || weir_text_is(key.key, "dst")) {
            int place = key.key.bytes[0] == 'd';
            has[place] = read_prefix(key.value, &prefix[place]);
            if (!has[place]) {
                return weir_refuse(error, "rules[%u].%s: it is no prefix such as 10.0.0.0/8 or 2001:db8::1", number, place ? "dst" : "src");
            }
        } else if (weir_text_is(key.key, "sport") || weir_text_is(key.key, "dport")) {
            bool source = key.key.bytes[0] == 's';
            if (!(source ? read_ports(key.value, &common.sport, &common.sports) : read_ports(key.value, &common.dport, &common.dports))) {
                return weir_refuse(error, "rules[%u].%s: allowed are a port such as 80 and a range such as 1000-2000", number,
                                   source ? "sport" : "dport");
            }
        } else {
            return weir_refuse(error, "rules[%u]: unknown key %.*s; allowed: action, proto, src, dst, sport, dport", number,
                               (int)key.key.length, key.key.bytes);
        }
    }
    if (!has_action) return weir_refuse(error, "rules[%u]: action is missing; allowed are allow and deny", number);
    rule_v4 v4 = {.common = common};
    rule_v6 v6 = {.common = common};
    bool of_v4 = true, of_v6 = true;
    for (int place = 0; place < 2; place++) {
        if (!has[place]) continue;
        uint8_t mask[16];
        mask_of(&prefix[place], mask);
        if (prefix[place].is_v6) {
            of_v4 = false;
            memcpy(&v6.address[2 * place], prefix[place].address, 16);
            memcpy(&v6.mask[2 * place], mask, 16);
        } else {
            of_v6 = false;
            memcpy(&v4.address[place], prefix[place].address, 4);
            memcpy(&v4.mask[place], mask, 4);
        }
    }
    if (of_v4) into->v4[into->v4_count++] = v4;
    if (of_v6) into->v6[into->v6_count++] = v6;
    return true;
}

bool rules_read(weir_json config, rules *into, weir_error *error) {
    into->allow = true;
    for (weir_json_member key = weir_json_first(config); key.there; key = weir_json_following(key)) {
        if (weir_text_is(key.key, "default")) {
            if (!read_action(key.value, &into->allow)) return weir_refuse(error, "default: allowed are allow and deny");
        } else if (weir_text_is(key.key, "rules")) {
            if (weir_json_kind_of(key.value) != WEIR_JSON_LIST) return weir_refuse(error, "rules: a list is needed");
            unsigned count = weir_json_count(key.value), number = 0;
            if (count > RULES_MAX) return weir_refuse(error, "rules: %u are too many, %u at most", count, RULES_MAX);
            for (weir_json_member one = weir_json_first(key.value); one.there; one = weir_json_following(one)) {
                if (!read_rule(one.value, number++, into, error)) return false;
            }
        } else {
            return weir_refuse(error, "unknown key %.*s; allowed: default, rules", (int)key.key.length, key.key.bytes);
        }
    }
    return true;
}
