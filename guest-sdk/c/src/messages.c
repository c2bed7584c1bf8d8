/* Heads and pieces in the window, and what functions ask of interface `exchange`. */

#include "messages.h"
#include "utf8.h"

#include <string.h>

/* Places in a head (wit/message.md). */
enum {
    END = 0,
    FIELDS = 2,
    FIELDS_ROOM = 4,
    STATUS = 6,
    VERSION = 8,
    FLAGS = 9,
    ROOM = 10,
    METHOD = 12,
    PATH = 16,
    AUTHORITY = 20,
    SERVER_NAME = 24,
    UPSTREAM = 28,
    CLIENT = 32,
    CLIENT_PORT = 64,
    LOCAL_PORT = 66,
    BODY = 68,
    TABLE = 72,
};

enum { CHANGED = 256, REPLACED = 512 };

/* Of the window (wit/window.md). */
enum { CLOCK = 0x3000, WALL = 0x3008 };

/* Whether a head was changed since `weir_resume` was called: none that waits is handed over there, so it is that one. */
static bool head_changed;

static void touch(weir_head *head) { head->changed = head_changed = true; }

static uint16_t get(const weir_head *head, uint32_t at) {
    uint16_t number;
    memcpy(&number, head->start + at, 2);
    return number;
}

static void put(weir_head *head, uint32_t at, uint32_t number) {
    uint16_t word = (uint16_t)number;
    memcpy(head->start + at, &word, 2);
}

static weir_text string(const weir_head *head, uint32_t at) {
    weir_text text = {(const char *)head->start + get(head, at), get(head, at + 2)};
    return text;
}

/* Appends a string; its place is 0 if it does not fit. */
static uint32_t append(weir_head *head, weir_text text) {
    uint32_t end = get(head, END);
    if (text.length > get(head, ROOM) + 1u - end || end + text.length > 0xffff) return 0;
    memcpy(head->start + end, text.bytes, text.length);
    put(head, END, end + text.length);
    return end;
}

static uint8_t lower(char letter) { return (uint8_t)(letter >= 'A' && letter <= 'Z' ? letter + ('a' - 'A') : letter); }

/* Whether a name of a head, which is lower case, is this one. */
static bool is_name(weir_text known, const char *name) {
    for (size_t at = 0; at < known.length; at++) {
        if (name[at] == 0 || (uint8_t)known.bytes[at] != lower(name[at])) return false;
    }
    return name[known.length] == 0;
}

weir_text weir_head_method(const weir_head *head) { return string(head, METHOD); }
weir_text weir_head_path(const weir_head *head) { return string(head, PATH); }
weir_text weir_head_authority(const weir_head *head) { return string(head, AUTHORITY); }
weir_text weir_head_server_name(const weir_head *head) { return string(head, SERVER_NAME); }
uint16_t weir_head_status(const weir_head *head) { return get(head, STATUS); }
uint8_t weir_head_version(const weir_head *head) { return head->start[VERSION]; }
uint8_t weir_head_flags(const weir_head *head) { return head->start[FLAGS]; }
const uint8_t *weir_head_client(const weir_head *head) { return head->start + CLIENT; }
uint16_t weir_head_client_port(const weir_head *head) { return get(head, CLIENT_PORT); }
uint16_t weir_head_local_port(const weir_head *head) { return get(head, LOCAL_PORT); }

int64_t weir_head_body(const weir_head *head) {
    uint32_t bytes;
    memcpy(&bytes, head->start + BODY, 4);
    return bytes == 0xffffffff ? -1 : (int64_t)bytes;
}

int32_t weir_head_upstream(const weir_head *head) {
    uint32_t one_more;
    memcpy(&one_more, head->start + UPSTREAM, 4);
    return (int32_t)one_more - 1;
}

bool weir_head_field_at(const weir_head *head, uint32_t place, weir_text *name, weir_text *value) {
    if (place >= get(head, FIELDS)) return false;
    *name = string(head, TABLE + 8 * place);
    *value = string(head, TABLE + 8 * place + 4);
    return true;
}

bool weir_head_field(const weir_head *head, const char *name, weir_text *value) {
    weir_text known;
    for (uint32_t place = 0; weir_head_field_at(head, place, &known, value); place++) {
        if (is_name(known, name)) return true;
    }
    return false;
}

bool weir_head_add(weir_head *head, const char *name, weir_text value) {
    uint32_t place = get(head, FIELDS), end = get(head, END);
    weir_text its_name = weir_text_of(name);
    /* One without a name is a deleted one. */
    if (its_name.length == 0 || place >= get(head, FIELDS_ROOM)) return false;
    uint32_t name_at = append(head, its_name);
    for (uint32_t at = 0; name_at != 0 && at < its_name.length; at++) head->start[name_at + at] = lower(name[at]);
    uint32_t value_at = name_at == 0 ? 0 : append(head, value);
    if (value_at == 0) {
        put(head, END, end);
        return false;
    }
    uint32_t entry = TABLE + 8 * place;
    put(head, entry, name_at);
    put(head, entry + 2, its_name.length);
    put(head, entry + 4, value_at);
    put(head, entry + 6, value.length);
    put(head, FIELDS, place + 1);
    touch(head);
    return true;
}

