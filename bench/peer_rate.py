#!/usr/bin/env python3
"""What a GPU sends to its neighbour at most: the driver's own copy between two GPUs of this machine, one JSON line.  Needs the CUDA runtime library, no packages."""
import ctypes, json, sys

BYTES, COPIES, ROUNDS = 1 << 28, 4, 7


def runtime():
    for name in ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "/usr/local/cuda/lib64/libcudart.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    sys.exit("peer_rate: no CUDA runtime library here")


def main():
    rt = runtime()

    def call(name, *args):
        code = getattr(rt, name)(*args)
        if code:
            rt.cudaGetErrorString.restype = ctypes.c_char_p
            sys.exit("peer_rate: %s: %s" % (name, rt.cudaGetErrorString(code).decode()))

    memory, n, can, took, events = [], ctypes.c_int(), ctypes.c_int(), ctypes.c_float(), [ctypes.c_void_p(), ctypes.c_void_p()]
    call("cudaGetDeviceCount", ctypes.byref(n))
    if n.value < 2:
        sys.exit("peer_rate: one GPU has no neighbour")
    call("cudaDeviceCanAccessPeer", ctypes.byref(can), 0, 1)
    for gpu in (1, 0):
        p = ctypes.c_void_p()
        call("cudaSetDevice", gpu)
        call("cudaMalloc", ctypes.byref(p), ctypes.c_size_t(BYTES))
        memory.insert(0, p)
    if can.value:
        call("cudaDeviceEnablePeerAccess", 1, 0)
    for e in events:
        call("cudaEventCreate", ctypes.byref(e))
    best = 0.0
    for _ in range(ROUNDS):
        call("cudaEventRecord", events[0], None)
        for _ in range(COPIES):
            call("cudaMemcpyPeerAsync", memory[1], 1, memory[0], 0, ctypes.c_size_t(BYTES), None)
        call("cudaEventRecord", events[1], None)
        call("cudaEventSynchronize", events[1])
        call("cudaEventElapsedTime", ctypes.byref(took), events[0], events[1])
        best = max(best, COPIES * BYTES / (took.value * 1e-3) / 1e9)
    print(json.dumps({"peer_gb_s": round(best, 1), "direct": bool(can.value)}))


if __name__ == "__main__":
    main()
