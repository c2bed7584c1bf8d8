/* What the C library wants of a system: standard output and standard error are lines of the function's log, and there is nothing else.
 *
 * wasi-libc would import these from `wasi_snapshot_preview1`, which Weir has not; printf, assert and abort bring them in. */

#include "imports.h"

#include <weir/host.h>

#define ERRNO_BADF 8
#define ERRNO_SPIPE 70

typedef struct span {
    const char *bytes;
    uint32_t length;
} span;

uint32_t __imported_wasi_snapshot_preview1_fd_write(uint32_t file, const span *spans, uint32_t count, uint32_t *written) {
    if (file != 1 && file != 2) return ERRNO_BADF;
    uint32_t sum = 0;
    for (uint32_t at = 0; at < count; at++) {
        uint32_t length = spans[at].length;
        sum += length;
        while (length > 0 && spans[at].bytes[length - 1] == '\n') length--;
        if (length > 0) weir_import_log(file == 1 ? WEIR_INFO : WEIR_ERROR, spans[at].bytes, length);
    }
    *written = sum;
    return 0;
}

uint32_t __imported_wasi_snapshot_preview1_fd_seek(uint32_t file, uint64_t by, uint32_t from, uint64_t *at) {
    (void)file, (void)by, (void)from, (void)at;
    return ERRNO_SPIPE;
}

uint32_t __imported_wasi_snapshot_preview1_fd_close(uint32_t file) {
    (void)file;
    return ERRNO_BADF;
}

uint32_t __imported_wasi_snapshot_preview1_fd_fdstat_get(uint32_t file, void *answer) {
    (void)file, (void)answer;
    return ERRNO_BADF;
}
