/* What instances of all worlds do when they are configured; for this SDK's own files. */
#ifndef WEIR_ATTACH_H
#define WEIR_ATTACH_H

#include "document.h"
#include "imports.h"

#include <stdlib.h>
#include <weir/host.h>

/* Where the window begins, and bytes of a room. */
extern uint8_t *weir_window;
extern uint32_t weir_room_bytes;

/* Fresh pages, aligned to 64 KiB; NULL without memory for them. */
uint8_t *weir_grow(uint32_t bytes);

/* Attaches the window and the state region. False after `weir_refuse`. */
bool weir_attach(uint32_t window_bytes, uint32_t window_align, uint32_t state_align, weir_setup *setup, weir_error *error);

/* What the function defines, in every world. */
bool weir_configure(const weir_setup *setup, weir_json config, weir_error *error);

/* Has the function configured with this text. False after `weir_refuse`. */
bool weir_begin(weir_setup *setup, const char *text, size_t length, weir_error *error);

/* What the host told; each world's bindings have a type of their own for it, with the same fields. */
#define WEIR_SETUP_OF(told) { \
    .room_bytes = (told)->room_bytes, \
    .seed = (told)->seed, \
    .state_bytes = (told)->state_bytes, \
    .state_kept = (told)->state_kept, \
    .ports = (const weir_text *)(told)->ports.ptr, \
    .port_count = (told)->ports.len, \
    .functions = (const weir_text *)(told)->functions.ptr, \
    .function_count = (told)->functions.len, \
    .position = (told)->position, \
}

#endif
