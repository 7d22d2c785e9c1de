#!/usr/bin/env python3
"""transformers as a peer: whole models at their real sizes with random weights, made on the GPU.

  hf_ep.py [--models olmoe,dsv2l,qwen3] [--workloads i,ii,one] [--impl grouped_mm]
           [--what single,ep,compile] [--gpus 4] [--budget 520] [--reps 2]
  single   one GPU a model (the models side by side on different GPUs), experts_implementation
           as given (grouped_mm, batched_mm, eager)
  ep       all GPUs, transformers' own expert parallelism: DistributedConfig(tp_size=N,
           enable_expert_parallel=True): tokens and attention replicated on every rank, experts
           split, one all-reduce a layer.  Weights come by from_pretrained(None, state_dict={})
           and are then drawn in place; if that path fails, from a sparse (all-hole) checkpoint.
  compile  one GPU, decode with a static cache under torch.compile(mode=reduce-overhead)
Workloads: i = batch 256, prefill 128, decode 16; ii = 512, 64, 32; one = 1, 128, 64.
Greedy decoding of random prompts, token by token, model.forward called directly (no generate()
overhead).  Reports prefill ms, ms a decode step, tokens/s.  Writes $OUT/hf_ep.json.
"""
import argparse, json, os, struct, sys, time, traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import Record, launch, median, out_dir, table

WORK = {"i": (256, 128, 16), "ii": (512, 64, 32), "one": (1, 128, 64)}
CONFIGS = {
    "olmoe": ("OlmoeConfig", "OlmoeForCausalLM", dict(
        vocab_size=50304, hidden_size=2048, intermediate_size=1024, num_hidden_layers=16, num_attention_heads=16,
        num_key_value_heads=16, num_experts=64, num_experts_per_tok=8, norm_topk_prob=False, max_position_embeddings=4096,
        rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False)),
    "dsv2l": ("DeepseekV2Config", "DeepseekV2ForCausalLM", dict(
        vocab_size=102400, hidden_size=2048, intermediate_size=10944, moe_intermediate_size=1408, num_hidden_layers=27,
        num_attention_heads=16, num_key_value_heads=16, n_shared_experts=2, n_routed_experts=64, num_experts_per_tok=6,
        first_k_dense_replace=1, kv_lora_rank=512, q_lora_rank=None, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128,
        routed_scaling_factor=1.0, topk_method="greedy", n_group=1, topk_group=1, norm_topk_prob=False,
        max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=False)),
    "qwen3": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", dict(
        vocab_size=151936, hidden_size=2048, intermediate_size=6144, moe_intermediate_size=768, num_hidden_layers=48,
        num_attention_heads=32, num_key_value_heads=4, head_dim=128, num_experts=128, num_experts_per_tok=8,
        norm_topk_prob=True, decoder_sparse_step=1, max_position_embeddings=4096, rms_norm_eps=1e-6, rope_theta=1000000.0,
        tie_word_embeddings=False, mlp_only_layers=[])),
}
EP_PLAN = {"layers.*.mlp.gate": "ep_router", "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
           "layers.*.mlp.experts.down_proj": "grouped_gemm", "layers.*.mlp.experts": "moe_tp_experts"}


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--models", default="olmoe,dsv2l,qwen3")
    ap.add_argument("--workloads", default="i,ii,one")
    ap.add_argument("--impl", default="grouped_mm")
    ap.add_argument("--what", default="single,ep")
    ap.add_argument("--gpus", type=int, default=0)
    ap.add_argument("--budget", type=float, default=520)
    ap.add_argument("--reps", type=int, default=2)
    ap.add_argument("--layers", type=int, default=0, help="fewer layers, for a quick look")
    ap.add_argument("--worker", choices=["single", "ep", "compile"])
    return ap.parse_args()


def config(name, layers=0):
    import transformers
    c, m, kw = CONFIGS[name]
    kw = dict(kw)
    if layers:
        kw["num_hidden_layers"] = layers
    C, theta = getattr(transformers, c), kw.get("rope_theta")
    tries = [kw, {k: v for k, v in kw.items() if k != "rope_theta"}]
    if theta:
        tries.insert(1, dict(tries[1], rope_parameters={"rope_type": "default", "rope_theta": theta}))
    for i, t in enumerate(tries):
        try:
            cfg = C(**t)
            break
        except Exception:
            if i == len(tries) - 1:
                raise
    cfg.use_cache = True
    return cfg, getattr(transformers, m)


