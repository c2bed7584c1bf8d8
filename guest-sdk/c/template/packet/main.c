/* Drops TCP and UDP packets to blocked ports. */

#include <weir/net.h>
#include <weir/packet.h>

/* A bit for each port. */
static uint8_t blocked[65536 / 8];
static weir_counter count;

bool weir_configure(const weir_setup *setup, weir_json config, weir_error *error) {
    (void)setup;
    bool there = false;
    for (weir_json_member key = weir_json_first(config); key.there; key = weir_json_following(key)) {
        if (!weir_text_is(key.key, "blocked")) {
            return weir_refuse(error, "unknown key %.*s; allowed: blocked", (int)key.key.length, key.key.bytes);
        }
        if (weir_json_kind_of(key.value) != WEIR_JSON_LIST) return weir_refuse(error, "blocked: a list of ports is needed");
        there = true;
        for (weir_json_member one = weir_json_first(key.value); one.there; one = weir_json_following(one)) {
            int64_t port;
            if (!weir_json_integer(one.value, 1, 65535, &port)) return weir_refuse(error, "blocked: allowed are ports from 1 to 65535");
            blocked[port / 8] |= (uint8_t)(1 << port % 8);
        }
    }
    if (!there) return weir_refuse(error, "blocked: a list of ports is needed");
    count = weir_counter_named("blocked");
    return true;
}

void weir_process(weir_burst *burst) {
    for (uint32_t i = 0; i < burst->count; i++) {
        weir_packet packet = weir_burst_packet(burst, i);
        weir_headers headers;
        weir_frame frame = weir_parse(packet.data, packet.length, &headers);
        /* A port could be hidden in what cannot be read, such as a tiny first fragment (RFC 1858). */
        if (frame == WEIR_CUT_SHORT) weir_set_verdict(burst, i, weir_drop(2));
        /* What is no IP goes on: all verdicts are WEIR_NEXT before. */
        if (frame < WEIR_IPV4) continue;
        /* What is neither TCP nor UDP has no port. */
        uint32_t port = headers.destination_port;
        if (port != WEIR_NO_PORT && (blocked[port / 8] >> port % 8 & 1)) {
            weir_set_verdict(burst, i, weir_drop(1));
            weir_counter_add(count, 1);
        }
    }
}
