/* Refuses requests for private paths, and marks those that pass. */

#include <stdlib.h>
#include <weir/message.h>

/* Beginnings of paths that are refused. */
static weir_text *private_paths;
static uint32_t private_count;
static weir_counter refused;

bool weir_configure(const weir_setup *setup, weir_json config, weir_error *error) {
    (void)setup;
    bool there = false;
    for (weir_json_member key = weir_json_first(config); key.there; key = weir_json_following(key)) {
        if (!weir_text_is(key.key, "private")) {
            return weir_refuse(error, "unknown key %.*s; allowed: private", (int)key.key.length, key.key.bytes);
        }
        there = weir_json_kind_of(key.value) == WEIR_JSON_LIST;
        private_paths = calloc(weir_json_count(key.value) + 1, sizeof *private_paths);
        for (weir_json_member one = weir_json_first(key.value); one.there; one = weir_json_following(one)) {
            char *path = malloc(1024);
            if (private_paths == NULL || path == NULL) return weir_refuse(error, "private: no memory for so many");
            if (!weir_json_copy(one.value, path, 1024) || path[0] != '/') {
                return weir_refuse(error, "private: a path must begin with / and have less than 1024 bytes");
            }
            private_paths[private_count++] = weir_text_of(path);
        }
    }
    if (!there) return weir_refuse(error, "private: a list of paths is needed");
    refused = weir_counter_named("refused");
    return true;
}

/* Whether servers may read the path as another one: it is as the client wrote it, and to many `/%61`, `//a` and `/./a` are `/a`. */
static bool is_unclear(weir_text target) {
    char before = 0;
    for (size_t at = 0; at < target.length && target.bytes[at] != '?'; at++) {
        char byte = target.bytes[at];
        if (byte == '%' || byte == '\\' || byte == ';' || (before == '/' && (byte == '/' || byte == '.'))) return true;
        before = byte;
    }
    return false;
}

uint32_t weir_wants(void) { return WEIR_REQUEST_HEAD; }

weir_outcome weir_request_head(uint32_t exchange, weir_head *head) {
    weir_text path = weir_head_path(head);
    bool is_private = is_unclear(path);
    for (uint32_t i = 0; i < private_count; i++) is_private = is_private || weir_text_begins(path, private_paths[i]);
    if (is_private) {
        weir_counter_add(refused, 1);
        weir_field kind = {weir_text_of("content-type"), weir_text_of("text/plain; charset=utf-8")};
        weir_refusal why = weir_answer(exchange, 403, &kind, 1, weir_text_of("This is private.\n"));
        return why == WEIR_DONE ? WEIR_ANSWER : WEIR_RESET;
    }
    if (!weir_head_set(head, "x-guard", weir_text_of("passed"))) {
        weir_refusal why = weir_answer(exchange, 431, NULL, 0, weir_text_of("The request's head is too large.\n"));
        return why == WEIR_DONE ? WEIR_ANSWER : WEIR_RESET;
    }
    return WEIR_CONTINUE;
}
