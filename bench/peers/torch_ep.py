#!/usr/bin/env python3
"""Plain expert parallelism in PyTorch, timed: what a good dropless MoE layer does today.  One process a rank, as torchrun starts them:

  torchrun --nproc-per-node 4 bench/peers/torch_ep.py [OPTIONS]
  bench/nodes.sh --per-node 2 -- python3 bench/peers/torch_ep.py [OPTIONS]

  a2a      top-k route, sort by expert, all_to_all of counts, host splits, all_to_all of rows,
           regroup by expert, grouped GEMM + SwiGLU + grouped GEMM, all_to_all back, weighted
           un-permute
  agrs     all_gather of the tokens, local experts on the rows that are theirs, reduce_scatter:
           no host synchronisation, the usual choice for decoding
  graph    agrs as one CUDA graph (one node only)
One MoE layer at the models' real shapes, bf16, random weights; time is the slowest rank's
median, drained before each sample; parts by events.  `floor` is the layer's own lower bound
for that very routing at the rates below: max(FLOPs, weight bytes) on the busiest rank + one copy
a (token, GPU) each way over NVLink.  Rank 0 prints a line "ROW {json}" a case.

--trace reads raw [tokens][layers][k] bytes, meta.json beside it; used for the models whose
expert count and k fit.
"""
import argparse, json, os, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import MODELS, median


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--models", default="olmoe,dsv2l,qwen3")
    ap.add_argument("--tokens", default="64,1024,4096", help="a rank")
    ap.add_argument("--routing", default="", help="besides the trace: uniform, zipf")
    ap.add_argument("--modes", default="a2a,agrs,graph")
    ap.add_argument("--trace")
    ap.add_argument("--layers", default="", help="of the trace (default: the one in the middle)")
    ap.add_argument("--budget", type=float, default=480)
    ap.add_argument("--tflops", type=float, default=790, help="the floor's rates")
    ap.add_argument("--hbm", type=float, default=4.55, help="TB/s")
    ap.add_argument("--peer", type=float, default=450, help="GB/s from GPU to GPU")
    ap.add_argument("--check", action="store_true", help="against every expert computed by itself, up to 256 tokens")
    ap.add_argument("--cpu", action="store_true", help="tiny shapes on gloo: tests this script, not speed")
    return ap.parse_args()


def read_trace(path):
    """(choices [tokens, layers, k], experts, k)"""
    import numpy as np
    with open(os.path.join(os.path.dirname(path), "meta.json")) as f:
        meta = json.load(f)
    return np.fromfile(path, dtype=np.uint8).reshape(-1, meta["layers"], meta["top_k"]), meta["experts"], meta["top_k"]


