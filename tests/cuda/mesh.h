/* Several ranks in one test: processes forked from it, with a socket between any two, and a communicator over these. */
#ifndef TESTS_CUDA_MESH_H
#define TESTS_CUDA_MESH_H
#include "comm/comm.h"

enum { MESH_MAX = 8 };

/* Runs body in n processes as the ranks of n_nodes nodes; true when every one returned 0. Nothing of CUDA may have been called before. A process that must end
 * early calls _exit(); whoever waits for it then fails at once, and for one that only sleeps at the deadline. */
bool mesh_run(int32_t n, int32_t n_nodes, double deadline_s, int (*body)(gr_comm *world, const void *arg), const void *arg);
int mesh_ask(int (*question)(void));        /* its answer, 0 to 255, given by another process, so that this one stays free to fork */

#endif
