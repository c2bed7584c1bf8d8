/* Functions for requests and responses (L7) and for connections (L4): heads and bodies lie in the window, nothing is copied
 * (wit/message.md).
 *
 * A function defines `weir_configure`, `weir_wants`, and the events that it wants; the others are here, and let all pass. Compile
 * src/message.c or src/connection.c and the bindings of that world with it, as the `build` of a project does. */
#ifndef WEIR_MESSAGE_H
#define WEIR_MESSAGE_H

#include <weir/host.h>
#include <weir/json.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Events, for `weir_wants`. */
enum {
    WEIR_REQUEST_HEAD = 1,
    WEIR_REQUEST_BODY = 2,
    WEIR_RESPONSE_HEAD = 4,
    WEIR_RESPONSE_BODY = 8,
    WEIR_ENDED = 16,
    WEIR_OPENED = 32,
    WEIR_DATA = 64,
};

/* What an event answers. That a head or a piece was changed need not be said: it is noted when it is. */
typedef enum weir_outcome {
    /* The next function has it. */
    WEIR_CONTINUE = 0,
    /* The function has answered the exchange itself, with `weir_answer`. */
    WEIR_ANSWER = 1,
    /* The stream or connection is ended without an answer. */
    WEIR_RESET = 2,
    /* Nothing of this exchange in this direction moves until `weir_resume`. */
    WEIR_WAIT = 3,
    /* Of a body's piece: it stays where it is, and the function wants to see the next one. */
    WEIR_HOLD_PIECE = 4,
    /* As WEIR_CONTINUE; this function wants no more events of this exchange but `weir_ended`. */
    WEIR_FINISHED = 5,
} weir_outcome;

/* A request's or response's head, or a connection; valid until the event returns. An event that returns WEIR_WAIT may keep a copy of it: until the
 * exchange goes on, the head stays where it is, and what `weir_resume` changes of it counts. A piece that waits cannot be changed there. */
typedef struct weir_head {
    uint8_t *start;
    bool changed;
} weir_head;

/* Strings of a head; empty where there is none. */
weir_text weir_head_method(const weir_head *head);
/* The request target: path and query, as the client wrote them. Many servers take `/%61`, `//a` and `/./a` for `/a`. */
weir_text weir_head_path(const weir_head *head);
/* Host and port. */
weir_text weir_head_authority(const weir_head *head);
/* What TLS's SNI said. */
weir_text weir_head_server_name(const weir_head *head);
/* A response's status; 0 in requests and connections. */
uint16_t weir_head_status(const weir_head *head);
/* 10, 11, 20: HTTP/1.0, 1.1, 2; 0 for connections. */
uint8_t weir_head_version(const weir_head *head);
/* 1: TLS; 2: an upgrade is asked for; 4: there is no body; 8: made by a function, or by the gateway. */
uint8_t weir_head_flags(const weir_head *head);
/* The client's address, 16 bytes; IPv4 as ::ffff:a.b.c.d. */
const uint8_t *weir_head_client(const weir_head *head);
/* The client's port. */
uint16_t weir_head_client_port(const weir_head *head);
/* The port that the client connected to. */
uint16_t weir_head_local_port(const weir_head *head);
/* The upstream that sent a response, a place in `setup->ports`, or -1 if that is not known. */
int32_t weir_head_upstream(const weir_head *head);
/* Bytes of the body, or -1 if they are not known. */
int64_t weir_head_body(const weir_head *head);

/* The first field of this name. False if there is none. Names are compared without regard to case, and written in lower case. */
bool weir_head_field(const weir_head *head, const char *name, weir_text *value);
/* The field at a place of the table; false behind the last one. Deleted ones have an empty name. */
bool weir_head_field_at(const weir_head *head, uint32_t place, weir_text *name, weir_text *value);
/* Adds a field. False if it does not fit, or has no name; then nothing is changed. So for the two that follow. */
bool weir_head_add(weir_head *head, const char *name, weir_text value);
/* Makes this the only field of its name. */
bool weir_head_set(weir_head *head, const char *name, weir_text value);
/* Sets the request target. */
bool weir_head_set_path(weir_head *head, weir_text path);
/* Deletes all fields of this name: whether there were any. */
bool weir_head_remove(weir_head *head, const char *name);
/* Sets a response's status, 200 to 599. */
void weir_head_set_status(weir_head *head, uint16_t status);

