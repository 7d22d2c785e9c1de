// Hopper's copy engine and its barriers in shared memory: thin names over PTX.
#ifndef GR_COMPUTE_CUDA_HOPPER_CUH
#define GR_COMPUTE_CUDA_HOPPER_CUH
#include <cuda.h>
#include <stdint.h>

namespace hopper {

__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

// ---- barriers: a phase ends when `n` arrivals and all bytes expected have come; parity is the phase's number mod 2 ----
__device__ __forceinline__ void barrier_init(uint64_t *b, uint32_t n) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(n) : "memory");
}
__device__ __forceinline__ void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void arrive(uint64_t *b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory"); }
__device__ __forceinline__ void arrive_expecting(uint64_t *b, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
__device__ __forceinline__ uint32_t has_ended(uint64_t *b, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
                 : "=r"(done)
                 : "r"(shared_address(b)), "r"(parity)
                 : "memory");
    return done;
}
// Ends: after seconds without an end of the phase there is a bug, and the kernel traps. Often the phase has ended already: no more than a look then.
__device__ __forceinline__ void wait(uint64_t *b, uint32_t parity) {
    if (has_ended(b, parity)) return;
    for (uint32_t patience = 1u << 26; !has_ended(b, parity); patience--)
        if (patience == 0) __trap();
}

// ---- copies into shared memory ----
// A box of a matrix, its corner at (column, row); its bytes count towards the barrier. Parts outside the matrix come as zeros.
__device__ __forceinline__ void copy_box(void *to, const CUtensorMap *map, int column, int row, uint64_t *b) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
                 "l"((uint64_t)map), "r"(shared_address(b)), "r"(column), "r"(row)
                 : "memory");
}

// 16 bytes by an ordinary thread; zeros when not valid.
__device__ __forceinline__ void copy_16(uint32_t to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
// The thread arrives when its copies so far are done, without waiting for them.
__device__ __forceinline__ void arrive_after_copies(uint64_t *b) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(b)) : "memory");
}
// What ordinary instructions wrote, as far as this thread sees it, becomes visible to the tensor cores and the copy engine.
__device__ __forceinline__ void publish_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- copies out of shared memory ----
// A box to its place in a matrix; columns and rows outside the matrix are left out. A thread's boxes since its last commit are a group.
__device__ __forceinline__ void store_box(const CUtensorMap *map, int column, int row, const void *from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"((uint64_t)map), "r"(column), "r"(row),
                 "r"(shared_address(from))
                 : "memory");
}
__device__ __forceinline__ void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// All groups of this thread are read: what they came from may be written again. Or written: the block may end.
__device__ __forceinline__ void wait_stores_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void wait_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Four matrices of 8 x 8 bf16 from a warp's registers: matrix i has its row r, 16 bytes, where lane 8 i + r says; its elements lie as those of an
// accumulator's block do, a word of two a lane.
__device__ __forceinline__ void store_matrices(uint32_t to, const uint32_t (&v)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}

// ---- meetings of part of a block: `n` threads, in whole warps, at meeting place `place` of 1 to 15 ----
__device__ __forceinline__ void meet(int place, int n) { asm volatile("bar.sync %0, %1;" ::"r"(place), "r"(n) : "memory"); }

// ---- registers move between warpgroups ----
template <int N> __device__ __forceinline__ void registers_give() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ __forceinline__ void registers_take() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

}  // namespace hopper
#endif