def set_impl(model_or_cfg, impl):
    for x in (model_or_cfg, getattr(model_or_cfg, "config", None)):
        if x is None:
            continue
        try:
            x._experts_implementation = impl
        except Exception:
            pass
    if hasattr(model_or_cfg, "set_experts_implementation"):
        try:
            model_or_cfg.set_experts_implementation(impl)
        except Exception as e:
            print("# set_experts_implementation: %s" % str(e)[:100])


def draw(model, torch):
    """Random weights in place, the same on every rank for what is replicated."""
    import zlib
    n = 0
    for name, p in model.named_parameters():
        q = p.to_local() if hasattr(p, "to_local") else p.data
        if q.is_meta:
            raise RuntimeError("parameter %s still on the meta device" % name)
        if q.dim() < 2:
            q.fill_(1.0)
        else:
            g = torch.Generator(device=q.device).manual_seed(zlib.crc32(name.encode()))
            q.normal_(0.0, 0.02, generator=g)
        n += q.numel()
    return n


def build_single(name, impl, layers, torch):
    cfg, cls = config(name, layers)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = cls._from_config(cfg, dtype=torch.bfloat16, attn_implementation="sdpa", experts_implementation=impl)
    except TypeError:
        with torch.device("meta"):
            model = cls._from_config(cfg, dtype=torch.bfloat16, attn_implementation="sdpa")
    try:                                           # rotary tables are computed, not loaded: make them for real
        model.to_empty(device="cuda")
        for n, mod in model.named_modules():
            if hasattr(mod, "inv_freq"):
                fresh = type(mod)(cfg, device="cuda") if "config" in type(mod).__init__.__code__.co_varnames else type(mod)(cfg)
                for k, b in fresh.named_buffers(recurse=False):
                    getattr(mod, k).copy_(b)
                mod.original_inv_freq = mod.inv_freq
    except Exception as e:
        print("# meta build failed (%s), building on the GPU" % str(e)[:80])
        del model
        with torch.device("cuda"):
            model = cls(cfg)
        model = model.to("cuda", torch.bfloat16)
    torch.set_default_dtype(torch.float32)
    set_impl(model, impl)
    n = draw(model, torch)
    return model.eval(), cfg, n


