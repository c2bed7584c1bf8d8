/* The rules of the packet filter. */
#ifndef RULES_H
#define RULES_H

#include <weir/json.h>
#include <weir/net.h>

#define RULES_MAX 64

/* What rules of both families look at. */
typedef struct common {
    bool allow;
    uint32_t protocol;
    /* 0 for any protocol. */
    uint32_t protocol_mask;
    /* The first port, and how many follow. */
    uint32_t sport, sports, dport, dports;
} common;

/* Source and destination, one after the other, as they lie in a header. */
typedef struct rule_v4 {
    uint32_t address[2], mask[2];
    common common;
} rule_v4;

typedef struct rule_v6 {
    uint64_t address[4], mask[4];
    common common;
} rule_v6;

/* The rules of each family, in order. */
typedef struct rules {
    rule_v4 v4[RULES_MAX];
    rule_v6 v6[RULES_MAX];
    uint32_t v4_count, v6_count;
    bool allow;
} rules;

/* Reads the configuration. False after `weir_refuse`. */
bool rules_read(weir_json config, rules *into, weir_error *error);

static inline bool common_matches(const common *rule, const weir_headers *headers) {
    return ((headers->protocol ^ rule->protocol) & rule->protocol_mask) == 0 &&
           headers->destination_port - rule->dport <= rule->dports && headers->source_port - rule->sport <= rule->sports;
}

/* What the first rule that matches says. `addresses` is where the source's lies in the packet. */
static inline bool rules_allow_v4(const rules *rules, const uint8_t *addresses, const weir_headers *headers) {
    uint32_t packet[2];
    memcpy(packet, addresses, sizeof packet);
    for (const rule_v4 *rule = rules->v4, *end = rule + rules->v4_count; rule < end; rule++) {
        uint32_t differ = ((packet[0] ^ rule->address[0]) & rule->mask[0]) | ((packet[1] ^ rule->address[1]) & rule->mask[1]);
        if (differ == 0 && common_matches(&rule->common, headers)) return rule->common.allow;
    }
    return rules->allow;
}

/* As `rules_allow_v4`. */
static inline bool rules_allow_v6(const rules *rules, const uint8_t *addresses, const weir_headers *headers) {
    uint64_t packet[4];
    memcpy(packet, addresses, sizeof packet);
    for (const rule_v6 *rule = rules->v6, *end = rule + rules->v6_count; rule < end; rule++) {
        uint64_t differ = 0;
        for (int word = 0; word < 4; word++) differ |= (packet[word] ^ rule->address[word]) & rule->mask[word];
        if (differ == 0 && common_matches(&rule->common, headers)) return rule->common.allow;
    }
    return rules->allow;
}

#endif
