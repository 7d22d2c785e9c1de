#!/usr/bin/env python3
"""The expert part of one layer on one GPU by torch's grouped_mm, and by the Triton fused-MoE
kernel of vLLM where it is installed, or where a module `fmoe_kernel` on PYTHONPATH has it.
  fmoe_bench.py [--tokens 1,16,64,256,1024,4096,16384] [--configs DIR] [--tflops T --hbm TB/s]     $OUT/fmoe.json
Timed: gate-up GEMM, SwiGLU, down GEMM with the routing weight, sum over k.  Not timed: the
sort of the tokens (aligned to blocks here in torch).  Block shapes: the best of a short list
and of the tuned file for the shape, where DIR has one."""
import argparse, glob, json, os, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import MODELS, PEAK_BYTES, PEAK_FLOPS, Record, gpu_time, table

ap = argparse.ArgumentParser()
ap.add_argument("--tokens", default="1,16,64,256,1024,4096,16384")
ap.add_argument("--configs", default="")
ap.add_argument("--budget", type=float, default=240)
ap.add_argument("--tflops", type=float, default=PEAK_FLOPS / 1e12, help="the floor's rates")
ap.add_argument("--hbm", type=float, default=PEAK_BYTES / 1e12)
a = ap.parse_args()
PEAK_FLOPS, PEAK_BYTES = a.tflops * 1e12, a.hbm * 1e12
import torch
import triton
import triton.language as tl


def find_kernel():
    for module in ("vllm.model_executor.layers.fused_moe.fused_moe", "fmoe_kernel"):
        try:
            return __import__(module, fromlist=["fused_moe_kernel"]).fused_moe_kernel
        except Exception:
            pass
    print("no Triton fused-MoE kernel here: grouped_mm alone")


kern = find_kernel()


@triton.jit
def swiglu_kernel(x, y, m, B: tl.constexpr):
    r = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * B + tl.arange(0, B)
    ok = c < m
    g = tl.load(x + r * 2 * m + c, mask=ok, other=0.0).to(tl.float32)
    u = tl.load(x + r * 2 * m + m + c, mask=ok, other=0.0).to(tl.float32)
    tl.store(y + r * m + c, (g / (1.0 + tl.exp(-g)) * u).to(y.dtype.element_ty), mask=ok)


def swiglu(h):
    """silu(gate) * up in one pass."""
    m = h.shape[1] // 2
    y = torch.empty(h.shape[0], m, dtype=h.dtype, device=h.device)
    swiglu_kernel[(h.shape[0], triton.cdiv(m, 1024))](h, y, m, B=1024)
    return y


LIST = [dict(BLOCK_SIZE_M=16, BLOCK_SIZE_N=64, BLOCK_SIZE_K=128, GROUP_SIZE_M=1, num_warps=4, num_stages=3),
        dict(BLOCK_SIZE_M=16, BLOCK_SIZE_N=128, BLOCK_SIZE_K=128, GROUP_SIZE_M=1, num_warps=4, num_stages=3),
        dict(BLOCK_SIZE_M=32, BLOCK_SIZE_N=128, BLOCK_SIZE_K=128, GROUP_SIZE_M=8, num_warps=4, num_stages=3),
        dict(BLOCK_SIZE_M=64, BLOCK_SIZE_N=128, BLOCK_SIZE_K=64, GROUP_SIZE_M=8, num_warps=4, num_stages=4),
        dict(BLOCK_SIZE_M=128, BLOCK_SIZE_N=128, BLOCK_SIZE_K=64, GROUP_SIZE_M=16, num_warps=8, num_stages=3),
        dict(BLOCK_SIZE_M=128, BLOCK_SIZE_N=256, BLOCK_SIZE_K=64, GROUP_SIZE_M=16, num_warps=8, num_stages=4)]


