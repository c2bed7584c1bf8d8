/* What a connection's first bytes say: telling protocols apart, and the server name in a TLS ClientHello (RFC 8446, section 4.1.2; RFC 6066,
 * section 3). Knows nothing of what is decided. */
#ifndef FIRST_H
#define FIRST_H

#include <weir/host.h>

/* Maximum number of bytes that are looked at: a ClientHello of one record's size. */
#define FIRST_MAX (16 * 1024 + 5)

/* Protocols that begin in a way of their own, and all others. */
typedef enum protocol {
    PROTOCOL_TLS,
    PROTOCOL_SSH,
    PROTOCOL_HTTP,
    PROTOCOL_OTHER,
    /* It may still be one or the other. */
    PROTOCOL_MORE,
} protocol;

/* Looks at a connection's first bytes; `last`: no more will come. Of TLS `name` becomes the server name, empty if there is none. */
protocol first_look(const uint8_t *bytes, size_t length, bool last, weir_text *name);

#endif
