/* Reading the configuration: the table [function.config] of the chain, which the host hands over as JSON.
 *
 *     weir_json_member member = weir_json_first(config);
 *     for (; member.there; member = weir_json_following(member)) {
 *         if (weir_text_is(member.key, "port")) ... weir_json_integer(member.value, 1, 65535, &port)
 *     }
 *
 * Elements of a list are walked in the same way; their keys are empty. */
#ifndef WEIR_JSON_H
#define WEIR_JSON_H

#include <weir/host.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Kinds of values. */
typedef enum weir_json_kind {
    WEIR_JSON_NONE = 0,
    WEIR_JSON_OBJECT,
    WEIR_JSON_LIST,
    WEIR_JSON_STRING,
    WEIR_JSON_NUMBER,
    WEIR_JSON_TRUE,
    WEIR_JSON_FALSE,
    WEIR_JSON_NULL,
} weir_json_kind;

/* A value within the configuration; valid until `weir_configure` returns. */
typedef struct weir_json {
    const struct weir_json_document *document;
    uint32_t token;
} weir_json;

/* A member of an object, or an element of a list. */
typedef struct weir_json_member {
    /* False behind the last one. */
    bool there;
    /* As it is written, without what escapes mean; empty in lists. */
    weir_text key;
    weir_json value;
    /* Members that follow. */
    uint32_t rest;
} weir_json_member;

/* What kind of value this is. */
weir_json_kind weir_json_kind_of(weir_json value);

/* Members or elements; 0 of other values. */
uint32_t weir_json_count(weir_json value);

/* The first member or element; none (`there` is false) of other values and empty ones. */
weir_json_member weir_json_first(weir_json value);

/* The one after this. */
weir_json_member weir_json_following(weir_json_member member);

/* Reads a whole number from `least` to `most`. False if it is something else. */
bool weir_json_integer(weir_json value, int64_t least, int64_t most, int64_t *number);

/* Reads a number, which may have a fraction. False if it is something else. */
bool weir_json_number(weir_json value, double *number);

/* A string as it is written, without its quotes: escapes (\n, \u0041) are not replaced. False if it is something else. */
bool weir_json_string(weir_json value, weir_text *text);

/* Copies a string with its escapes replaced, as UTF-8, terminated. False if it is something else, has `room` bytes or more,
 * or a character 0. */
bool weir_json_copy(weir_json value, char *into, size_t room);

#ifdef __cplusplus
}
#endif
#endif
