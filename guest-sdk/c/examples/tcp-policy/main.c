/* Decides about connections: the function tcp-policy (functions/tcp-policy) in C. */

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <weir/message.h>

#include "limits.h"
#include "rules.h"

/* Maximum number of pieces that are held: each takes a room, however short it is. */
#define PIECES_MAX 32

static rules policy = {.allow_by_default = true};
static limits limited_to;
static weir_counter allowed, denied, limited;

/* What is remembered of a connection. */
typedef struct state {
    /* Counted as one of this network; 0: not. */
    uint64_t network;
    bool undecided;
    known known;
    /* The client's first bytes, as long as they do not tell. */
    uint8_t *bytes;
    size_t length;
    uint32_t pieces;
} state;

/* By exchange; values are addresses of states. Exchanges have numbers that follow each other, which need not be spread. */
static table states;

static state *state_of(uint32_t exchange) {
    uint64_t *found = table_find(&states, exchange);
    return found == NULL ? NULL : (state *)(uintptr_t)*found;
}

static state *new_state(uint32_t exchange) {
    uint64_t *place = table_put(&states, exchange);
    state *state = place == NULL ? NULL : calloc(1, sizeof *state);
    if (state == NULL) {
        table_remove(&states, exchange);
        return NULL;
    }
    *place = (uintptr_t)state;
    return state;
}

static void forget(uint32_t exchange) {
    state *state = state_of(exchange);
    if (state == NULL) return;
    limits_ended(&limited_to, state->network);
    free((void *)state->known.name.bytes);
    free(state->bytes);
    free(state);
    table_remove(&states, exchange);
}

bool weir_configure(const weir_setup *setup, weir_json config, weir_error *error) {
    for (weir_json_member key = weir_json_first(config); key.there; key = weir_json_following(key)) {
        if (weir_text_is(key.key, "rules")) {
            if (!rules_read(&policy, setup, key.value, error)) return false;
        } else if (weir_text_is(key.key, "default")) {
            if (!action_read(key.value, &policy.allow_by_default)) return weir_refuse(error, "default: allowed are allow and deny");
        } else if (weir_text_is(key.key, "limits")) {
            if (!limits_read(&limited_to, setup, key.value, error)) return false;
        } else {
            return weir_refuse(error, "unknown key %.*s; allowed: rules, default, limits", (int)key.key.length, key.key.bytes);
        }
    }
    allowed = weir_counter_named("allowed");
    denied = weir_counter_named("denied");
    limited = weir_counter_named("limited");
    return true;
}

uint32_t weir_wants(void) {
    uint32_t wants = WEIR_OPENED;
    if (rules_by_bytes(&policy)) wants |= WEIR_DATA | WEIR_ENDED;
    /* The number of open connections falls when one ends. */
    if (limited_to.there) wants |= WEIR_ENDED;
    return wants;
}

/* Writes a line if the rule that decided says so. */
static void note(const char *what, const known *known, const decision *decision) {
    if (decision->rule == NULL || !decision->rule->log) return;
    char client[64], name[4 * 256 + 1] = "";
    const uint8_t *a = known->client;
    if (is_ipv4(a)) {
        snprintf(client, sizeof client, "%u.%u.%u.%u", a[12], a[13], a[14], a[15]);
    } else {
        inet_ntop(AF_INET6, a, client, sizeof client);
    }
    size_t used = 0;
    for (size_t i = 0; i < known->name.length && i < 256; i++) {
        uint8_t byte = (uint8_t)known->name.bytes[i];
        bool plain = byte >= 0x20 && byte < 0x7f && byte != '\\' && byte != '"' && byte != '\'';
        used += (size_t)snprintf(name + used, sizeof name - used, plain ? "%c" : "\\x%02x", byte);
    }
    weir_log(WEIR_INFO, "%s by rule %u: %s to port %u %s", what, (unsigned)decision->number, client, known->port, name);
}

static weir_outcome deny(const known *known, const decision *decision) {
    weir_counter_add(denied, 1);
    note("denied", known, decision);
    return WEIR_RESET;
}

static weir_outcome allow(uint32_t exchange, const known *known, const decision *decision) {
    weir_counter_add(allowed, 1);
    note("allowed", known, decision);
    int32_t upstream = decision->rule == NULL ? -1 : decision->rule->upstream;
    if (upstream < 0) return WEIR_FINISHED;
    /* By the name in a ClientHello that passes through, it is too late. */
    if (known->protocol != PROTOCOL_MORE) {
        weir_log(WEIR_WARN, "a server name came after its connection was sent to an upstream; end TLS here to route by it");
        return WEIR_RESET;
    }
    if (weir_route(exchange, (uint32_t)upstream) != WEIR_DONE) {
        weir_log(WEIR_WARN, "a connection cannot be routed");
        return WEIR_RESET;
    }
    return WEIR_FINISHED;
}

weir_outcome weir_opened(uint32_t exchange, weir_head *head) {
    known known = {
        .port = weir_head_local_port(head),
        .tls = (weir_head_flags(head) & 1) != 0,
        .name = weir_head_server_name(head),
        .protocol = PROTOCOL_MORE,
    };
    memcpy(known.client, weir_head_client(head), sizeof known.client);
    decision decision = rules_decide(&policy, &known);
    if (!decision.later && !decision.allow) return deny(&known, &decision);
    uint64_t network;
    if (!limits_allow(&limited_to, known.client, &network)) {
        weir_counter_add(limited, 1);
        return WEIR_RESET;
    }
    if (network == 0 && !decision.later) return allow(exchange, &known, &decision);
    state *state = new_state(exchange);
    if (state == NULL) {
        limits_ended(&limited_to, network);
        return WEIR_RESET;
    }
    state->network = network;
    if (!decision.later) return allow(exchange, &known, &decision);
    /* The head is gone when the event has returned. */
    char *name = malloc(known.name.length + 1);
    if (name == NULL) return WEIR_RESET;
    memcpy(name, known.name.bytes, known.name.length);
    known.name.bytes = name;
    state->known = known;
    state->undecided = true;
    return WEIR_CONTINUE;
}

weir_outcome weir_data(uint32_t exchange, bool from_upstream, weir_piece *piece) {
    if (from_upstream) return WEIR_CONTINUE;
    state *state = state_of(exchange);
    if (state == NULL || !state->undecided) return WEIR_FINISHED;
    size_t more = FIRST_MAX - state->length;
    if (more > piece->length) more = piece->length;
    uint8_t *bytes = realloc(state->bytes, state->length + more + 1);
    if (bytes == NULL) return WEIR_RESET;
    memcpy(bytes + state->length, piece->data, more);
    state->bytes = bytes;
    state->length += more;
    bool last = piece->last || ++state->pieces >= PIECES_MAX;
    known known = state->known;
    weir_text told;
    known.protocol = first_look(bytes, state->length, last, &told);
    if (known.protocol == PROTOCOL_MORE) return WEIR_HOLD_PIECE;
    if (known.name.length == 0) known.name = told;
    state->undecided = false;
    decision decision = rules_decide(&policy, &known);
    /* Everything is known now. */
    if (decision.later) return WEIR_RESET;
    return decision.allow ? allow(exchange, &known, &decision) : deny(&known, &decision);
}

void weir_ended(uint32_t exchange, uint32_t how, uint32_t upstream, uint64_t nanoseconds) {
    (void)how, (void)upstream, (void)nanoseconds;
    forget(exchange);
}
