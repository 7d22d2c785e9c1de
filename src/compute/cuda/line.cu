// Messages between device memory and boxes in the host's. Blocks of a wire share its message; stores and loads of 16 bytes cross PCIe side by side.
#include "base/box.h"
#include "compute/cuda/exchange_call.cuh"
#include "compute/cuda/line.h"

namespace {

using namespace exchange;

enum { MOVERS = 48, BYTES_A_BLOCK = 64 << 10, LOADS = 4 };     // blocks in all: enough for PCIe; fewer where there is less to move

__host__ __device__ constexpr int64_t on_16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

__device__ __forceinline__ int64_t first_of_wire() { return (int64_t)blockIdx.x * THREADS + threadIdx.x; }
__device__ __forceinline__ int64_t step_of_wire() { return (int64_t)gridDim.x * THREADS; }

// All but the rest of 16 bytes, which is read past its end: both have room for it. LOADS loads are on their way.
__device__ __forceinline__ void copy_16s(const char *from, char *to, int64_t bytes) {
    const uint4 *in = reinterpret_cast<const uint4 *>(from);
    uint4 *out = reinterpret_cast<uint4 *>(to);
    const int64_t n = on_16(bytes) / 16, step = step_of_wire();
    for (int64_t i = first_of_wire(); i < n; i += LOADS * step) {
        uint4 x[LOADS];
#pragma unroll
        for (int j = 0; j < LOADS; j++)
            if (i + j * step < n) x[j] = in[i + j * step];
#pragma unroll
        for (int j = 0; j < LOADS; j++)
            if (i + j * step < n) out[i + j * step] = x[j];
    }
}

// Where the parts of a message of so many rows lie.
struct layout {
    int64_t words, weight, rows;
    __host__ __device__ layout(int64_t n_rows, int32_t top_k) : words(n_rows * top_k), weight(on_16(4 * words)), rows(2 * weight) {}
};

// The parts of a message, in a box or in device memory.
struct parts {
    char *slot, *weight, *rows;
    __device__ __forceinline__ parts(const gr_cuda_mail &m, int32_t wire)
        : slot(m.slot + wire * m.slot_step), weight(m.weight + wire * m.weight_step), rows(m.rows + wire * m.row_step) {}
    __device__ __forceinline__ parts(char *bytes, const layout &at) : slot(bytes), weight(bytes + at.weight), rows(bytes + at.rows) {}
};

__device__ __forceinline__ uint32_t *word(char *from, int64_t i) { return reinterpret_cast<uint32_t *>(from) + i; }

// Slots and weights are loaded before anything is stored, else their way over PCIe would begin when the rows' is over.
__device__ __forceinline__ void copy_message(const parts &from, const parts &to, const layout &at, int64_t bytes) {
    const int64_t first = first_of_wire(), step = step_of_wire();
    uint32_t slot = 0, weight = 0;
    if (first < at.words) slot = *word(from.slot, first), weight = *word(from.weight, first);
    copy_16s(from.rows, to.rows, bytes);
    for (int64_t i = first; i < at.words;) {
        *word(to.slot, i) = slot, *word(to.weight, i) = weight;
        if ((i += step) < at.words) slot = *word(from.slot, i), weight = *word(from.weight, i);
    }
}

__device__ __forceinline__ void add_counts(const gr_cuda_mail &m, int32_t wire, int32_t rows, int32_t entries, int64_t bytes) {
    m.count[3 * wire] += rows, m.count[3 * wire + 1] += entries, m.count[3 * wire + 2] += bytes;
}

// The number of the message under way; the last block counts it.
__device__ __forceinline__ uint32_t number_of_message(const gr_cuda_mail &m, int32_t wire) {
    return *(volatile uint32_t *)&m.state[GR_CUDA_MAIL_STATE * wire + 1] + 1;
}

// True in one thread, of the block of the wire that comes here last, behind what all its blocks read; what they wrote is there for later kernels.
__device__ __forceinline__ bool is_last(const gr_cuda_mail &m, int32_t wire) {
    __syncthreads();        // all that this block reads and writes comes before its count
    return threadIdx.x == 0 && (gridDim.x == 1 || atomicInc(&m.state[GR_CUDA_MAIL_STATE * wire], gridDim.x - 1) == gridDim.x - 1);
}

__device__ __forceinline__ void set_number(const gr_cuda_mail &m, int32_t wire, uint32_t number) {
    *(volatile uint32_t *)&m.state[GR_CUDA_MAIL_STATE * wire + 1] = number;
}

// The system sees the flag behind what this block wrote and what blocks did that counted behind a fence. One fence closes both: it comes after the count that
// was read, before the flag that is written.
__device__ __forceinline__ void tell(gr_line_head *head, int32_t rows, int32_t entries, int64_t n_bytes, uint32_t number) {
    volatile gr_line_head *told = head;
    told->rows = rows, told->entries = entries, told->n_bytes = n_bytes;
    __threadfence_system();
    told->number = number;
}

__global__ __launch_bounds__(THREADS, 1) void post(const __grid_constant__ gr_cuda_mail m, const uint32_t *epoch) {
    pdl::wait();
    pdl::release_next();
    const bool garbage = gave_up(epoch);
    const int32_t wire = blockIdx.y, rows = m.n[2 * wire], entries = m.n[2 * wire + 1];
    const uint32_t number = number_of_message(m, wire);
    const int64_t bytes = m.n_bytes ? m.n_bytes[wire] : (int64_t)(m.by_entry ? entries : rows) * m.row_bytes;
    const layout at(rows, m.top_k);
    copy_message(parts(m, wire), parts(m.box[wire] + GR_LINE_HEAD_BYTES, at), at, bytes);
    if (gridDim.x > 1) {
        __syncthreads();        // all of this block's stores are there, before its count, as the system sees it
        if (threadIdx.x == 0) __threadfence_system();
    }
    if (!is_last(m, wire) || garbage) return;      // nobody is told, and so nothing is sent
    tell(reinterpret_cast<gr_line_head *>(m.box[wire]), rows, entries, at.rows + bytes, number);
    set_number(m, wire, number);
    add_counts(m, wire, rows, entries, bytes);
}

// False: it is too late, and what would have come is not read.
__device__ __forceinline__ bool await(const gr_cuda_node &node, const uint32_t *flag, uint32_t due, int32_t stage, int32_t layer, int32_t wire) {
    uint64_t start = 0;
    for (uint32_t polls = 1;; polls++) {
        if ((int32_t)(acquire(flag) - due) >= 0) return true;
        if (polls % POLLS) continue;        // every look crosses PCIe, also one at the watch
        const uint64_t now = nanoseconds();
        if (start == 0) start = now;
        if (now - start < node.deadline_ns && !((volatile gr_cuda_watch *)node.watch)->stop) continue;
        node.epoch[OVER] = 1;
        report_late(node, stage, layer, GR_CUDA_NODE_MAX + wire);
        return false;
    }
}

// What came, cut to what there is room for.
struct sizes {
    int64_t bytes;
    int32_t rows, entries;
};

// By one thread. Nothing, where it is too late.
__device__ __forceinline__ sizes await_head(const gr_cuda_node &node, const gr_cuda_mail &m, uint32_t due, int32_t stage, int32_t layer, int32_t wire) {
    const gr_line_head *head = reinterpret_cast<const gr_line_head *>(m.box[wire]);
    const volatile gr_line_head *told = head;
    int32_t rows = 0, entries = 0;
    int64_t bytes = 0;
    if (await(node, &head->number, due, stage, layer, wire)) rows = told->rows, entries = told->entries, bytes = told->n_bytes;
    rows = min(max(0, rows), m.rows_most);
    const int64_t in_front = layout(rows, m.top_k).rows;
    return {min(max(in_front, bytes) - in_front, m.bytes_most), rows, entries};
}

// A wire's first block tells the others in words on the device: looks at the host's memory queue up there.
struct board {
    uint32_t *number, *rows, *entries;
    int64_t *bytes;