def align(idx, block, E):
    """Token slots sorted by expert, each expert padded to whole blocks."""
    flat = idx.reshape(-1)
    n = flat.numel()
    order = torch.argsort(flat, stable=True)
    cnt = torch.bincount(flat, minlength=E)
    pad = (cnt + block - 1) // block * block
    total = int(pad.sum())
    ids = torch.full((total,), n, dtype=torch.int32, device=idx.device)
    start, pstart = torch.cumsum(cnt, 0) - cnt, torch.cumsum(pad, 0) - pad
    e = flat[order]
    ids[pstart[e] + torch.arange(n, device=idx.device) - start[e]] = order.to(torch.int32)
    blocks = torch.repeat_interleave(torch.arange(E, device=idx.device, dtype=torch.int32), pad // block)
    return ids, blocks, torch.tensor([total], dtype=torch.int32, device=idx.device)


def gemm(x, w, y, tw, al, top_k, mul, cfg):
    ids, blocks, total = al
    N, K = w.shape[1], w.shape[2]
    EM = ids.numel()
    grid = (-(-EM // cfg["BLOCK_SIZE_M"]) * (-(-N // cfg["BLOCK_SIZE_N"])),)
    kern[grid](a_ptr=x, b_ptr=w, c_ptr=y, b_bias_ptr=None, a_scale_ptr=None, b_scale_ptr=None, topk_weights_ptr=tw, sorted_token_ids_ptr=ids,
               expert_ids_ptr=blocks, num_tokens_post_padded_ptr=total, N=N, K=K, EM=EM, num_valid_tokens=tw.numel(), stride_am=x.stride(0),
               stride_ak=1, stride_be=w.stride(0), stride_bk=1, stride_bn=w.stride(1), stride_cm=y.stride(-2), stride_cn=1, stride_asm=0,
               stride_ask=0, stride_bse=0, stride_bsk=0, stride_bsn=0, stride_bbe=0, stride_bbn=0, group_n=0, group_k=0, MUL_ROUTED_WEIGHT=mul,
               top_k=top_k, compute_type=tl.bfloat16, use_fp8_w8a8=False, use_int8_w8a8=False, use_int8_w8a16=False, per_channel_quant=False,
               HAS_BIAS=False, **cfg)


rec = Record("fmoe.json")
gm = getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
for name, c in MODELS.items():
    E, k, h, m = c["E"], c["k"], c["h"], c["m"]
    w1 = torch.randn(E, 2 * m, h, device="cuda", dtype=torch.bfloat16) * h ** -0.5
    w2 = torch.randn(E, h, m, device="cuda", dtype=torch.bfloat16) * m ** -0.5
    tuned = {}
    for f in glob.glob(os.path.join(a.configs, "E=%d,N=%d,*H200*.json" % (E, m))) if a.configs else []:
        tuned = {int(t): v for t, v in json.load(open(f)).items() if t.isdigit()}
    for T in [int(x) for x in a.tokens.split(",")]:
        if rec.left(a.budget) < 10:
            print("out of time")
            break
        row = dict(model=name, tokens=T)
        try:
            x = torch.randn(T, h, device="cuda", dtype=torch.bfloat16)
            idx = torch.rand(T, E, device="cuda").topk(k, -1).indices
            tw = torch.rand(T, k, device="cuda", dtype=torch.float32)
            hit = int((torch.bincount(idx.reshape(-1), minlength=E) > 0).sum())
            row["floor_ms"] = 1e3 * max(T * k * 6.0 * h * m / PEAK_FLOPS, hit * 6.0 * h * m / PEAK_BYTES)
            h1, act = torch.empty(T * k, 2 * m, device="cuda", dtype=torch.bfloat16), None
            y2 = torch.empty(T * k, h, device="cuda", dtype=torch.bfloat16)
            cands = list(LIST) if kern else []
            if tuned and kern:
                cands.append(dict(tuned[min(tuned, key=lambda q: abs(q - T))]))
            best = None
            for cfg in cands:
                if T * k // E < cfg["BLOCK_SIZE_M"] // 8 and cfg["BLOCK_SIZE_M"] > 16:
                    continue
                al = align(idx, cfg["BLOCK_SIZE_M"], E)

                def go(cfg=cfg, al=al):
                    gemm(x, w1, h1, tw, al, k, False, cfg)
                    s = swiglu(h1)
                    gemm(s, w2, y2, tw, al, 1, True, cfg)
                    return y2.view(T, k, h).sum(1)
                try:
                    out = go()
                    ms = gpu_time(go, warm=2, reps=7)
                except Exception as e:
                    row["cfg_error"] = (str(e).splitlines() or ["?"])[0][:80]
                    continue
                if best is None or ms < best[0]:
                    best = (ms, cfg, out)
            if best:
                row.update(triton_ms=best[0], x_triton=best[0] / row["floor_ms"], block="%(BLOCK_SIZE_M)dx%(BLOCK_SIZE_N)dx%(BLOCK_SIZE_K)d" % best[1])
            if gm:
                order = torch.argsort(idx.reshape(-1), stable=True)
                offs = torch.bincount(idx.reshape(-1), minlength=E).cumsum(0).to(torch.int32)
                src, wf = order // k, tw.reshape(-1).to(torch.bfloat16)

                def go2():
                    z = gm(swiglu(gm(x.index_select(0, src), w1.transpose(1, 2), offs=offs)), w2.transpose(1, 2), offs=offs)
                    u = torch.empty_like(z)
                    u[order] = z
                    return torch.bmm(wf.view(T, 1, k), u.view(T, k, h)).squeeze(1)
                ref = go2()
                row["grouped_mm_ms"] = gpu_time(go2, warm=2, reps=7)
                row["x_grouped"] = row["grouped_mm_ms"] / row["floor_ms"]
                if best:
                    row["diff"] = ((best[2].float() - ref.float()).norm() / ref.float().norm()).item()
        except Exception as e:
            row["error"] = (str(e).splitlines() or ["?"])[0][:120]
        rec.add(**row)
table(rec.rows, ["model", "tokens", "floor_ms", "triton_ms", "x_triton", "block", "grouped_mm_ms", "x_grouped", "diff", "cfg_error", "error"],
      "expert part of one layer, one GPU; x = times the floor")
