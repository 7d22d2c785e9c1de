// What GPUs from sm_80 on have: copies into shared memory, matrix fragments, products of a warp. Thin names over PTX.
//
// A fragment holds 8 x 8 pieces of bf16: lane l has (row l / 4, columns 2 (l % 4) and the next) of each. A (16 x 16): pieces (rows 0-7, columns 0-7),
// (8-15, 0-7), (0-7, 8-15), (8-15, 8-15). B (16 x 8): lane l has (rows 2 (l % 4) and the next, column l / 4) of rows 0-7, then of rows 8-15.
// D (16 x 8): row l / 4, columns 2 (l % 4) and the next, then the same of row l / 4 + 8.
#ifndef GR_COMPUTE_CUDA_AMPERE_CUH
#define GR_COMPUTE_CUDA_AMPERE_CUH
#include <stdint.h>

namespace ampere {

__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

// ---- copies: 16 bytes a thread, zeros when not valid (from must still be an address); a group is what a thread asked for up to its commit ----
__device__ __forceinline__ void copy_16(uint32_t to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All but the thread's last N groups are there.
template <int N> __device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// ---- fragments: four 8 x 8 pieces; lane l gives the address of row l % 8 of piece l / 8 ----
__device__ __forceinline__ void load_pieces(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
// The same, every piece transposed.
__device__ __forceinline__ void load_pieces_turned(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

// d += a b, a 16 x 16, b 16 x 8
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace ampere
#endif
