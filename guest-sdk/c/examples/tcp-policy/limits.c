#include "limits.h"

#define SECOND 1000000000u
/* Keys of a row: with their times, two cache lines. */
#define ROW 8

bool limits_read(limits *limits, const weir_setup *setup, weir_json config, weir_error *error) {
    *limits = (struct limits){.there = true, .v4 = 32, .v6 = 64, .concurrent = -1, .max_networks = 32768, .seed = setup->seed};
    if (weir_json_kind_of(config) != WEIR_JSON_OBJECT) return weir_refuse(error, "limits: a table is needed");
    for (weir_json_member key = weir_json_first(config); key.there; key = weir_json_following(key)) {
        bool good = true;
        if (weir_text_is(key.key, "network")) {
            weir_json_member v4 = weir_json_first(key.value), v6 = weir_json_following(v4);
            good = weir_json_count(key.value) == 2 && weir_json_integer(v4.value, 0, UINT32_MAX, &limits->v4) &&
                   weir_json_integer(v6.value, 0, UINT32_MAX, &limits->v6);
        } else if (weir_text_is(key.key, "per-second")) {
            good = weir_json_integer(key.value, 1, 1000000, &limits->per_second);
        } else if (weir_text_is(key.key, "burst")) {
            good = weir_json_integer(key.value, 1, 1000000, &limits->burst);
        } else if (weir_text_is(key.key, "concurrent")) {
            good = weir_json_integer(key.value, 1, UINT32_MAX, &limits->concurrent);
        } else if (weir_text_is(key.key, "exempt")) {
            if (!prefixes_read(&limits->exempt, "limits: exempt", key.value, error)) return false;
        } else if (weir_text_is(key.key, "max-networks")) {
            good = weir_json_integer(key.value, 8, 1 << 20, &limits->max_networks);
        } else {
            return weir_refuse(error, "limits: unknown key %.*s; allowed: network, per-second, burst, concurrent, exempt, max-networks",
                               (int)key.key.length, key.key.bytes);
        }
        if (!good) {
            return weir_refuse(error,
                               "limits: %.*s: allowed are: network two numbers, per-second and burst 1 to 1000000, concurrent "
                               "1 and more, max-networks 8 to 1048576",
                               (int)key.key.length, key.key.bytes);
        }
    }
    if (limits->v4 > 32 || limits->v6 > 128) {
        return weir_refuse(error, "limits: network [%lld, %lld] is more than [32, 128]", (long long)limits->v4, (long long)limits->v6);
    }
    if (limits->per_second == 0) return limits->burst == 0 || weir_refuse(error, "limits: burst needs per-second");
    if (limits->burst == 0) limits->burst = limits->per_second;
    limits->rows = (void *)setup->state;
    limits->row_count = (size_t)(limits->max_networks + ROW - 1) / ROW;
    if (setup->state == NULL || limits->row_count * sizeof *limits->rows > setup->state_bytes) {
        return weir_refuse(error, "limits: max-networks %lld do not fit the state region's %u bytes", (long long)limits->max_networks,
                           (unsigned)setup->state_bytes);
    }
    return true;
}

/* Spreads a number's bits over all bits: the finalizer of splitmix64 (Steele, Lea, Flood, 2014). */
static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* The key of a client's network; never 0. */
static uint64_t network_of(const limits *limits, const uint8_t client[16]) {
    uint32_t bits = is_ipv4(client) ? 96 + (uint32_t)limits->v4 : (uint32_t)limits->v6;
    uint64_t halves[2] = {0, 0};
    for (uint32_t i = 0; i < bits; i++) {
        uint64_t bit = client[i / 8] >> (7 - i % 8) & 1;
        halves[i / 64] |= bit << (63 - i % 64);
    }
    uint64_t key = mix(mix(halves[0] ^ limits->seed) ^ halves[1]);
    return key == 0 ? 1 : key;
}

/* The generic cell rate algorithm (ITU-T I.371). Of a bucket only the time is stored at which it will be full; in a row without a place
 * the one that is full the soonest goes. */
static bool take_token(limits *limits, uint64_t key) {
    uint64_t(*row)[2] = limits->rows[key % limits->row_count];
    uint32_t at = 0;
    for (uint32_t i = 0; i < ROW; i++) {
        if (row[i][0] == key) {
            at = i;
            break;
        }
        if (row[i][1] < row[at][1]) at = i;
    }
    uint64_t now = weir_now(), interval = SECOND / (uint64_t)limits->per_second, most = interval * (uint64_t)limits->burst;
    uint64_t full_at = row[at][0] == key ? row[at][1] : now;
    if (full_at < now) full_at = now;
    /* A time further ahead than a whole bucket is not one of this rate. */
    if (full_at > now + most) full_at = now + most;
    if (most - (full_at - now) < interval) return false;
    row[at][0] = key;
    row[at][1] = full_at + interval;
    return true;
}

bool limits_allow(limits *limits, const uint8_t client[16], uint64_t *counted) {
    *counted = 0;
    if (!limits->there || (limits->exempt.count > 0 && prefixes_contain(&limits->exempt, client))) return true;
    uint64_t network = network_of(limits, client);
    if (limits->concurrent >= 0) {
        uint64_t *open = table_find(&limits->open, network);
        if ((open == NULL ? 0 : *open) >= (uint64_t)limits->concurrent) return false;
    }
    if (limits->per_second > 0 && !take_token(limits, network)) return false;
    if (limits->concurrent >= 0) {
        uint64_t *open = table_put(&limits->open, network);
        if (open == NULL) return false;
        ++*open;
        *counted = network;
    }
    return true;
}

void limits_ended(limits *limits, uint64_t network) {
    uint64_t *open = table_find(&limits->open, network);
    if (open != NULL && --*open == 0) table_remove(&limits->open, network);
}
