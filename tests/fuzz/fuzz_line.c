/* Any bytes as the head of a message over a line: byte 0 says which way is next, byte 1 which number, the head follows. What is taken is what was next, and
 * fits into its box; what is not taken is quoted. */
#include <stdint.h>
#include <string.h>

#include "comm/line_parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const gr_line_room rooms[GR_LINE_WAYS] = {{65536, 64, 4}, {4096, INT32_MAX, INT32_MAX}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    gr_line_frame f;
    if (n < 2 + sizeof f) return 0;
    const int32_t way = data[0] % GR_LINE_WAYS;
    const uint32_t number = data[1] + 1u;
    const gr_line_room *room = &rooms[way];
    memcpy(&f, data + 2, sizeof f);
    if (gr_line_expect(&f, way, number, room) != GRACE_OK) {
        GR_ASSERT(strstr(grace_last_error(), "sends "));
        return 0;
    }
    GR_ASSERT(f.kind == GR_LINE_MESSAGE && f.way == way && f.number == number);
    GR_ASSERT(f.n_bytes >= 0 && f.n_bytes <= room->n_bytes && f.rows >= 0 && f.rows <= room->rows);
    GR_ASSERT(f.entries >= f.rows && (f.rows == 0 ? f.entries == 0 : (f.entries - 1) / f.rows < room->entries_a_row));
    return 0;
}
