#include "first.h"

#include <string.h>

static const char *const BEGINNINGS[] = {
    "SSH-",     "GET ",   "HEAD ",  "POST ",    "PUT ",         "DELETE ",
    "OPTIONS ", "PATCH ", "TRACE ", "CONNECT ", "PRI * HTTP/2", "PROPFIND ",
};

/* Why there is no ClientHello, or that there is one. */
typedef enum hello { HELLO, SHORT, WRONG } hello;

/* Reads fields one after the other. */
typedef struct reader {
    const uint8_t *at;
    size_t left;
} reader;

static bool take(reader *from, size_t count, reader *taken) {
    if (count > from->left) return false;
    *taken = (reader){from->at, count};
    from->at += count;
    from->left -= count;
    return true;
}

/* A number of so many bytes. */
static bool number(reader *from, size_t bytes, size_t *value) {
    reader taken;
    if (!take(from, bytes, &taken)) return false;
    *value = 0;
    for (size_t i = 0; i < bytes; i++) *value = *value << 8 | taken.at[i];
    return true;
}

/* What follows its length of so many bytes. */
static bool counted(reader *from, size_t bytes, reader *taken) {
    size_t count;
    return number(from, bytes, &count) && take(from, count, taken);
}

/* False if the message is broken. */
static bool server_name(reader hello, weir_text *name) {
    reader skipped, extensions;
    /* Version and random; session, cipher suites, compressions. */
    if (!take(&hello, 2 + 32, &skipped) || !counted(&hello, 1, &skipped)) return false;
    if (!counted(&hello, 2, &skipped) || !counted(&hello, 1, &skipped)) return false;
    if (hello.left == 0) return true;
    if (!counted(&hello, 2, &extensions)) return false;
    while (extensions.left > 0) {
        size_t kind;
        reader data, names;
        if (!number(&extensions, 2, &kind) || !counted(&extensions, 2, &data)) return false;
        if (kind != 0) continue;
        if (!counted(&data, 2, &names)) return false;
        while (names.left > 0) {
            reader one;
            if (!number(&names, 1, &kind) || !counted(&names, 2, &one)) return false;
            if (kind == 0) {
                *name = (weir_text){(const char *)one.at, one.left};
                return true;
            }
        }
    }
    return true;
}

/* The server name of a ClientHello in one record; one in several is not read. */
static hello read_hello(const uint8_t *bytes, size_t length, weir_text *name) {
    /* Record: handshake, a version of 3.x, length; message: client_hello, length. */
    static const struct {
        uint8_t at, least, most;
    } fixed[] = {{0, 22, 22}, {1, 3, 3}, {2, 0, 4}, {5, 1, 1}};
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        if (fixed[i].at >= length) return SHORT;
        if (bytes[fixed[i].at] < fixed[i].least || bytes[fixed[i].at] > fixed[i].most) return WRONG;
    }
    reader record = {bytes + 3, length - 3}, message, body, kind;
    size_t all;
    if (!number(&record, 2, &all)) return SHORT;
    if (all < 4 || all > 1 << 14) return WRONG;
    if (!take(&record, all, &message)) return SHORT;
    if (!take(&message, 1, &kind) || !counted(&message, 3, &body)) return WRONG;
    return server_name(body, name) ? HELLO : WRONG;
}

protocol first_look(const uint8_t *bytes, size_t length, bool last, weir_text *name) {
    *name = (weir_text){NULL, 0};
    last = last || length >= FIRST_MAX;
    bool may_begin = false;
    for (size_t i = 0; i < sizeof BEGINNINGS / sizeof *BEGINNINGS; i++) {
        size_t whole = strlen(BEGINNINGS[i]);
        bool alike = memcmp(bytes, BEGINNINGS[i], length < whole ? length : whole) == 0;
        if (alike && length >= whole) return i == 0 ? PROTOCOL_SSH : PROTOCOL_HTTP;
        may_begin = may_begin || (alike && !last);
    }
    if (may_begin) return PROTOCOL_MORE;
    switch (read_hello(bytes, length, name)) {
    case HELLO: return PROTOCOL_TLS;
    case SHORT: return last ? PROTOCOL_OTHER : PROTOCOL_MORE;
    default: return PROTOCOL_OTHER;
    }
}