/* A piece of a body, or bytes of a connection; valid until the event returns. Pieces have at least 512 bytes to spare behind them. */
typedef struct weir_piece {
    uint8_t *data;
    uint32_t length;
    /* There is none after it. */
    bool last;
    /* Room from `data` on. */
    uint32_t room;
    bool changed;
    bool replaced;
} weir_piece;

/* Gives a piece another length, when its bytes have been changed. False beyond its room. */
bool weir_piece_resize(weir_piece *piece, uint32_t length);
/* Says that bytes were changed without the length. */
static inline void weir_piece_changed(weir_piece *piece) { piece->changed = true; }
/* Leaves a piece out. */
static inline void weir_piece_drop(weir_piece *piece) { piece->replaced = true; }

/* Text that ends with a 0. */
weir_text weir_text_of(const char *text);
/* Whether a text begins with another. */
bool weir_text_begins(weir_text text, weir_text with);

/* What a function defines. `weir_configure` as for packets; ports are the names of upstreams. */
bool weir_configure(const weir_setup *setup, weir_json config, weir_error *error);
/* Events that it wants; asked after `weir_configure`. It is not called for others. */
uint32_t weir_wants(void);
/* Functions for messages: a request's head has come. */
weir_outcome weir_request_head(uint32_t exchange, weir_head *head);
/* Functions for messages: a piece of the request's body has come. */
weir_outcome weir_request_body(uint32_t exchange, weir_piece *piece);
/* Functions for messages: a response's head has come, or the host made one. */
weir_outcome weir_response_head(uint32_t exchange, weir_head *head);
/* Functions for messages: a piece of the response's body has come. */
weir_outcome weir_response_body(uint32_t exchange, weir_piece *piece);
/* Functions for connections: a client has connected. `head` has addresses, and what TLS said; no method, no fields. */
weir_outcome weir_opened(uint32_t exchange, weir_head *head);
/* Functions for connections: bytes have come, from the client or from the upstream. */
weir_outcome weir_data(uint32_t exchange, bool from_upstream, weir_piece *piece);

/* What was asked for under this token is there (wit/message.md, "Statuses of resume"); `head` is NULL without a response's head. What
 * is answered counts while the exchange waits. */
weir_outcome weir_resume(uint32_t exchange, uint32_t token, uint32_t status, weir_head *head, const uint8_t *body, uint32_t length);
/* The exchange is over; `how` and `upstream` as in wit/message.md. */
void weir_ended(uint32_t exchange, uint32_t how, uint32_t upstream, uint64_t nanoseconds);
/* A timer is due. */
void weir_tick(uint64_t now);

/* The time of the event that is being handled: that of `weir_now`, without a call. */
uint64_t weir_event_now(void);
/* The same moment in nanoseconds since 1970, or 0 if the host does not know. */
uint64_t weir_event_wall(void);

/* Sends the exchange to this upstream, a place in `setup->ports`. */
weir_refusal weir_route(uint32_t exchange, uint32_t upstream);
/* Whether an upstream, a place in `setup->ports`, may have requests. */
bool weir_healthy(uint32_t upstream);
/* Requests and connections that an upstream has. */
uint32_t weir_active(uint32_t upstream);

/* A field of an answer. */
typedef struct weir_field {
    weir_text name;
    weir_text value;
} weir_field;

/* Answers the exchange: return WEIR_ANSWER if it gives WEIR_DONE. Its bytes are copied. Fields must be UTF-8, which those of a client need
 * not be: WEIR_OUT_OF_BOUNDS if one is not. The function's log says why an answer is refused. */
weir_refusal weir_answer(uint32_t exchange, uint16_t status, const weir_field *fields, uint32_t count, weir_text body);

/* Asks the tenant's key-value store for a value, and waits; `weir_resume` brings it under the token. */
weir_refusal weir_store_get(uint32_t exchange, weir_text key, uint32_t *token);
/* Adds to a number there (8 bytes, little-endian; 0 if there is none, and then it lives for so many milliseconds), and waits; `weir_resume`
 * brings the sum under the token. */
weir_refusal weir_store_add(uint32_t exchange, weir_text key, int64_t delta, uint64_t milliseconds, uint32_t *token);
/* Writes a value that lives for so long (0: until memory is short). */
weir_refusal weir_store_set(uint32_t exchange, weir_text key, weir_text value, uint64_t milliseconds);
/* Asks to be resumed after so long. */
weir_refusal weir_sleep(uint32_t exchange, uint64_t nanoseconds, uint32_t *token);

#ifdef __cplusplus
}
#endif
#endif
