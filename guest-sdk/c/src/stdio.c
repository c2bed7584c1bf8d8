/* What the C library wants of a system: standard output and standard error are lines of the function's log, and there is nothing else.
 *
 * wasi-libc would import these from `wasi_snapshot_preview1`, which Weir has not; printf, assert and abort bring them in. */

#include <weir/host.h>

#include <string.h>

#define ERRNO_BADF 8
#define ERRNO_SPIPE 70
#define CHARACTER_DEVICE 2
#define FDSTAT_BYTES 24

typedef struct span {
    const char *bytes;
    uint32_t length;
} span;

/* What was written to the two files since their last lines ended. */
static struct {
    char bytes[WEIR_LINE_MAX];
    uint32_t length;
} begun[2];

static bool is_there(uint32_t file) { return file == 1 || file == 2; }

static void end_line(uint32_t file) {
    weir_text line = {begun[file - 1].bytes, begun[file - 1].length};
    if (line.length > 0) weir_log_text(file == 1 ? WEIR_INFO : WEIR_ERROR, line);
    begun[file - 1].length = 0;
}

static void put(uint32_t file, char byte) {
    if (byte == '\n') {
        end_line(file);
        return;
    }
    /* A line that is too long is several. None ends within a character, which has at most four bytes. */
    bool begins = ((uint8_t)byte & 0xc0) != 0x80;
    uint32_t length = begun[file - 1].length;
    if (length == WEIR_LINE_MAX || (begins && length > WEIR_LINE_MAX - 4)) end_line(file);
    begun[file - 1].bytes[begun[file - 1].length++] = byte;
}

uint32_t __imported_wasi_snapshot_preview1_fd_write(uint32_t file, const span *spans, uint32_t count, uint32_t *written) {
    if (!is_there(file)) return ERRNO_BADF;
    uint32_t sum = 0;
    for (uint32_t at = 0; at < count; at++) {
        for (uint32_t byte = 0; byte < spans[at].length; byte++) put(file, spans[at].bytes[byte]);
        sum += spans[at].length;
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

/* Both are terminals, for which the C library hands over each line when it ends; of other files it keeps a kilobyte. */
uint32_t __imported_wasi_snapshot_preview1_fd_fdstat_get(uint32_t file, uint8_t answer[FDSTAT_BYTES]) {
    if (!is_there(file)) return ERRNO_BADF;
    memset(answer, 0, FDSTAT_BYTES);
    answer[0] = CHARACTER_DEVICE;
    return 0;
}
