#include "support/fake_gpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "compute/cuda/cuda.h"

/* What all processes see of a rank's memory. One block of it at a time has a handle: the areas. */
typedef struct shared { _Atomic int32_t n_open; } shared;
typedef struct handle { int32_t rank, node; size_t at; } handle;

enum { RANKS_MAX = 64, ON = 256 };

fake_gpu fake;
static char *pool;
static shared *of_rank;
static size_t n_each, n_used;
static int32_t n_ranks, n_blocks, n_freed_open;
static const char *with_handle;         /* of this rank */
static gr_cuda backend;

void fake_gpus_open(int32_t n, size_t bytes_each) {
    n_ranks = n, n_each = bytes_each;
    pool = mmap(NULL, (size_t)n * n_each, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    of_rank = mmap(NULL, RANKS_MAX * sizeof *of_rank, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    GR_ASSERT(n <= RANKS_MAX && pool != MAP_FAILED && of_rank != MAP_FAILED);
}

void fake_gpus_close(void) {
    munmap(pool, (size_t)n_ranks * n_each);
    munmap(of_rank, RANKS_MAX * sizeof *of_rank);
}

int32_t fake_gpu_freed_open(void) {
    const int32_t n = n_freed_open;
    n_freed_open = 0;
    return n;
}

static cudaError_t may_fail(void) { return ++fake.n_calls == fake.fails_at ? cudaErrorMemoryAllocation : cudaSuccess; }

/* ---- device memory ---- */

/* In front of a block: its size. All of them are given back before the place is used again. */
cudaError_t cudaMalloc(void **out, size_t bytes) {
    char *block = pool + (size_t)fake.rank * n_each + n_used;
    const size_t whole = (bytes + 2 * ON - 1) / ON * ON;
    if (may_fail() || n_used + whole > n_each) return cudaErrorMemoryAllocation;
    *(size_t *)(void *)block = bytes;
    memset(block + ON, 0xA5, whole - ON);
    *out = block + ON;
    n_used += whole, n_blocks++, fake.n_live++, fake.device_bytes += (int64_t)bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory) {
    if (!memory) return cudaSuccess;
    const char *block = (char *)memory - ON;
    fake.n_live--, fake.device_bytes -= (int64_t) * (const size_t *)(const void *)block;
    if (memory == with_handle) n_freed_open += atomic_load(&of_rank[fake.rank].n_open) > 0, with_handle = NULL;
    if (--n_blocks == 0) n_used = 0;
    return cudaSuccess;
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *out, void *memory) {
    const handle h = {fake.rank, fake.node, (size_t)((char *)memory - pool)};
    memset(out, 0, sizeof *out);
    memcpy(out, &h, sizeof h);
    with_handle = memory;
    return cudaSuccess;
}

cudaError_t cudaIpcOpenMemHandle(void **out, cudaIpcMemHandle_t from, unsigned flags) {
    handle h;
    (void)flags;
    memcpy(&h, &from, sizeof h);
    GR_ASSERT(h.rank >= 0 && h.rank < n_ranks && h.rank != fake.rank && h.node == fake.node);
    if (may_fail()) return cudaErrorMemoryAllocation;
    atomic_fetch_add(&of_rank[h.rank].n_open, 1);
    fake.n_live++;
    *out = pool + h.at;
    return cudaSuccess;
}

cudaError_t cudaIpcCloseMemHandle(void *memory) {
    const int32_t rank = (int32_t)((size_t)((char *)memory - pool) / n_each);
    GR_ASSERT(rank != fake.rank);
    atomic_fetch_sub(&of_rank[rank].n_open, 1);
    fake.n_live--;
    return cudaSuccess;
}

/* ---- pinned memory, streams, events ---- */

cudaError_t cudaHostAlloc(void *out, size_t bytes, unsigned flags) {
    void *memory = may_fail() ? NULL : aligned_alloc(ON, (bytes + ON) / ON * ON);
    (void)flags;
    if (!memory) return cudaErrorMemoryAllocation;
    memset(memory, 0xA5, bytes);
    memcpy(out, &memory, sizeof memory);
    fake.n_live++;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory) {
    fake.n_live -= memory != NULL;
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **there, void *here, unsigned flags) { return (void)flags, *there = here, cudaSuccess; }

static cudaError_t make(void *out) {
    void *thing = may_fail() ? NULL : malloc(1);
    if (!thing) return cudaErrorMemoryAllocation;
    memcpy(out, &thing, sizeof thing);
    fake.n_live++;
    return cudaSuccess;
}

static cudaError_t unmake(void *thing) { return free(thing), fake.n_live--, cudaSuccess; }

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority) { return (void)flags, (void)priority, make(out); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return unmake(stream); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) { return (void)flags, make(out); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return unmake(event); }

/* Whatever was queued has ended. */
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return (void)stream, cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) { return (void)stream, (void)event, (void)flags, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return (void)event, (void)stream, cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t event) { return (void)event, cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *out) {
    return (void)stream, *out = cudaStreamCaptureStatusNone, cudaSuccess;
}