class Layer:
    """Router, this rank's experts, and the two ways to bring tokens to them."""

    def __init__(s, c, rank, world, dev, torch, dist, seed=0):
        s.c, s.rank, s.P, s.dev, s.torch, s.dist = c, rank, world, dev, torch, dist
        s.El = c["E"] // world
        s.dt = torch.bfloat16 if dev.type == "cuda" else torch.float32
        s.w1 = torch.stack([s.expert(e)[0] for e in range(rank * s.El, (rank + 1) * s.El)])
        s.w2 = torch.stack([s.expert(e)[1] for e in range(rank * s.El, (rank + 1) * s.El)])
        g = torch.Generator(device=dev).manual_seed(99)
        s.wg = (torch.randn(c["E"], c["h"], device=dev, generator=g) * 0.02).to(s.dt)
        F = torch.nn.functional
        s.gmm = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
        if dev.type != "cuda":
            s.gmm = None
        s.ar = {}

    def expert(s, e):
        t = s.torch
        g = t.Generator(device=s.dev).manual_seed(1000 + e)
        h, m = s.c["h"], s.c["m"]
        return ((t.randn(2 * m, h, device=s.dev, generator=g) * h ** -0.5).to(s.dt),
                (t.randn(h, m, device=s.dev, generator=g) * m ** -0.5).to(s.dt))

    def mm(s, x, w, offs):
        """Rows of x grouped by expert (ends in offs) times w[e]^T."""
        if s.gmm:
            return s.gmm(x, w.transpose(-2, -1), offs=offs)
        y, a = s.torch.zeros(x.shape[0], w.shape[1], dtype=x.dtype, device=x.device), 0
        for e, b in enumerate(offs.tolist()):
            if b > a:
                y[a:b] = x[a:b] @ w[e].t()
            a = b
        return y

    def ffn(s, x, offs):
        h = s.mm(x, s.w1, offs)
        return s.mm(swiglu(h, s.torch), s.w2, offs)

    def route(s, x, forced=None):
        t = s.torch
        p = t.softmax((x @ s.wg.t()).float(), -1)
        if forced is None:
            w, i = t.topk(p, s.c["k"], -1)
        else:
            i = forced
            w = p.gather(1, i)
        return (w / w.sum(-1, keepdim=True)).to(x.dtype), i

    # -- dropless all-to-all
    def a2a(s, x, forced, mark):
        t, d, P, El, k, h = s.torch, s.dist, s.P, s.El, s.c["k"], s.c["h"]
        mark(0)
        w, idx = s.route(x, forced)
        flat = idx.reshape(-1)
        order = t.argsort(flat, stable=True)
        xs = x.index_select(0, order // k)
        cnt = t.bincount(flat, minlength=P * El)
        mark(1)
        rcnt = t.empty_like(cnt)
        d.all_to_all_single(rcnt, cnt)                               # [src][local expert]
        both = t.stack([cnt.view(P, El).sum(1), rcnt.view(P, El).sum(1)]).tolist()   # the host must know
        ins, outs = both
        xr = t.empty(sum(outs), h, dtype=x.dtype, device=x.device)
        d.all_to_all_single(xr, xs, outs, ins)
        r = rcnt.view(P, El)
        src_start = t.cumsum(r.reshape(-1), 0) - r.reshape(-1)       # rows arrive as [src][expert]
        rt = r.t().reshape(-1)                                       # wanted as [expert][src]
        n = sum(outs)
        start_t = src_start.view(P, El).t().reshape(-1)
        end_t = t.cumsum(rt, 0)
        pos = t.arange(n, device=x.device)
        seg = t.searchsorted(end_t, pos, right=True)
        perm = start_t[seg] + pos - (end_t[seg] - rt[seg]) if n else pos
        xg = xr.index_select(0, perm)
        offs = t.cumsum(r.sum(0), 0).to(t.int32)
        mark(2)
        yg = s.ffn(xg, offs) if n else xg
        mark(3)
        yr = t.empty_like(yg)
        yr[perm] = yg
        ys = t.empty_like(xs)
        d.all_to_all_single(ys, yr, ins, outs)
        y = t.empty_like(ys)
        y[order] = ys
        out = t.bmm(w.unsqueeze(1), y.view(-1, k, h)).squeeze(1)
        mark(4)
        return out

    # -- all_gather / reduce_scatter
    def agrs(s, x, forced, mark):
        t, d, P, El, k, h = s.torch, s.dist, s.P, s.El, s.c["k"], s.c["h"]
        n = x.shape[0]
        mark(0)
        w, idx = s.route(x, forced)
        mark(1)
        xa = t.empty(P * n, h, dtype=x.dtype, device=x.device)
        wa = t.empty(P * n, k, dtype=w.dtype, device=x.device)
        ia = t.empty(P * n, k, dtype=t.int32, device=x.device)
        s.gather(xa, x)
        s.gather(wa, w.contiguous())
        s.gather(ia, idx.to(t.int32))
        loc = ia - s.rank * El
        mine = (loc >= 0) & (loc < El)
        key = t.where(mine, loc, t.full_like(loc, El)).reshape(-1)
        order = t.argsort(key, stable=True)
        ends = t.searchsorted(key[order].contiguous(), t.arange(El, device=x.device, dtype=key.dtype), right=True).to(t.int32)
        xg = xa.index_select(0, order // k)
        mark(2)
        yg = s.ffn(xg, ends)
        mark(3)
        wf = (wa * mine.to(wa.dtype)).reshape(-1)
        y = t.empty_like(yg)
        y[order] = yg
        y = t.where(mine.reshape(-1, 1), y, t.zeros((), dtype=y.dtype, device=y.device))   # rows never computed
        part = t.bmm(wf.view(-1, 1, k), y.view(-1, k, h)).squeeze(1)
        if x.is_cuda:
            out = t.empty_like(x)
            d.reduce_scatter_tensor(out, part)
        else:
            d.all_reduce(part)
            out = part[s.rank * n:(s.rank + 1) * n]
        mark(4)
        return out

    def gather(s, whole, part):
        if part.is_cuda:
            s.dist.all_gather_into_tensor(whole, part)
        else:
            s.dist.all_gather(list(whole.chunk(s.P)), part)

    def reference(s, x, forced):
        t = s.torch
        w, idx = s.route(x, forced)
        out = t.zeros(x.shape, dtype=t.float32, device=x.device)
        for e in range(s.c["E"]):
            tok, j = (idx == e).nonzero(as_tuple=True)
            if tok.numel():
                a, b = s.expert(e)
                y = swiglu(x[tok] @ a.t(), t) @ b.t()
                out.index_add_(0, tok, y.float() * w[tok, j].float().unsqueeze(1))
        return out


_sw = None


def swiglu(h, t):
    """silu(gate)*up in one pass (Triton where there is one)."""
    global _sw
    if h.device.type == "cuda" and _sw is None:
        try:
            import triton
            import triton.language as tl

            @triton.jit
            def kern(x, y, m, B: tl.constexpr):
                r = tl.program_id(0).to(tl.int64)
                c = tl.program_id(1) * B + tl.arange(0, B)
                ok = c < m
                g = tl.load(x + r * 2 * m + c, mask=ok, other=0.0).to(tl.float32)
                u = tl.load(x + r * 2 * m + m + c, mask=ok, other=0.0).to(tl.float32)
                tl.store(y + r * m + c, (g / (1.0 + tl.exp(-g)) * u).to(y.dtype.element_ty), mask=ok)
            _sw = (triton, kern)
        except Exception:
            _sw = False
    m = h.shape[1] // 2
    if h.device.type == "cuda" and _sw:
        y = t.empty(h.shape[0], m, dtype=h.dtype, device=h.device)
        if h.shape[0]:
            _sw[1][(h.shape[0], _sw[0].cdiv(m, 1024))](h, y, m, B=1024)
        return y
    return t.nn.functional.silu(h[:, :m]) * h[:, m:]


def routing(kind, c, n, rank, world, dev, torch, trace, layer):
    """Expert ids of this rank's n tokens, [n][k] int64."""
    E, k = c["E"], c["k"]
    g = torch.Generator().manual_seed(7 + rank)
    if kind == "uniform":
        s = torch.rand(n, E, generator=g)
    elif kind == "zipf":                      # exponent 1, hot experts at random places, same on all ranks
        gp = torch.Generator().manual_seed(3)
        p = (1.0 / torch.arange(1, E + 1).float())[torch.randperm(E, generator=gp)]
        s = torch.log(p) - torch.log(-torch.log(torch.rand(n, E, generator=g).clamp(1e-9, 1 - 1e-9)))
    else:
        a = trace[0]
        T = a.shape[0]
        rows = [(rank * (T // world) + i) % T for i in range(n)]
        return torch.from_numpy(a[rows, layer].astype("int64")).to(dev)
    return s.topk(k, -1).indices.to(dev)


def bound(a, c, idx, rank, world, torch, dist):
    """Lower bound in ms of this layer for this routing (collective)."""
    E, El, h, m = c["E"], c["E"] // world, c["h"], c["m"]
    cnt = torch.bincount(idx.reshape(-1), minlength=E).to(torch.float32)
    g = idx // El
    need = torch.zeros(idx.shape[0], world, device=idx.device).scatter_(1, g, 1.0)
    sent = need.sum(0)
    send = sent.sum() - sent[rank]
    dist.all_reduce(cnt)
    mine = cnt[rank * El:(rank + 1) * El]
    rows, hit = mine.sum(), (mine > 0).sum()
    recv = sent.clone()
    dist.all_reduce(recv)
    rc = recv[rank] - sent[rank]
    comp = torch.maximum(rows * 6 * h * m / (a.tflops * 1e12), hit * 6 * h * m / (a.hbm * 1e12))
    wire = torch.maximum(send, rc) * 2 * h / (a.peer * 1e9)
    v = torch.stack([comp, wire, rows, hit.float()])
    dist.all_reduce(v, op=dist.ReduceOp.MAX)
    comp, wire, rows, hit = v.tolist()
    return dict(floor_ms=1e3 * (comp + 2 * wire), floor_gemm_ms=1e3 * comp, floor_wire_ms=2e3 * wire,
                max_rows=int(rows), imbalance=rows / (cnt.sum().item() / world), experts_hit=int(hit))


def main():
    a = arguments()
    import torch
    import torch.distributed as dist
    r, P = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local, nodes = int(os.environ["LOCAL_RANK"]), P // int(os.environ["LOCAL_WORLD_SIZE"])
    t0 = time.time()
    if a.cpu:
        dev = torch.device("cpu")
        dist.init_process_group("gloo")
    else:
        torch.cuda.set_device(local)
        dev = torch.device("cuda", local)
        dist.init_process_group("nccl", device_id=dev)
    torch.set_grad_enabled(False)
    trace = read_trace(a.trace) if a.trace else None
    cuda = dev.type == "cuda"
    sync = torch.cuda.synchronize if cuda else (lambda: None)
    flag = torch.zeros(1, device=dev)

    def out_of_time(reserve):
        flag.fill_(1.0 if time.time() - t0 > a.budget - reserve else 0.0)
        dist.all_reduce(flag)
        return flag.item() > 0

    for name in a.models.split(","):
        c = dict(MODELS[name])
        if a.cpu:
            c.update(h=64, m=32)
        layer = Layer(c, r, P, dev, torch, dist)
        kinds = [(k, 0) for k in a.routing.split(",") if k]
        if trace and trace[1] <= c["E"] and trace[2] == c["k"]:
            L = trace[0].shape[1]
            kinds += [("trace", int(x)) for x in (a.layers or str(L // 2)).split(",") if int(x) < L]
        for n in [int(x) for x in a.tokens.split(",")]:
            g = torch.Generator().manual_seed(50 + r)
            x = torch.randn(n, c["h"], generator=g).to(dev).to(layer.dt)
            for kind, li in kinds:
                if out_of_time(15):
                    if r == 0:
                        print("# out of time at %s %d" % (name, n), flush=True)
                    dist.destroy_process_group()
                    return
                idx = routing(kind, c, n, r, P, dev, torch, trace, li)
                info = bound(a, c, idx, r, P, torch, dist)
                for mode in a.modes.split(","):
                    row = dict(model=name, tokens=n, nodes=nodes, routing=kind + (str(li) if kind == "trace" else ""), mode=mode, **info)
                    try:
                        row.update(measure(layer, mode, x, idx, torch, dist, cuda, sync, nodes, a))
                    except Exception as e:
                        row["error"] = (str(e).splitlines() or [type(e).__name__])[0][:140]
                    bad = torch.tensor([1.0 if "error" in row else 0.0], device=dev)
                    dist.all_reduce(bad)
                    if r == 0:
                        print("ROW " + json.dumps(row), flush=True)
        del layer
        if cuda:
            torch.cuda.empty_cache()
    dist.destroy_process_group()


def measure(layer, mode, x, idx, torch, dist, cuda, sync, nodes, a):
    fn = layer.a2a if mode == "a2a" else layer.agrs
    ev = []

    def mark(i):
        if cuda:
            e = torch.cuda.Event(enable_timing=True)
            e.record()
        else:
            e = time.perf_counter()
        ev.append(e)
    out = {}
    if mode == "graph":
        if not cuda:
            return {"error": "no graphs on the CPU"}
        if nodes > 1:
            return {"error": "skipped over sockets"}
        s = torch.cuda.Stream()
        s.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(s):
            for _ in range(3):
                fn(x, idx, lambda i: None)
        torch.cuda.current_stream().wait_stream(s)
        sync()
        g = torch.cuda.CUDAGraph()
        with torch.cuda.graph(g, capture_error_mode="thread_local"):
            y = fn(x, idx, lambda i: None)
        run = g.replay
    else:
        run = lambda: fn(x, idx, mark)
    tiny = torch.zeros(1, device=x.device)
    first, reps = None, 20
    for i in range(4):
        sync()
        dist.all_reduce(tiny)
        sync()
        b = time.perf_counter()
        y0 = run()
        sync()
        first = time.perf_counter() - b
    slow = torch.tensor([first], device=x.device)
    dist.all_reduce(slow, op=dist.ReduceOp.MAX)
    reps = 20 if slow.item() < 0.02 else (8 if slow.item() < 0.1 else 4)
    parts, total, wall = [], [], []
    for _ in range(reps):
        dist.all_reduce(tiny)
        sync()
        ev.clear()
        if cuda:
            e0, e1 = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            w0 = time.perf_counter()
            e0.record()
            run()
            e1.record()
            sync()
            wall.append(1e3 * (time.perf_counter() - w0))
            total.append(e0.elapsed_time(e1))
            if len(ev) == 5:
                parts.append([ev[i].elapsed_time(ev[i + 1]) for i in range(4)])
        else:
            w0 = time.perf_counter()
            run()
            total.append(1e3 * (time.perf_counter() - w0))
            parts.append([1e3 * (ev[i + 1] - ev[i]) for i in range(4)])
    v = [median(total)] + ([median([p[i] for p in parts]) for i in range(4)] if parts else [0.0] * 4)
    v = torch.tensor(v, device=x.device)
    dist.all_reduce(v, op=dist.ReduceOp.MAX)
    v = v.tolist()
    out.update(ms=v[0])
    if parts:
        out.update(route_ms=v[1], dispatch_ms=v[2], gemm_ms=v[3], combine_ms=v[4])
    if a.check and x.shape[0] <= 256:
        got = (y0 if mode != "graph" else y).float()
        ref = layer.reference(x, idx)
        e = torch.stack([((got - ref) ** 2).sum(), (ref ** 2).sum()])
        dist.all_reduce(e)
        out["err"] = (e[0] / e[1]).sqrt().item()
    return out


if __name__ == "__main__":
    main()
