// Programmatic dependent launch: a kernel may start while the one before it on the stream still runs, so that its start, and what it reads that no kernel
// writes (weights), hides under the other's end. A kernel launched with overlap calls wait() in every thread before it touches anything that an earlier
// kernel writes or reads: its inputs, its outputs, scratch. release_next() lets the next kernel of the stream start; it may come first of all, since the
// next one waits for the whole of this one anyway. Where every thread waits before it releases, all that came before this kernel is over when the next one
// starts: the next may read that, past the first cache, before its own wait. Below sm_90, and in a launch without overlap, both do nothing.
#ifndef GR_COMPUTE_CUDA_PDL_CUH
#define GR_COMPUTE_CUDA_PDL_CUH
#include <cuda_runtime.h>

namespace pdl {

__device__ __forceinline__ void wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void release_next() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// kernel<<<grid, block, shared, stream>>>(args...), that may overlap the kernel before it. The error stays for cudaGetLastError().
template <typename... Parameters, typename... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, bool overlap, Args... args) {
    cudaLaunchAttribute serial = {};
    serial.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    serial.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared, config.stream = stream;
    config.attrs = &serial, config.numAttrs = overlap ? 1 : 0;
    cudaLaunchKernelEx(&config, kernel, Parameters(args)...);
}

}  // namespace pdl
#endif
