/* A board: what ranks of one machine tell each other, in memory they share. In a round every rank posts in its slot and reads what the others posted. Nobody
 * waits here: who waits looks again, and does in between what its transport needs.
 *
 * A slot has two halves, for odd and even rounds. Who posts round k + 1 has read all of round k, and who begins round k + 2 has seen all post k + 1: nobody
 * reads any more what it writes over. A post is released by its round's number, which who looks acquires.
 *
 * The memory has no name in any file system, so it goes with the last process that has it open, however that ends; it does not need /dev/shm either. The
 * others find it as an open file of the process that made it (/proc). */
#ifndef GR_COMM_BOARD_H
#define GR_COMM_BOARD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { GR_BOARD_ROOM = 16384 - 16, GR_BOARD_NAME = 48 };       /* bytes of a post, and of a name */

typedef struct gr_board_post gr_board_post;

typedef struct gr_board {
    int32_t rank, n_ranks;
    uint64_t round;                 /* the last we posted; the first is 1 */
    gr_board_post *posts;           /* shared [n_ranks, 2] */
    int fd;
} gr_board;

/* Where it is, for the other ranks; all zero: nowhere. */
typedef struct gr_board_place { int64_t process; int32_t fd; char name[GR_BOARD_NAME]; } gr_board_place;

/* Local, both. IO, MEMORY: this machine, or what surrounds this process, does not let it; the sentence says what. */
grace_status gr_board_create(int32_t n_ranks, gr_board_place *place, gr_board **out);                               /* as rank 0 */
grace_status gr_board_attach(int32_t rank, int32_t n_ranks, const gr_board_place *place, gr_board **out);           /* while rank 0 has it open */
void gr_board_close(gr_board *b);           /* accepts NULL */

/* Begin the next round, when the one before was read from all ranks. n: at most GR_BOARD_ROOM. */
void gr_board_begin(gr_board *b, const void *bytes, size_t n);
/* Whether a rank has posted this round. */
bool gr_board_has(const gr_board *b, int32_t rank);
/* Its post, in place until we begin the next round. */
const void *gr_board_read(const gr_board *b, int32_t rank, size_t *n);

#endif