/* ---- copies ---- */

cudaError_t cudaMemset(void *to, int value, size_t n) { return memset(to, value, n), cudaSuccess; }

cudaError_t cudaMemset2DAsync(void *to, size_t step, int value, size_t width, size_t height, cudaStream_t stream) {
    (void)stream;
    for (size_t i = 0; i < height; i++) memset((char *)to + i * step, value, width);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind) { return (void)kind, memcpy(to, from, n), cudaSuccess; }

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind, cudaStream_t stream) {
    (void)stream;
    return cudaMemcpy(to, from, n, kind);
}

/* ---- the device ---- */

const char *cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "out of memory"; }
cudaError_t cudaSetDevice(int device) { return (void)device, cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -1, cudaSuccess; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device) {
    (void)device;
    memset(out, 0, sizeof *out);
    memcpy(out->uuid.bytes, &fake.gpu, sizeof fake.gpu);
    return cudaSuccess;
}

grace_status gr_cuda_status(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return GRACE_OK;
    return gr_fail(GRACE_ERR_MEMORY, "cuda: %s: %s", what, cudaGetErrorString(error));
}

/* ---- the backend ---- */

static grace_status alloc_zeroed(gr_compute *c, size_t bytes, void **out) {
    grace_status st = GRACE_OK;
    (void)c;
    GR_TRY(gr_cuda_status(cudaMalloc(out, bytes), "buffers"));
    memset(*out, 0, bytes);
done:
    return st;
}

static const gr_compute_ops fake_ops = {.name = "fake", .element = sizeof(uint16_t), .packs = true, .alloc = alloc_zeroed};

gr_compute *fake_compute(void) {
    backend.base.ops = &fake_ops;
    return &backend.base;
}

int64_t gr_cuda_group_scratch(int64_t n_choices, int32_t n_slots) { return (void)n_choices, (void)n_slots, 1; }

void gr_cuda_spare(gr_compute *base, bool spares) { (void)base, (void)spares; }

void gr_cuda_drop_replays(gr_compute *base) { (void)base; }

/* Lists of pairs grow to what the backend has room for. */
gr_pairs *gr_cuda_pairs_for(gr_compute *base, int32_t n_rows, int32_t top_k, int32_t n_slots) {
    static int32_t first_pair[GR_CUDA_SLOTS_MAX + 1], *row_of_pair, *pair_of_choice;
    static int64_t n_room;
    const int64_t n = (int64_t)n_rows * top_k;
    GR_ASSERT(n <= fake.choices_max && n_slots <= GR_CUDA_SLOTS_MAX);
    if (n > n_room) {
        n_room = n;
        row_of_pair = realloc(row_of_pair, (size_t)n * sizeof *row_of_pair), pair_of_choice = realloc(pair_of_choice, (size_t)n * sizeof *pair_of_choice);
        GR_ASSERT(row_of_pair && pair_of_choice);
    }
    gr_cuda_of(base)->pairs.pairs = (gr_cuda_pairs){n_slots, n_rows, top_k, first_pair, row_of_pair, pair_of_choice, NULL, false};
    return &gr_cuda_of(base)->pairs;
}
