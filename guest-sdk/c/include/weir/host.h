/* What the host offers to every function: log, counters and gauges, time, state (wit/net.wit, interface `host`).
 *
 * Counters and gauges are kept here and handed over at most ten times a second, so that adding costs no call. */
#ifndef WEIR_HOST_H
#define WEIR_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How much a log line matters. */
typedef enum weir_level {
    WEIR_TRACE = 0,
    WEIR_DEBUG = 1,
    WEIR_INFO = 2,
    WEIR_WARN = 3,
    WEIR_ERROR = 4,
} weir_level;

/* Text that is not terminated. */
typedef struct weir_text {
    const char *bytes;
    size_t length;
} weir_text;

/* Whether two texts are the same. */
bool weir_text_is(weir_text text, const char *other);

/* Bytes of a line of the log. */
#define WEIR_LINE_MAX 1024

/* Writes a line to the function's log (`weir function log`), as by printf. It is cut at 1,023 bytes. Bytes of clients may be in it: each that
 * is no UTF-8 becomes a `?`. */
void weir_log(weir_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same of a text, which is cut at WEIR_LINE_MAX bytes. */
void weir_log_text(weir_level level, weir_text text);

/* Why a configuration is refused: filled in by `weir_refuse`, shown to whoever deploys the chain. */
typedef struct weir_error {
    char text[512];
} weir_error;

/* Says why, as by printf, beginning with the key: "blocked: 0 is no port; allowed are 1 to 65535". Always false, so that
 * `return weir_refuse(...)` refuses. It is cut at 511 bytes; each byte that is no UTF-8 becomes a `?`. */
bool weir_refuse(weir_error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Monotonic nanoseconds, by a call; within `weir_process`, `weir_burst_now` is the same for free, and within an event of a message or connection
 * `weir_event_now`. */
uint64_t weir_now(void);

/* The next of a sequence of random numbers, by a call: for hash seeds, sampling and back-off, not for keys. It begins alike in every instance of the
 * function, and is fixed in `weir replay`. */
uint64_t weir_random(void);

/* Asks for one call of `weir_tick` at or soon after this time, in nanoseconds of `weir_now`. A later call replaces an
 * earlier one; 0 cancels. */
void weir_set_timer(uint64_t at);

/* A counter or gauge: a place below 64. */
typedef uint8_t weir_counter;
typedef uint8_t weir_gauge;

/* The counter of this name, 1 to 64 of `a-z0-9_`; the same one if it is asked for again. Ask in `weir_configure`; the name
 * must stay where it is. More than 64 names, or one that is not allowed, trap. */
weir_counter weir_counter_named(const char *name);

/* The gauge of this name; as `weir_counter_named`. */
weir_gauge weir_gauge_named(const char *name);

/* What has not been handed over; for the inline functions below only. */
extern struct weir_values {
    union {
        uint64_t count;
        double level;
    } value[64];
    /* A bit for each value that has to be handed over. */
    uint64_t dirty;
} weir_values;

/* Adds to a counter, shown in `/metrics`. A few instructions, no call. */
static inline void weir_counter_add(weir_counter counter, uint64_t delta) {
    weir_values.value[counter & 63].count += delta;
    weir_values.dirty |= (uint64_t)1 << (counter & 63);
}

/* Sets a gauge. A few instructions, no call. */
static inline void weir_gauge_set(weir_gauge gauge, double value) {
    weir_values.value[gauge & 63].level = value;
    weir_values.dirty |= (uint64_t)1 << (gauge & 63);
}

/* What a function is told when it is configured; valid until `weir_configure` returns, but for the state region. */
typedef struct weir_setup {
    /* Bytes of a buffer's room, a power of two. */
    uint32_t room_bytes;
    /* A random number for hash seeds. */
    uint64_t seed;
    /* The state region (`state` in function.toml), or NULL; it outlives the instance and stays where it is. */
    uint8_t *state;
    /* Its bytes. */
    uint32_t state_bytes;
    /* True when it holds what an earlier instance left there; then it can be read, but not written, until
     * `weir_configure` returns. */
    bool state_kept;
    /* Names of the ports (message functions: upstreams); a port's number is its place. */
    const weir_text *ports;
    uint32_t port_count;
    /* Names of the chain's functions, in order. */
    const weir_text *functions;
    uint32_t function_count;
    /* This function's place among them. */
    uint32_t position;
} weir_setup;

/* Number of the port of this name, or -1. */
int32_t weir_port_named(const weir_setup *setup, weir_text name);

/* Why the host refused what was asked for. */
typedef enum weir_refusal {
    /* It was not refused. */
    WEIR_DONE = -1,
    /* The function does not own this buffer. */
    WEIR_NOT_OWNED = 0,
    /* The bytes do not lie within one buffer. */
    WEIR_OUT_OF_BOUNDS = 1,
    /* A packet cannot be sent with this verdict. */
    WEIR_BAD_VERDICT = 2,
    /* No buffer is free, or the function has its share of them. */
    WEIR_EXHAUSTED = 3,
} weir_refusal;

#ifdef __cplusplus
}
#endif
#endif