bool weir_head_remove(weir_head *head, const char *name) {
    bool removed = false;
    weir_text known, value;
    for (uint32_t place = 0; weir_head_field_at(head, place, &known, &value); place++) {
        if (known.length == 0 || !is_name(known, name)) continue;
        put(head, TABLE + 8 * place + 2, 0);
        removed = true;
    }
    if (removed) touch(head);
    return removed;
}

bool weir_head_set(weir_head *head, const char *name, weir_text value) {
    weir_text known, before;
    for (uint32_t place = 0; weir_head_field_at(head, place, &known, &before); place++) {
        if (known.length == 0 || !is_name(known, name)) continue;
        uint32_t at = append(head, value);
        if (at == 0) return false;
        weir_head_remove(head, name);
        uint32_t entry = TABLE + 8 * place;
        put(head, entry + 2, known.length);
        put(head, entry + 4, at);
        put(head, entry + 6, value.length);
        return true;
    }
    return weir_head_add(head, name, value);
}

bool weir_head_set_path(weir_head *head, weir_text path) {
    uint32_t at = append(head, path);
    if (at == 0) return false;
    put(head, PATH, at);
    put(head, PATH + 2, path.length);
    touch(head);
    return true;
}

void weir_head_set_status(weir_head *head, uint16_t status) {
    put(head, STATUS, status);
    touch(head);
}

bool weir_piece_resize(weir_piece *piece, uint32_t length) {
    if (length > piece->room) return false;
    piece->length = length;
    return piece->changed = true;
}

weir_text weir_text_of(const char *text) {
    weir_text of = {text, strlen(text)};
    return of;
}

bool weir_text_begins(weir_text text, weir_text with) {
    return text.length >= with.length && memcmp(text.bytes, with.bytes, with.length) == 0;
}

weir_head weir_head_at(uint32_t offset) {
    weir_head head = {weir_window + offset, false};
    return head;
}

weir_piece weir_piece_at(uint32_t offset, uint32_t length, bool last) {
    uint32_t room = weir_room_bytes - (offset & (weir_room_bytes - 1));
    weir_piece piece = {weir_window + offset, length, last, room, false, false};
    return piece;
}

uint64_t weir_event_now(void) {
    uint64_t now;
    memcpy(&now, weir_window + CLOCK, 8);
    return now;
}

uint64_t weir_event_wall(void) {
    uint64_t wall;
    memcpy(&wall, weir_window + WALL, 8);
    return wall;
}

void weir_after_event(void) { weir_after_burst(weir_event_now()); }

static uint64_t with_change(weir_outcome outcome, bool changed) {
    bool passes = outcome == WEIR_CONTINUE || outcome == WEIR_FINISHED || outcome == WEIR_WAIT;
    return (uint64_t)outcome | (changed && passes ? CHANGED : 0);
}

uint64_t weir_of_head(weir_outcome outcome, const weir_head *head) {
    weir_after_event();
    return with_change(outcome, head->changed);
}

uint64_t weir_of_piece(weir_outcome outcome, const weir_piece *piece) {
    weir_after_event();
    uint64_t flags = 0;
    if (outcome == WEIR_ANSWER || outcome == WEIR_RESET) return (uint64_t)outcome;
    if (piece->replaced) {
        flags = REPLACED;
    } else if (piece->changed) {
        flags = CHANGED | (uint64_t)piece->length << 32;
    }
    return (uint64_t)outcome | flags;
}

uint64_t weir_resumed(uint32_t exchange, uint32_t token, uint32_t status, uint32_t at, uint32_t body, uint32_t length) {
    weir_head head = weir_head_at(at);
    head_changed = false;
    weir_outcome outcome = weir_resume(exchange, token, status, at == 0 ? NULL : &head, weir_window + body, length);
    weir_after_event();
    return with_change(outcome, head_changed);
}

