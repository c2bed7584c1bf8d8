#include "rules.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <weir/message.h>

#define RULES_MAX 256
/* Longest name that is read: of a server, a port, a protocol. */
#define NAME_MAX 1024

bool action_read(weir_json value, bool *allow) {
    weir_text text;
    if (!weir_json_string(value, &text)) return false;
    *allow = weir_text_is(text, "allow");
    return *allow || weir_text_is(text, "deny");
}

static bool upstream_read(rule *rule, uint32_t number, const weir_setup *setup, weir_json value, weir_error *error) {
    char name[NAME_MAX];
    if (!weir_json_copy(value, name, sizeof name)) return weir_refuse(error, "rules[%u]: upstream: a name is needed", (unsigned)number);
    rule->upstream = weir_port_named(setup, weir_text_of(name));
    if (rule->upstream >= 0) return true;
    char all[256] = "";
    for (uint32_t i = 0; i < setup->port_count; i++) {
        size_t used = strlen(all);
        size_t length = setup->ports[i].length;
        if (used + length + 3 > sizeof all) break;
        if (used > 0) memcpy(all + used, ", ", 2), used += 2;
        memcpy(all + used, setup->ports[i].bytes, length);
        all[used + length] = 0;
    }
    return weir_refuse(error, "rules[%u]: no upstream is named \"%s\"; there are %s", (unsigned)number, name, all);
}

static bool names_read(rule *rule, weir_json list) {
    if (weir_json_kind_of(list) != WEIR_JSON_LIST) return false;
    rule->names = calloc(weir_json_count(list) + 1, sizeof *rule->names);
    for (weir_json_member one = weir_json_first(list); one.there; one = weir_json_following(one)) {
        char name[NAME_MAX];
        if (rule->names == NULL || !weir_json_copy(one.value, name, sizeof name) || name[0] == 0) return false;
        char *kept = strdup(name);
        if (kept == NULL) return false;
        rule->names[rule->name_count++] = weir_text_of(kept);
    }
    return true;
}

static bool ports_read(rule *rule, weir_json list) {
    if (weir_json_kind_of(list) != WEIR_JSON_LIST) return false;
    rule->ports = calloc(weir_json_count(list) + 1, sizeof *rule->ports);
    for (weir_json_member one = weir_json_first(list); one.there; one = weir_json_following(one)) {
        int64_t port;
        if (rule->ports == NULL || !weir_json_integer(one.value, 0, UINT16_MAX, &port)) return false;
        rule->ports[rule->port_count++] = (uint16_t)port;
    }
    return true;
}

static bool protocols_read(rule *rule, uint32_t number, weir_json list, weir_error *error) {
    static const char *const names[] = {"tls", "ssh", "http", "other"};
    if (weir_json_kind_of(list) != WEIR_JSON_LIST) return weir_refuse(error, "rules[%u]: protocol: a list is needed", (unsigned)number);
    for (weir_json_member one = weir_json_first(list); one.there; one = weir_json_following(one)) {
        weir_text text = {"", 0};
        uint32_t bit = 0;
        weir_json_string(one.value, &text);
        for (uint32_t i = 0; i < 4; i++) bit |= (uint32_t)weir_text_is(text, names[i]) << i;
        if (bit == 0) {
            return weir_refuse(error, "rules[%u]: protocol: %.*s is none of tls, ssh, http, other", (unsigned)number, (int)text.length,
                               text.bytes);
        }
        rule->protocols |= bit;
    }
    return true;
}

/* An empty list would be for none, while without it a rule is for all. */
static bool is_empty(weir_json value) {
    return weir_json_kind_of(value) == WEIR_JSON_LIST && weir_json_count(value) == 0;
}

