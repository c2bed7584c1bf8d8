/* Text that is handed to the host, which takes UTF-8 only: another string is a trap. For this SDK's own files. */
#ifndef WEIR_UTF8_H
#define WEIR_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character that some text (of at least one byte) begins with, or 0 if there is none (Unicode 16, table 3-7). */
static inline size_t weir_utf8_character(const char *text, size_t left) {
    const uint8_t *at = (const uint8_t *)text;
    uint8_t lead = at[0];
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    size_t bytes = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (bytes > left) return 0;
    for (size_t i = 1; i < bytes; i++) {
        if ((at[i] & 0xc0) != 0x80) return 0;
    }
    /* Written longer than it is, a surrogate, or beyond the last one. */
    uint8_t second = at[1];
    bool wrong = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) || (lead == 0xf0 && second < 0x90) ||
                 (lead == 0xf4 && second > 0x8f);
    return wrong ? 0 : bytes;
}

/* Whether all of it is UTF-8. */
static inline bool weir_utf8_is(const char *text, size_t length) {
    for (size_t at = 0, bytes; at < length; at += bytes) {
        bytes = weir_utf8_character(text + at, length - at);
        if (bytes == 0) return false;
    }
    return true;
}

/* Makes a `?` of each byte that is not. */
static inline void weir_utf8_mend(char *text, size_t length) {
    for (size_t at = 0; at < length;) {
        size_t bytes = weir_utf8_character(text + at, length - at);
        if (bytes == 0) text[at] = '?';
        at += bytes == 0 ? 1 : bytes;
    }
}

#endif
