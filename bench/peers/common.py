"""Shared by the peer benchmarks: model shapes, timing, process launch, records."""
import json, os, statistics, subprocess, sys, time

MODELS = {  # hidden, layers, routed experts, top-k, expert width, shared width
    "olmoe": dict(h=2048, L=16, E=64, k=8, m=1024, S=0),
    "dsv2l": dict(h=2048, L=26, E=64, k=6, m=1408, S=2816),
    "qwen3": dict(h=2048, L=48, E=128, k=8, m=768, S=0),
}
PEAK_FLOPS, PEAK_BYTES = 790e12, 4.55e12


def out_dir():
    d = os.environ.get("OUT") or "/tmp/peerbench"
    os.makedirs(d, exist_ok=True)
    return d


def median(x):
    return statistics.median(x) if x else float("nan")


class Record:
    """Rows kept in memory and rewritten after each one, so that a kill loses nothing."""

    def __init__(self, name):
        self.path, self.rows, self.t0 = os.path.join(out_dir(), name), [], time.time()

    def add(self, **row):
        self.rows.append(row)
        tmp = self.path + ".tmp"
        with open(tmp, "w") as f:
            json.dump(self.rows, f, indent=0)
        os.replace(tmp, self.path)

    def left(self, budget):
        return budget - (time.time() - self.t0)


def gpu_time(fn, warm=3, reps=10, inner=1):
    """Median milliseconds of one call, by events, the device drained before each sample."""
    import torch
    for _ in range(warm):
        fn()
    torch.cuda.synchronize()
    xs = []
    for _ in range(reps):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        for _ in range(inner):
            fn()
        b.record()
        b.synchronize()
        xs.append(a.elapsed_time(b) / inner)
    return median(xs)


def free_port():
    import socket
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    p = s.getsockname()[1]
    s.close()
    return p


def launch(argv, world, timeout, env=None, log=None):
    """Run argv once a rank, a GPU each. Returns (ok, output of rank 0)."""
    port, procs = free_port(), []
    base = dict(os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(world),
                NCCL_NVLS_ENABLE="0", TORCH_SYMM_MEM_DISABLE_MULTICAST="1", NVSHMEM_DISABLE_NVLS="1",
                PYTHONUNBUFFERED="1", TORCH_NCCL_ASYNC_ERROR_HANDLING="1")
    base.update(env or {})
    for r in range(world):
        e = dict(base, RANK=str(r), LOCAL_RANK=str(r))
        procs.append(subprocess.Popen(argv, env=e, stdout=subprocess.PIPE if r == 0 else subprocess.DEVNULL,
                                      stderr=subprocess.STDOUT if r == 0 else (open(log, "ab") if log else subprocess.DEVNULL),
                                      start_new_session=True))
    end, out, ok = time.time() + timeout, b"", True
    try:
        out, _ = procs[0].communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        ok = False
    for p in procs:
        try:
            p.wait(max(1, min(10, end - time.time())) if ok else 0.1)
        except subprocess.TimeoutExpired:
            ok = False
    for p in procs:
        if p.poll() is None:
            try:
                os.killpg(p.pid, 9)          # only the groups started above
            except OSError:
                pass
        ok = ok and p.returncode in (0, None)
    if not out:
        try:
            out = procs[0].stdout.read()
        except Exception:
            pass
    text = (out or b"").decode(errors="replace")
    if log:
        with open(log, "a") as f:
            f.write(text)
    return ok, text


def table(rows, cols, title=""):
    """Compact fixed-width table of dict rows."""
    if title:
        print(title)
    def f(v):
        return "-" if v is None else ("%.4g" % v if isinstance(v, float) else str(v))
    w = [max(len(c), *(len(f(r.get(c))) for r in rows)) if rows else len(c) for c in cols]
    print(" ".join(c.rjust(n) for c, n in zip(cols, w)))
    for r in rows:
        print(" ".join(f(r.get(c)).rjust(n) for c, n in zip(cols, w)))
    sys.stdout.flush()