    __device__ __forceinline__ board(const gr_cuda_mail &m, int32_t wire) : number(m.state + GR_CUDA_MAIL_STATE * wire + 2), rows(number + 1),
        entries(number + 2), bytes(reinterpret_cast<int64_t *>(number + 4)) {}
    __device__ __forceinline__ void tell(const sizes &s, uint32_t due) const {
        *(volatile uint32_t *)rows = (uint32_t)s.rows, *(volatile uint32_t *)entries = (uint32_t)s.entries, *(volatile int64_t *)bytes = s.bytes;
        __threadfence();        // sizes, and what the flag of the message was set behind, before their number
        *(volatile uint32_t *)number = due;
    }
    // Ends: the first block began before this one, and its wait ends.
    __device__ __forceinline__ sizes ask(uint32_t due) const {
        while (acquire(number) != due) continue;
        return {*(volatile int64_t *)bytes, (int32_t)*(volatile uint32_t *)rows, (int32_t)*(volatile uint32_t *)entries};
    }
};

__global__ __launch_bounds__(THREADS, 1) void fetch(const __grid_constant__ gr_cuda_node node, const __grid_constant__ gr_cuda_mail m, int32_t stage,
                                                    int32_t layer) {
    pdl::wait();
    pdl::release_next();
    __shared__ sizes come;
    const int32_t wire = blockIdx.y;
    const uint32_t number = number_of_message(m, wire);
    const board told(m, wire);
    if (threadIdx.x == 0) {
        come = blockIdx.x == 0 ? await_head(node, m, number, stage, layer, wire) : told.ask(number);
        if (blockIdx.x == 0 && gridDim.x > 1) told.tell(come, number);
    }
    __syncthreads();        // sizes are there, and what they are of
    const layout at(come.rows, m.top_k);
    copy_message(parts(m.box[wire] + GR_LINE_HEAD_BYTES, at), parts(m, wire), at, come.bytes);
    if (!is_last(m, wire)) return;
    set_number(m, wire, number);
    if (m.n) m.n[2 * wire] = come.rows, m.n[2 * wire + 1] = come.entries;
    add_counts(m, wire, come.rows, come.entries, come.bytes);
}

grace_status check(const gr_cuda_mail *m) {
    grace_status st = GRACE_OK;
    GR_CHECK(m->n_wires >= 0 && m->n_wires <= GR_CUDA_WIRES_MAX, GRACE_ERR_LIMIT, "cuda: mail over %d wires, expected at most %d", m->n_wires,
             GR_CUDA_WIRES_MAX);
    GR_CHECK(m->row_bytes > 0 && m->row_bytes % 16 == 0 && m->row_step % 16 == 0, GRACE_ERR_LIMIT, "cuda: mail: rows of %d bytes, %lld apart: expected "
             "multiples of 16", m->row_bytes, (long long)m->row_step);
done:
    return st;
}

// As many blocks as the most that may move keeps busy.
dim3 grid_of(const gr_cuda_mail *m) {
    const int64_t most = gr_cuda_mail_bytes(m->rows_most, m->top_k, m->bytes_most), wanted = (most + BYTES_A_BLOCK - 1) / BYTES_A_BLOCK;
    const int64_t share = m->n_wires < MOVERS ? MOVERS / m->n_wires : 1;
    return dim3((unsigned)(wanted < 1 ? 1 : wanted < share ? wanted : share), (unsigned)m->n_wires);
}

}  // namespace

extern "C" int64_t gr_cuda_mail_bytes(int64_t rows, int32_t top_k, int64_t bytes_of_rows) { return layout(rows, top_k).rows + on_16(bytes_of_rows); }

extern "C" grace_status gr_cuda_post(const gr_cuda_node *node, const gr_cuda_mail *mail, gr_cuda_stream stream) {
    const grace_status st = check(mail);
    if (st || mail->n_wires == 0) return st;
    pdl::launch(post, grid_of(mail), THREADS, 0, stream, true, *mail, node->epoch);
    return gr_cuda_status(cudaGetLastError(), "post");
}

extern "C" grace_status gr_cuda_fetch(const gr_cuda_node *node, const gr_cuda_mail *mail, int32_t stage, int32_t layer, gr_cuda_stream stream) {
    const grace_status st = check(mail);
    if (st || mail->n_wires == 0) return st;
    pdl::launch(fetch, grid_of(mail), THREADS, 0, stream, true, *node, *mail, stage, layer);
    return gr_cuda_status(cudaGetLastError(), "fetch");
}
