/* The imports of interface `host` that functions of all worlds have; for this SDK's own files.
 *
 * Declared here by hand, so that these files are compiled once for all worlds: the bindings of each world declare types of their own for
 * them. They are the canonical ABI's form of wit/net.wit. */
#ifndef WEIR_IMPORTS_H
#define WEIR_IMPORTS_H

#include <stdint.h>

#define WEIR_HOST(name) __attribute__((import_module("weir:net/host@0.1.0"), import_name(name)))

WEIR_HOST("attach-window") extern uint32_t weir_import_attach_window(uint8_t *region, uint32_t length);
WEIR_HOST("attach-state") extern uint32_t weir_import_attach_state(uint8_t *region, uint32_t length);
WEIR_HOST("log") extern void weir_import_log(int32_t level, const char *text, uint32_t length);
WEIR_HOST("now") extern uint64_t weir_import_now(void);
WEIR_HOST("random") extern uint64_t weir_import_random(void);
WEIR_HOST("counter-add") extern void weir_import_counter_add(const char *name, uint32_t length, uint64_t delta);
WEIR_HOST("gauge-set") extern void weir_import_gauge_set(const char *name, uint32_t length, double value);
WEIR_HOST("set-timer") extern void weir_import_set_timer(uint64_t at);
/* Writes an option: a byte that says whether there is one, and from byte 4 the offset. */
WEIR_HOST("allocate") extern void weir_import_allocate(uint32_t length, uint32_t answer[2]);
/* Write a result: a byte that says whether it was refused, and a byte that says why. */
WEIR_HOST("send") extern void weir_import_send(uint32_t offset, uint32_t length, uint32_t verdict, uint8_t answer[2]);
WEIR_HOST("send-copy") extern void weir_import_send_copy(const uint8_t *bytes, uint32_t length, uint32_t verdict, uint8_t answer[2]);

#endif
