/* A stateless firewall: the function that every language's SDK has as an example. What it does is specified in
 * guest-sdk/packet-filter/README.md. */

#include "rules.h"

#include <weir/packet.h>

static rules all;

bool weir_configure(const weir_setup *setup, weir_json config, weir_error *error) {
    (void)setup;
    return rules_read(config, &all, error);
}

static inline bool allowed(const weir_packet *packet) {
    weir_headers headers;
    switch (weir_parse(packet->data, packet->length, &headers)) {
    case WEIR_NOT_IP:
        return true;
    case WEIR_CUT_SHORT:
        return false;
    case WEIR_IPV4:
        return rules_allow_v4(&all, packet->data + headers.l3 + 12, &headers);
    default:
        return rules_allow_v6(&all, packet->data + headers.l3 + 8, &headers);
    }
}

void weir_process(weir_burst *burst) {
    for (uint32_t i = 0; i < burst->count; i++) {
        weir_packet packet = weir_burst_packet(burst, i);
        if (!allowed(&packet)) weir_set_verdict(burst, i, weir_drop(1));
    }
}