/* What a function does not define lets all pass. */
#define OTHERWISE __attribute__((weak))
OTHERWISE weir_outcome weir_request_head(uint32_t exchange, weir_head *head) { return (void)exchange, (void)head, WEIR_CONTINUE; }
OTHERWISE weir_outcome weir_request_body(uint32_t exchange, weir_piece *piece) { return (void)exchange, (void)piece, WEIR_CONTINUE; }
OTHERWISE weir_outcome weir_response_head(uint32_t exchange, weir_head *head) { return (void)exchange, (void)head, WEIR_CONTINUE; }
OTHERWISE weir_outcome weir_response_body(uint32_t exchange, weir_piece *piece) { return (void)exchange, (void)piece, WEIR_CONTINUE; }
OTHERWISE weir_outcome weir_opened(uint32_t exchange, weir_head *head) { return (void)exchange, (void)head, WEIR_CONTINUE; }
OTHERWISE weir_outcome weir_data(uint32_t exchange, bool from_upstream, weir_piece *piece) {
    return (void)exchange, (void)from_upstream, (void)piece, WEIR_CONTINUE;
}
OTHERWISE weir_outcome weir_resume(uint32_t exchange, uint32_t token, uint32_t status, weir_head *head, const uint8_t *body, uint32_t length) {
    return (void)exchange, (void)token, (void)status, (void)head, (void)body, (void)length, WEIR_CONTINUE;
}
OTHERWISE void weir_ended(uint32_t exchange, uint32_t how, uint32_t upstream, uint64_t nanoseconds) {
    (void)exchange, (void)how, (void)upstream, (void)nanoseconds;
}
OTHERWISE void weir_tick(uint64_t now) { (void)now; }

#define WEIR_EXCHANGE(name) __attribute__((import_module("weir:net/exchange@0.1.0"), import_name(name)))
WEIR_EXCHANGE("route") extern void import_route(uint32_t exchange, uint32_t upstream, uint8_t answer[2]);
WEIR_EXCHANGE("healthy") extern uint32_t import_healthy(uint32_t upstream);
WEIR_EXCHANGE("active") extern uint32_t import_active(uint32_t upstream);
WEIR_EXCHANGE("answer-copy")
extern void import_answer_copy(uint32_t exchange, uint32_t status, const weir_field *fields, uint32_t count, const char *body, uint32_t length,
                               uint8_t answer[2]);
/* Write a result: a byte that says whether it was refused, and from byte 4 the token or a byte that says why. */
WEIR_EXCHANGE("store-get") extern void import_store_get(uint32_t exchange, const char *key, uint32_t length, uint32_t answer[2]);
WEIR_EXCHANGE("store-set")
extern void import_store_set(uint32_t exchange, const char *key, uint32_t length, const char *value, uint32_t bytes, uint64_t milliseconds,
                             uint8_t answer[2]);
WEIR_EXCHANGE("store-add")
extern void import_store_add(uint32_t exchange, const char *key, uint32_t length, int64_t delta, uint64_t milliseconds, uint32_t answer[2]);
WEIR_EXCHANGE("sleep") extern void import_sleep(uint32_t exchange, uint64_t nanoseconds, uint32_t answer[2]);

static weir_refusal done(const uint8_t answer[2]) { return answer[0] == 0 ? WEIR_DONE : (weir_refusal)answer[1]; }

static weir_refusal asked(const uint32_t answer[2], uint32_t *token) {
    if ((answer[0] & 0xff) != 0) return (weir_refusal)(answer[1] & 0xff);
    *token = answer[1];
    return WEIR_DONE;
}

weir_refusal weir_route(uint32_t exchange, uint32_t upstream) {
    uint8_t answer[2];
    import_route(exchange, upstream, answer);
    return done(answer);
}

bool weir_healthy(uint32_t upstream) { return import_healthy(upstream) != 0; }

uint32_t weir_active(uint32_t upstream) { return import_active(upstream); }

weir_refusal weir_answer(uint32_t exchange, uint16_t status, const weir_field *fields, uint32_t count, weir_text body) {
    for (uint32_t at = 0; at < count; at++) {
        const weir_field *field = &fields[at];
        if (!weir_utf8_is(field->name.bytes, field->name.length) || !weir_utf8_is(field->value.bytes, field->value.length)) {
            static const char why[] = "an answer of it is refused: a field is no UTF-8";
            weir_log_text(WEIR_WARN, (weir_text){why, sizeof why - 1});
            return WEIR_OUT_OF_BOUNDS;
        }
    }
    uint8_t answer[2];
    import_answer_copy(exchange, status, fields, count, body.bytes, body.length, answer);
    return done(answer);
}

weir_refusal weir_store_get(uint32_t exchange, weir_text key, uint32_t *token) {
    uint32_t answer[2];
    import_store_get(exchange, key.bytes, key.length, answer);
    return asked(answer, token);
}

weir_refusal weir_store_add(uint32_t exchange, weir_text key, int64_t delta, uint64_t milliseconds, uint32_t *token) {
    uint32_t answer[2];
    import_store_add(exchange, key.bytes, key.length, delta, milliseconds, answer);
    return asked(answer, token);
}

weir_refusal weir_store_set(uint32_t exchange, weir_text key, weir_text value, uint64_t milliseconds) {
    uint8_t answer[2];
    import_store_set(exchange, key.bytes, key.length, value.bytes, value.length, milliseconds, answer);
    return done(answer);
}

weir_refusal weir_sleep(uint32_t exchange, uint64_t nanoseconds, uint32_t *token) {
    uint32_t answer[2];
    import_sleep(exchange, nanoseconds, answer);
    return asked(answer, token);
}
