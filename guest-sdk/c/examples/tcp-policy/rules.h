/* Rules by client, port, server name and protocol. */
#ifndef RULES_H
#define RULES_H

#include "first.h"
#include "prefixes.h"

/* What is known of a connection. */
typedef struct known {
    uint8_t client[16];
    uint16_t port;
    /* TLS ends at the gateway. */
    bool tls;
    /* The server name; empty if there is none. */
    weir_text name;
    /* PROTOCOL_MORE before the first bytes came. */
    protocol protocol;
} known;

typedef struct rule {
    bool allow, log;
    prefixes clients;
    uint16_t *ports;
    uint32_t port_count;
    weir_text *names;
    uint32_t name_count;
    /* A bit for each protocol; 0: any. */
    uint32_t protocols;
    /* -1: the listener chooses. */
    int32_t upstream;
} rule;

/* What the rules say. */
typedef struct decision {
    /* The first bytes will tell. */
    bool later;
    bool allow;
    /* The rule that decided; NULL: none did. */
    const rule *rule;
    uint32_t number;
} decision;

typedef struct rules {
    rule *all;
    uint32_t count;
    bool allow_by_default;
} rules;

/* Reads the list `rules`. */
bool rules_read(rules *rules, const weir_setup *setup, weir_json list, weir_error *error);
/* Reads "allow" or "deny". */
bool action_read(weir_json value, bool *allow);
/* Whether a rule asks for what first bytes tell. */
bool rules_by_bytes(const rules *rules);
/* The first rule that matches decides; one of which it is not known whether it does holds up those behind. */
decision rules_decide(const rules *rules, const known *known);

#endif