static bool rule_read(rule *rule, uint32_t number, const weir_setup *setup, weir_json table, weir_error *error) {
    unsigned n = (unsigned)number;
    bool acts = false;
    rule->upstream = -1;
    if (weir_json_kind_of(table) != WEIR_JSON_OBJECT) return weir_refuse(error, "rules[%u]: a table is needed", n);
    for (weir_json_member key = weir_json_first(table); key.there; key = weir_json_following(key)) {
        if (is_empty(key.value)) {
            return weir_refuse(error, "rules[%u]: %.*s: the list is empty, which is for none: leave it out for all", n,
                               (int)key.key.length, key.key.bytes);
        }
        if (weir_text_is(key.key, "action")) {
            acts = action_read(key.value, &rule->allow);
            if (!acts) return weir_refuse(error, "rules[%u]: action: allowed are allow and deny", n);
        } else if (weir_text_is(key.key, "client")) {
            if (!prefixes_read(&rule->clients, "rules: client", key.value, error)) return false;
        } else if (weir_text_is(key.key, "port")) {
            if (!ports_read(rule, key.value)) return weir_refuse(error, "rules[%u]: port: a list of ports from 0 to 65535 is needed", n);
        } else if (weir_text_is(key.key, "server-name")) {
            if (!names_read(rule, key.value)) return weir_refuse(error, "rules[%u]: server-name: a list of names is needed", n);
        } else if (weir_text_is(key.key, "protocol")) {
            if (!protocols_read(rule, number, key.value, error)) return false;
        } else if (weir_text_is(key.key, "upstream")) {
            if (!upstream_read(rule, number, setup, key.value, error)) return false;
        } else if (weir_text_is(key.key, "log")) {
            weir_json_kind kind = weir_json_kind_of(key.value);
            rule->log = kind == WEIR_JSON_TRUE;
            if (kind != WEIR_JSON_TRUE && kind != WEIR_JSON_FALSE) return weir_refuse(error, "rules[%u]: log: true or false is needed", n);
        } else {
            return weir_refuse(error, "rules[%u]: unknown key %.*s; allowed: action, client, port, server-name, protocol, upstream, log", n,
                               (int)key.key.length, key.key.bytes);
        }
    }
    if (!acts) return weir_refuse(error, "rules[%u]: action is needed", n);
    if (rule->upstream >= 0 && (!rule->allow || rule->protocols != 0)) {
        return weir_refuse(error,
                           "rules[%u]: a connection is sent to its upstream before its first bytes come, so a rule with `upstream` must "
                           "allow and cannot have `protocol`",
                           n);
    }
    return true;
}

bool rules_read(rules *rules, const weir_setup *setup, weir_json list, weir_error *error) {
    uint32_t count = weir_json_count(list);
    if (weir_json_kind_of(list) != WEIR_JSON_LIST) return weir_refuse(error, "rules: a list is needed");
    if (count > RULES_MAX) return weir_refuse(error, "rules: %u are too many, %d at most", (unsigned)count, RULES_MAX);
    rules->all = calloc(count + 1, sizeof *rules->all);
    if (rules->all == NULL) return weir_refuse(error, "rules: no memory for so many");
    for (weir_json_member one = weir_json_first(list); one.there; one = weir_json_following(one)) {
        if (!rule_read(&rules->all[rules->count], rules->count, setup, one.value, error)) return false;
        rules->count++;
    }
    return true;
}

bool rules_by_bytes(const rules *rules) {
    for (uint32_t i = 0; i < rules->count; i++) {
        if (rules->all[i].name_count > 0 || rules->all[i].protocols != 0) return true;
    }
    return false;
}

/* Whether a server name is the pattern, or ends with what follows its `*`. */
static bool is_name(weir_text pattern, weir_text name) {
    if (pattern.length == 0 || pattern.bytes[0] != '*') {
        return name.length == pattern.length && strncasecmp(name.bytes, pattern.bytes, name.length) == 0;
    }
    size_t end = pattern.length - 1;
    return name.length > end && strncasecmp(name.bytes + name.length - end, pattern.bytes + 1, end) == 0;
}

/* Whether a rule is for a connection. */
typedef enum match { YES, NO, LATER } match;

static match matches(const rule *rule, const known *known) {
    if (rule->clients.count > 0 && !prefixes_contain(&rule->clients, known->client)) return NO;
    bool port = rule->port_count == 0;
    for (uint32_t i = 0; i < rule->port_count; i++) port = port || rule->ports[i] == known->port;
    if (!port) return NO;
    bool by_bytes = known->protocol == PROTOCOL_MORE;
    if (rule->protocols != 0) {
        if (by_bytes) return LATER;
        if ((rule->protocols >> known->protocol & 1) == 0) return NO;
    }
    if (rule->name_count == 0) return YES;
    if (known->name.length == 0) return by_bytes && !known->tls ? LATER : NO;
    for (uint32_t i = 0; i < rule->name_count; i++) {
        if (is_name(rule->names[i], known->name)) return YES;
    }
    return NO;
}

decision rules_decide(const rules *rules, const known *known) {
    for (uint32_t i = 0; i < rules->count; i++) {
        const rule *rule = &rules->all[i];
        match match = matches(rule, known);
        if (match == LATER) return (decision){.later = true};
        if (match == YES) return (decision){.allow = rule->allow, .rule = rule, .number = i};
    }
    return (decision){.allow = rules->allow_by_default};
}
