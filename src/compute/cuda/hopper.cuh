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

// At the barrier that block `rank` of the cluster has at this place. What it guards is read by tensor cores: no fence for memory outside.
__device__ __forceinline__ void arrive_at(uint64_t *b, uint32_t rank) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(
                     shared_address(b)),
                 "r"(rank)
                 : "memory");
}
__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// ---- copies into shared memory ----
// A box of a matrix, its corner at (column, row); its bytes count towards the barrier. Parts outside the matrix come as zeros.
__device__ __forceinline__ void copy_box(void *to, const CUtensorMap *map, int column, int row, uint64_t *b) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
                 "l"((uint64_t)map), "r"(shared_address(b)), "r"(column), "r"(row)
                 : "memory");
}

// The same box into every block of the cluster named in `mask`, at the same place, for the barrier at the same place there.
__device__ __forceinline__ void copy_box_to_peers(void *to, const CUtensorMap *map, int column, int row, uint64_t *b, uint16_t mask) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(
                     shared_address(to)),
                 "l"((uint64_t)map), "r"(shared_address(b)), "r"(column), "r"(row), "h"(mask)
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
// What ordinary instructions wrote, as far as this thread sees it, becomes visible to the tensor cores.
__device__ __forceinline__ void publish_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- registers move between warpgroups ----
template <int N> __device__ __forceinline__ void registers_give() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ __forceinline__ void registers_take() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

}  // namespace hopper
#endif
