/* Log, time, counters and gauges. */

#include "imports.h"
#include "utf8.h"
#include "values.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Counters and gauges are handed over when they are so old, in nanoseconds. */
#define FLUSH_EVERY 100000000ull
#define NAMES_MAX 64

struct weir_values weir_values;

static struct {
    const char *names[NAMES_MAX];
    bool gauge[NAMES_MAX];
    uint8_t count;
    /* When values have to be handed over; 0 when none has to. */
    uint64_t flush_at;
    /* When the function wants its tick; 0 for never. */
    uint64_t own_timer;
    /* What the host was told. */
    uint64_t armed;
} state;

void weir_log_text(weir_level level, weir_text text) {
    char line[WEIR_LINE_MAX];
    size_t length = text.length < sizeof line ? text.length : sizeof line;
    memcpy(line, text.bytes, length);
    weir_utf8_mend(line, length);
    weir_import_log(level, line, length);
}

static void log_line(weir_level level, const char *text) {
    weir_text line = {text, strlen(text)};
    weir_log_text(level, line);
}

void weir_log(weir_level level, const char *format, ...) {
    char line[WEIR_LINE_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    log_line(level, line);
}

bool weir_refuse(weir_error *error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return false;
}

bool weir_text_is(weir_text text, const char *other) {
    return strlen(other) == text.length && memcmp(text.bytes, other, text.length) == 0;
}

int32_t weir_port_named(const weir_setup *setup, weir_text name) {
    for (uint32_t at = 0; at < setup->port_count; at++) {
        weir_text port = setup->ports[at];
        if (port.length == name.length && memcmp(port.bytes, name.bytes, name.length) == 0) return (int32_t)at;
    }
    return -1;
}

uint64_t weir_now(void) { return weir_import_now(); }

uint64_t weir_random(void) { return weir_import_random(); }

/* Tells the host the earlier of both times, if it does not know it. */
static void arm(void) {
    uint64_t own = state.own_timer, flush = state.flush_at;
    uint64_t at = own == 0 || (flush != 0 && flush < own) ? flush : own;
    if (state.armed != at) {
        state.armed = at;
        weir_import_set_timer(at);
    }
}

void weir_set_timer(uint64_t at) {
    state.own_timer = at;
    arm();
}

static uint8_t named(const char *name, bool gauge) {
    for (uint8_t at = 0; at < state.count; at++) {
        if (strcmp(state.names[at], name) == 0 && state.gauge[at] == gauge) return at;
    }
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");
    if (state.count == NAMES_MAX || length == 0 || length > 64 || name[length] != 0) {
        log_line(WEIR_ERROR, "a counter or gauge must be one of at most 64, and its name 1 to 64 of a-z0-9_; this one is not:");
        log_line(WEIR_ERROR, name);
        abort();
    }
    state.names[state.count] = name;
    state.gauge[state.count] = gauge;
    return state.count++;
}

weir_counter weir_counter_named(const char *name) { return named(name, false); }

weir_gauge weir_gauge_named(const char *name) { return named(name, true); }

static void flush(void) {
    uint64_t dirty = weir_values.dirty;
    weir_values.dirty = 0;
    for (; dirty != 0; dirty &= dirty - 1) {
        int at = __builtin_ctzll(dirty);
        uint32_t length = strlen(state.names[at]);
        if (state.gauge[at]) {
            weir_import_gauge_set(state.names[at], length, weir_values.value[at].level);
        } else {
            weir_import_counter_add(state.names[at], length, weir_values.value[at].count);
            weir_values.value[at].count = 0;
        }
    }
    state.flush_at = 0;
}

void weir_hand_over(uint64_t now) {
    if (state.flush_at == 0) {
        state.flush_at = now + FLUSH_EVERY;
        arm();
    } else if (now >= state.flush_at) {
        flush();
        arm();
    }
}

void weir_after_configure(void) {
    flush();
    arm();
}

bool weir_before_tick(uint64_t now) {
    state.armed = 0;
    /* Also before it is due: the last tick of all comes when a replay has ended. */
    if (state.flush_at != 0) flush();
    bool due = state.own_timer != 0 && now >= state.own_timer;
    if (due) state.own_timer = 0;
    return due;
}

void weir_after_tick(uint64_t now) {
    if (weir_values.dirty != 0) weir_hand_over(now);
    arm();
}
