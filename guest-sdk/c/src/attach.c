/* The window and the state region. */

#include "attach.h"
#include "utf8.h"

#include <string.h>

#define PAGE 65536u

uint8_t *weir_window;
uint32_t weir_room_bytes;

uint8_t *weir_grow(uint32_t bytes) {
    size_t page = __builtin_wasm_memory_grow(0, (bytes + PAGE - 1) / PAGE);
    return page == (size_t)-1 ? NULL : (uint8_t *)(page * PAGE);
}

bool weir_attach(uint32_t window_bytes, uint32_t window_align, uint32_t state_align, weir_setup *setup, weir_error *error) {
    uint8_t *region = weir_grow(window_bytes + window_align);
    if (region == NULL) {
        return weir_refuse(error, "no memory for a window of %u bytes: raise the function's `memory`", (unsigned)window_bytes);
    }
    weir_window = region + weir_import_attach_window(region, window_bytes + window_align);
    weir_room_bytes = setup->room_bytes;
    if (setup->state_bytes != 0) {
        region = weir_grow(setup->state_bytes + state_align);
        if (region == NULL) {
            return weir_refuse(error, "no memory for a state region of %u bytes: raise the function's `memory`",
                               (unsigned)setup->state_bytes);
        }
        setup->state = region + weir_import_attach_state(region, setup->state_bytes + state_align);
    }
    return true;
}

bool weir_begin(weir_setup *setup, const char *text, size_t length, weir_error *error) {
    weir_json config;
    if (!weir_document_parse(text, length, &config)) {
        return weir_refuse(error, "configuration: it cannot be read, or there is no memory for it");
    }
    bool done = weir_configure(setup, config, error);
    /* Whoever wrote it. */
    if (!done) weir_utf8_mend(error->text, strlen(error->text));
    weir_document_free(config);
    return done;
}
