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

#endif
