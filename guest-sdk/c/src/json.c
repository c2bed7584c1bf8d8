/* Reading JSON, over the tokens of jsmn. */

#include "document.h"

#include <stdlib.h>
#include <string.h>

#define JSMN_STATIC
#define JSMN_STRICT
#include "../vendor/jsmn.h"

struct weir_json_document {
    const char *text;
    uint32_t count;
    jsmntok_t tokens[];
};

bool weir_document_parse(const char *text, size_t length, weir_json *root) {
    jsmn_parser parser;
    jsmn_init(&parser);
    int count = jsmn_parse(&parser, text, length, NULL, 0);
    if (count < 1) return false;
    struct weir_json_document *document = malloc(sizeof *document + (size_t)count * sizeof(jsmntok_t));
    if (document == NULL) return false;
    document->text = text;
    document->count = (uint32_t)count;
    jsmn_init(&parser);
    jsmn_parse(&parser, text, length, document->tokens, (unsigned)count);
    root->document = document;
    root->token = 0;
    return true;
}

void weir_document_free(weir_json root) { free((void *)root.document); }

static const jsmntok_t *token(weir_json value) {
    return value.document != NULL && value.token < value.document->count ? &value.document->tokens[value.token] : NULL;
}

static weir_text written(weir_json value) {
    const jsmntok_t *of = token(value);
    weir_text text = {of == NULL ? "" : value.document->text + of->start, of == NULL ? 0 : (size_t)(of->end - of->start)};
    return text;
}

weir_json_kind weir_json_kind_of(weir_json value) {
    const jsmntok_t *of = token(value);
    if (of == NULL) return WEIR_JSON_NONE;
    switch (of->type) {
    case JSMN_OBJECT:
        return WEIR_JSON_OBJECT;
    case JSMN_ARRAY:
        return WEIR_JSON_LIST;
    case JSMN_STRING:
        return WEIR_JSON_STRING;
    default:
        switch (value.document->text[of->start]) {
        case 't':
            return WEIR_JSON_TRUE;
        case 'f':
            return WEIR_JSON_FALSE;
        case 'n':
            return WEIR_JSON_NULL;
        default:
            return WEIR_JSON_NUMBER;
        }
    }
}

uint32_t weir_json_count(weir_json value) {
    const jsmntok_t *of = token(value);
    bool many = of != NULL && (of->type == JSMN_OBJECT || of->type == JSMN_ARRAY);
    return many ? (uint32_t)of->size : 0;
}

/* The token behind a value and all that it contains: the first one that begins behind its end. */
static uint32_t behind(weir_json value) {
    int end = token(value)->end;
    uint32_t at = value.token + 1;
    while (at < value.document->count && value.document->tokens[at].start < end) at++;
    return at;
}

/* The member whose key, or the element that, is this token. */
static weir_json_member member_at(weir_json at, uint32_t rest) {
    weir_json_member member = {true, {"", 0}, at, rest};
    /* A key has its value as the one thing that it contains. */
    const jsmntok_t *of = token(at);
    if (of->type == JSMN_STRING && of->size == 1) {
        member.key = written(at);
        member.value.token++;
    }
    return member;
}

weir_json_member weir_json_first(weir_json value) {
    weir_json_member none = {false, {"", 0}, {NULL, 0}, 0};
    uint32_t count = weir_json_count(value);
    if (count == 0) return none;
    weir_json first = {value.document, value.token + 1};
    return member_at(first, count - 1);
}

weir_json_member weir_json_following(weir_json_member member) {
    weir_json_member none = {false, {"", 0}, {NULL, 0}, 0};
    if (!member.there || member.rest == 0) return none;
    weir_json next = {member.value.document, behind(member.value)};
    return member_at(next, member.rest - 1);
}

bool weir_json_integer(weir_json value, int64_t least, int64_t most, int64_t *number) {
    if (weir_json_kind_of(value) != WEIR_JSON_NUMBER) return false;
    weir_text text = written(value);
    bool negative = text.length > 0 && text.bytes[0] == '-';
    size_t at = negative;
    int64_t read = 0;
    if (at == text.length) return false;
    for (; at < text.length; at++) {
        char digit = text.bytes[at];
        if (digit < '0' || digit > '9') return false;
        if (__builtin_mul_overflow(read, 10, &read)) return false;
        if (__builtin_sub_overflow(read, digit - '0', &read)) return false;
    }
    /* Kept negative so far, because there is one negative number more. */
    if (!negative && __builtin_sub_overflow((int64_t)0, read, &read)) return false;
    if (read < least || read > most) return false;
    *number = read;
    return true;
}

bool weir_json_number(weir_json value, double *number) {
    if (weir_json_kind_of(value) != WEIR_JSON_NUMBER) return false;
    weir_text text = written(value);
    char digits[64];
    if (text.length >= sizeof digits) return false;
    memcpy(digits, text.bytes, text.length);
    digits[text.length] = 0;
    /* No hexadecimal ones, and no names. */
    if (strspn(digits, "0123456789+-.eE") != text.length) return false;
    char *end;
    double read = strtod(digits, &end);
    if (*end != 0) return false;
    *number = read;
    return true;
}

bool weir_json_string(weir_json value, weir_text *text) {
    if (weir_json_kind_of(value) != WEIR_JSON_STRING) return false;
    *text = written(value);
    return true;
}

/* The number of four hexadecimal digits; jsmn has seen that they are some. */
static uint32_t hexadecimal(const char *digits) {
    uint32_t number = 0;
    for (int at = 0; at < 4; at++) {
        char digit = digits[at] | 0x20;
        number = number << 4 | (uint32_t)(digit >= 'a' ? digit - 'a' + 10 : digit & 15);
    }
    return number;
}

/* Writes a code point as UTF-8; bytes written. */
static size_t utf8(uint32_t point, char *into) {
    if (point < 0x80) {
        into[0] = (char)point;
        return 1;
    }
    size_t more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = {0, 0xc0, 0xe0, 0xf0};
    into[0] = (char)(lead[more] | point >> (6 * more));
    for (size_t at = 1; at <= more; at++) into[at] = (char)(0x80 | ((point >> (6 * (more - at))) & 0x3f));
    return more + 1;
}

bool weir_json_copy(weir_json value, char *into, size_t room) {
    weir_text text;
    if (!weir_json_string(value, &text)) return false;
    size_t length = 0;
    for (size_t at = 0; at < text.length;) {
        char bytes[4];
        size_t count = 1;
        bytes[0] = text.bytes[at++];
        if (bytes[0] == '\\' && at < text.length) {
            static const char escapes[] = "b\bf\fn\nr\rt\t";
            char escape = text.bytes[at++];
            const char *found = strchr(escapes, escape);
            bytes[0] = escape;
            if (escape == 'u' && at + 4 <= text.length) {
                uint32_t point = hexadecimal(text.bytes + at);
                at += 4;
                if (point >= 0xd800 && point < 0xdc00 && at + 6 <= text.length && text.bytes[at] == '\\') {
                    point = 0x10000 + ((point - 0xd800) << 10) + (hexadecimal(text.bytes + at + 2) - 0xdc00);
                    at += 6;
                }
                if (point == 0) return false;
                count = utf8(point, bytes);
            } else if (found != NULL) {
                bytes[0] = found[1];
            }
        }
        if (length + count >= room) return false;
        memcpy(into + length, bytes, count);
        length += count;
    }
    if (room == 0) return false;
    into[length] = 0;
    return true;
}