def sparse_checkpoint(name, layers, torch):
    """A safetensors file of the right names and shapes whose data is one hole: zeros, no disk used."""
    d = "/tmp/hf_sparse_%s" % name
    if os.path.exists(d + "/done"):
        return d
    os.makedirs(d, exist_ok=True)
    cfg, cls = config(name, layers)
    with torch.device("meta"):
        model = cls._from_config(cfg, dtype=torch.bfloat16)
    head, off = {"__metadata__": {"format": "pt"}}, 0

    def put(k, shape):
        nonlocal off
        n = 2
        for s in shape:
            n *= s
        head[k] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [off, off + n]}
        off += n
    for k, v in model.state_dict().items():
        if k.endswith("experts.gate_up_proj"):
            E, two_m, h = v.shape
            for e in range(E):
                for part in ("gate_proj", "up_proj"):
                    put(k.replace("experts.gate_up_proj", "experts.%d.%s.weight" % (e, part)), (two_m // 2, h))
        elif k.endswith("experts.down_proj"):
            E, h, m = v.shape
            for e in range(E):
                put(k.replace("experts.down_proj", "experts.%d.down_proj.weight" % e), (h, m))
        else:
            put(k, v.shape)
    j = json.dumps(head).encode()
    j += b" " * (-len(j) % 8)
    with open(d + "/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(j)) + j)
        f.truncate(8 + len(j) + off)
    cfg.architectures = [cls.__name__]
    cfg.save_pretrained(d)
    open(d + "/done", "w").close()
    return d


def build_ep(name, impl, layers, torch, dist):
    from transformers.distributed.configuration_utils import DistributedConfig
    cfg, cls = config(name, layers)
    if not getattr(cfg, "base_model_ep_plan", None):
        type(cfg).base_model_ep_plan = dict(EP_PLAN)
    world = dist.get_world_size()
    try:
        dc = DistributedConfig(tp_size=world, enable_expert_parallel=True)
    except TypeError:
        dc = DistributedConfig(enable_expert_parallel=True)
    kw = dict(distributed_config=dc, dtype=torch.bfloat16, attn_implementation="sdpa")
    err = []
    for how in ("state_dict={}", "sparse checkpoint"):
        for extra in (dict(experts_implementation=impl), {}):
            try:
                if how == "state_dict={}":
                    model = cls.from_pretrained(None, config=cfg, state_dict={}, **kw, **extra)
                else:
                    if dist.get_rank() == 0:
                        sparse_checkpoint(name, layers, torch)
                    dist.barrier()
                    model = cls.from_pretrained("/tmp/hf_sparse_%s" % name, **kw, **extra)
                set_impl(model, impl)
                return model.eval(), cfg, draw(model, torch), how
            except Exception as e:
                err.append("%s: %s" % (how, (str(e).splitlines() or [type(e).__name__])[0][:160]))
                if os.environ.get("VERBOSE"):
                    traceback.print_exc()
    raise RuntimeError(" / ".join(err))


def run(model, vocab, wl, torch, sync, reps, agree):
    """Prefill and greedy decoding; medians over reps."""
    B, S, D = WORK[wl]
    g = torch.Generator(device="cuda").manual_seed(1)
    ids = torch.randint(0, vocab, (B, S), device="cuda", generator=g)
    pre, dec, firsts = [], [], []
    for rep in range(reps + 1):
        b, d = (B, D) if rep else (B, 2)
        sync()
        t0 = time.perf_counter()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        tok = out.logits[:, -1].argmax(-1, keepdim=True)
        sync()
        t1 = time.perf_counter()
        past = out.past_key_values
        del out
        steps = []
        for i in range(d):
            s0 = time.perf_counter()
            pos = torch.full((1,), S + i, device="cuda", dtype=torch.long)
            try:
                out = model(input_ids=tok, past_key_values=past, use_cache=True, cache_position=pos, logits_to_keep=1)
            except TypeError:
                out = model(input_ids=tok, past_key_values=past, use_cache=True)
            tok = out.logits[:, -1].argmax(-1, keepdim=True)
            past = out.past_key_values
        sync()
        t2 = time.perf_counter()
        if rep:
            pre.append(t1 - t0)
            dec.append((t2 - t1) / d)
        ok = bool(torch.isfinite(out.logits).all())
        del out, past
        torch.cuda.empty_cache()
    p, q = agree(median(pre)), agree(median(dec))
    return dict(prefill_ms=1e3 * p, step_ms=1e3 * q, decode_tok_s=B / q, total_ms=1e3 * (p + D * q),
                tok_s=B * D / (p + D * q), finite=ok, mem_GiB=torch.cuda.max_memory_allocated() / 2**30)


def compiled(model, vocab, wl, torch, sync, cfg):
    from transformers import StaticCache
    B, S, D = WORK[wl]
    cache = StaticCache(config=cfg, max_cache_len=S + D + 8)
    ids = torch.randint(0, vocab, (B, S), device="cuda")
    out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, cache_position=torch.arange(S, device="cuda"))
    tok = out.logits[:, -1].argmax(-1, keepdim=True)

    def one(tok, pos):
        o = model(input_ids=tok, past_key_values=cache, use_cache=True, cache_position=pos, logits_to_keep=1)
        return o.logits[:, -1].argmax(-1, keepdim=True)
    f = torch.compile(one, mode="reduce-overhead", fullgraph=False)
    t0 = time.perf_counter()
    for i in range(4):
        tok = f(tok.clone(), torch.tensor([S + i], device="cuda")).clone()
    sync()
    tc = time.perf_counter() - t0
    steps = D - 4
    t0 = time.perf_counter()
    for i in range(steps):
        tok = f(tok.clone(), torch.tensor([S + 4 + i], device="cuda")).clone()
    sync()
    q = (time.perf_counter() - t0) / steps
    return dict(step_ms=1e3 * q, decode_tok_s=B / q, compile_s=tc)


def worker(a):
    import torch
    torch.set_grad_enabled(False)
    import logging
    logging.getLogger("transformers").setLevel(logging.ERROR)
    import transformers
    rank, world, dist = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")), None
    t0, rows = time.time(), []
    agree = lambda v: v
    if a.worker == "ep":
        import torch.distributed as dist
        local = int(os.environ.get("LOCAL_RANK", rank))
        torch.cuda.set_device(local)
        dist.init_process_group("nccl", device_id=torch.device("cuda", local))

        def agree(v):
            x = torch.tensor([v], device="cuda")
            dist.all_reduce(x, op=dist.ReduceOp.MAX)
            return x.item()
    sync = torch.cuda.synchronize
    for name in a.models.split(","):
        base = dict(model=name, what=a.worker, gpus=world, impl=a.impl, transformers=transformers.__version__)
        if agree(time.time() - t0) > a.budget - 30:
            if rank == 0:
                print("# no time left for %s" % name, flush=True)
            break
        try:
            s = time.time()
            if a.worker == "ep":
                model, cfg, n, how = build_ep(name, a.impl, a.layers, torch, dist)
                base["weights"] = how
            else:
                model, cfg, n = build_single(name, a.impl, a.layers, torch)
            base["params_G"] = n / 1e9
            if rank == 0:
                print("# %s built in %.1f s, %.2f G parameters here" % (name, time.time() - s, n / 1e9), flush=True)
        except Exception as e:
            if rank == 0:
                print("ROW " + json.dumps(dict(base, error=(str(e).splitlines() or [type(e).__name__])[0][:300])), flush=True)
            traceback.print_exc()
            continue
        for wl in a.workloads.split(","):
            if agree(time.time() - t0) > a.budget - 15:
                if rank == 0:
                    print("# no time left for %s %s" % (name, wl), flush=True)
                break
            row = dict(base, wl=wl)
            try:
                torch.cuda.reset_peak_memory_stats()
                if a.worker == "compile":
                    row.update(compiled(model, cfg.vocab_size, wl, torch, sync, cfg))
                else:
                    row.update(run(model, cfg.vocab_size, wl, torch, sync, a.reps, agree))
            except Exception as e:
                row["error"] = (str(e).splitlines() or [type(e).__name__])[0][:300]
                traceback.print_exc()
                torch.cuda.empty_cache()
            if rank == 0:
                print("ROW " + json.dumps(row), flush=True)
        del model
        torch.cuda.empty_cache()
    if dist:
        dist.barrier()
        dist.destroy_process_group()


def main():
    a = arguments()
    if a.worker:
        return worker(a)
    import subprocess, threading
    import torch
    P = a.gpus or min(4, torch.cuda.device_count())
    rec, log = Record("hf_ep.json"), os.path.join(out_dir(), "hf_ep.log")
    me = [sys.executable, os.path.abspath(__file__)]
    common = ["--workloads", a.workloads, "--reps", str(a.reps), "--layers", str(a.layers)]
    env = dict(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="8")

    def take(text):
        for l in text.splitlines():
            if l.startswith("ROW "):
                rec.add(**json.loads(l[4:]))
            elif l.startswith("# "):
                print(l[2:])
    phases = [w for w in a.what.split(",") if w in ("single", "compile")]
    for what in phases:                 # the models side by side, one GPU each, a few at a time
        jobs = [(m, i) for i in a.impl.split(",") for m in a.models.split(",")]
        share = min(rec.left(a.budget) - (180 if "ep" in a.what and P > 1 else 10), 260)
        while jobs and share > 30:
            now, jobs = jobs[:P], jobs[P:]
            ps, t1 = [], time.time()
            for g, (m, i) in enumerate(now):
                e = dict(os.environ, CUDA_VISIBLE_DEVICES=str(g), PYTHONUNBUFFERED="1", **env)
                for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
                    e.pop(k, None)
                ps.append((m, i, subprocess.Popen(me + ["--worker", what, "--models", m, "--impl", i, "--budget", str(share - 5)] + common,
                                                  env=e, stdout=subprocess.PIPE, stderr=open(log, "ab"), start_new_session=True)))
            for m, i, p in ps:
                try:
                    o, _ = p.communicate(timeout=max(5, share - (time.time() - t1)))
                except subprocess.TimeoutExpired:
                    os.killpg(p.pid, 9)
                    o, _ = p.communicate()
                    print("%s %s %s: stopped at its time limit" % (what, m, i))
                take(o.decode(errors="replace"))
            share = min(share, rec.left(a.budget) - (180 if "ep" in a.what and P > 1 else 10))
    if "ep" in a.what.split(",") and P > 1:
        for i in a.impl.split(","):
            left = rec.left(a.budget)
            if left < 40:
                print("ep: no time left")
                break
            ok, text = launch(me + ["--worker", "ep", "--models", a.models, "--impl", i, "--budget", str(left - 15)] + common, P, left, env, log)
            take(text)
            if not ok:
                print("ep: a rank failed or ran out of time: " + " | ".join(text.splitlines()[-3:])[-300:])
    for r in rec.rows:
        if "error" in r:
            print("FAIL %s %s %s: %s" % (r["what"], r["model"], r.get("wl", ""), r["error"]))
    table([r for r in rec.rows if "step_ms" in r],
          ["what", "model", "gpus", "impl", "wl", "prefill_ms", "step_ms", "decode_tok_s", "total_ms", "tok_s", "mem_GiB", "finite", "weights", "compile_s"],
          "transformers, random weights, bf16")


if __name__ == "__main__":
    main()
