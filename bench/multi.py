#!/usr/bin/env python3
"""Several GPUs, everything that is measured on them: whole models, layers, exchanges and the paper's ladder, on one node and on several joined by links,
beside the floor and beside peers.  Standard library only; the peers need PyTorch and transformers.

  ./run bench multi [OPTIONS]                          all of it, most important first; or, in pieces that fit a time limit:
  ./run bench multi --parts rates,engine --budget 60
  ./run bench multi --parts ladder --layouts 2x1 --ladder 256,128,16

Parts, in this order: rates (GPU, GPU to GPU, the link), engine (grace bench gpu: the first of --models), exchange (bench_gpu_exchange), ladder (the rungs of
the paper's Table 1 and ours), layers (one MoE layer at full shape), models (the other models), peers (PyTorch layers, transformers' expert parallelism).
Results go into --output, a JSON file that is rewritten after every row and keeps what other runs put there, and beside it as tables (.md).
docs/multi-bench.md defines every number.
"""
import argparse, json, os, re, shutil, signal, sys, time, traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cluster, floor, gpu, multi_table

ROOT = gpu.ROOT
PARTS = ("rates", "engine", "exchange", "ladder", "layers", "models", "peers")
SMALL = {"tiny-olmoe": (None, "bench/routing/olmoe-small")}     # with weights of its own: to try the driver without a GPU
MODELS = dict(gpu.MODELS, **SMALL)
MEMORY, BALANCE = "1.25", "1.1"     # slots of a rank as a multiple of experts / ranks; auto's bound on loads
RUN_LIMIT_S = 150                   # no single command takes longer, whatever --budget leaves
HUNG_S = 25                         # a command that failed after so long has waited for something

# name, words of grace plan, words of grace bench gpu; --phases and --packed are ours (plan(), run_words()). The first seven are the ladder of
# grace bench ladder; the later ones add to the one before.
AUTO, HSC_TAR = ["--planner", "auto", "--memory", MEMORY, "--balance", BALANCE], ["--exchange", "hsc", "--route", "tar"]
RUNGS = (
    ("contiguous + per-expert", ["--planner", "contiguous"], ["--exchange", "per-expert", "--route", "primary"]),
    ("uniform + flat (Occult)", ["--planner", "uniform"], ["--exchange", "flat", "--route", "primary"]),
    ("uniform + HSC", ["--planner", "uniform"], ["--exchange", "hsc", "--route", "primary"]),
    ("HG + HSC", ["--planner", "grace", "--replication", "none"], ["--exchange", "hsc", "--route", "primary"]),
    ("HG + HSC + FR + WRR", ["--planner", "grace", "--replication", "fixed"], ["--exchange", "hsc", "--route", "wrr"]),
    ("HG + HSC + DR + WRR", ["--planner", "grace", "--replication", "dynamic"], ["--exchange", "hsc", "--route", "wrr"]),
    ("HG + HSC + DR + TAR", ["--planner", "grace", "--replication", "dynamic"], HSC_TAR),
    ("auto", AUTO, HSC_TAR),
    ("auto + phases", AUTO + ["--phases"], HSC_TAR),
    ("auto + phases + packed rows", AUTO + ["--phases"], HSC_TAR + ["--packed"]),
    ("auto + phases + packed rows + homes", AUTO + ["--phases"], HSC_TAR + ["--packed", "--homes", "histogram"]),
)
OURS = ("auto", AUTO, HSC_TAR + ["--packed"])      # of all parts but the ladder; why without --phases: docs/multi-bench.md


def arguments():
    ap = argparse.ArgumentParser(prog="./run bench multi", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--parts", default=",".join(PARTS))
    ap.add_argument("--models", default=",".join(gpu.MODELS), help="folders of models/configs, the most important first; tiny-olmoe to try the driver")
    ap.add_argument("--workloads", default="i", help="of whole models; i: 256 prompts of 128 tokens, 16 steps; ii: 512 of 64, 32; one: 1 of 128, 64")
    ap.add_argument("--layouts", help="NODESxGPUS of a node, e.g. 1x4,2x2,4x1 (default: all GPUs as one node and as two)")
    ap.add_argument("--gpus", type=int, help="GPUs of this machine, or ranks with --device cpu (default: what nvidia-smi lists)")
    ap.add_argument("--rate", default="25gbit", help="of a node's link, each way, as tc writes it")
    ap.add_argument("--burst", help="of its shaper (default: tried, bench/nodes.sh)")
    ap.add_argument("--repeat", type=int, default=3, help="of whole models and rungs")
    ap.add_argument("--ladder", default="256,32,8", metavar="BATCH,PREFILL,DECODE", help="the ladder's workload")
    ap.add_argument("--tokens", default="64,4096,8192", help="a GPU, of the layers part")
    ap.add_argument("--device", default="cuda", help="of the engine; cpu to try the driver")
    ap.add_argument("--launcher", choices=("ranks", "mpirun"), default="ranks",
                    help="how ours starts: as torchrun would (default), or under mpirun (two nodes at most)")
    ap.add_argument("--grace", default="", metavar="OPTIONS", help="further options of grace bench gpu")
    ap.add_argument("--tflops", type=float, help="the floor's rates, instead of measured ones")
    ap.add_argument("--hbm", type=float, help="TB/s")
    ap.add_argument("--budget", type=float, default=3600, metavar="SECONDS", help="start nothing after this, and stop what runs then")
    ap.add_argument("--commit", help="what was built, where this folder is not its checkout")
    ap.add_argument("--build", default="build/release")
    ap.add_argument("-o", "--output", help="default: bench/results/multi.json; with --device cpu out/multi/multi.json")
    a = ap.parse_args()
    for what, known in (("parts", PARTS), ("models", MODELS), ("workloads", gpu.WORKLOADS)):
        setattr(a, what, getattr(a, what).split(","))
        wrong = [w for w in getattr(a, what) if w not in known]
        if wrong:
            ap.error("--%s: expected %s, found %s" % (what, ", ".join(known), ", ".join(wrong)))
    a.output = a.output or ("bench/results/multi.json" if a.device == "cuda" else "out/multi/multi.json")
    if a.gpus is None:
        a.gpus = len([l for l in gpu.output_of(["nvidia-smi", "-L"]).splitlines() if l.startswith("GPU ")])
    if a.gpus < 2 or a.gpus % 2 and not a.layouts:
        ap.error("expected an even number of GPUs, found %d (--gpus; with --device cpu: of ranks)" % a.gpus)
    try:
        a.layouts = [cluster.Layout(l) for l in (a.layouts or "1x%d,2x%d" % (a.gpus, a.gpus // 2)).split(",")]
        a.tokens = [int(t) for t in a.tokens.split(",")]
        batch, prefill, decode = (int(n) for n in a.ladder.split(","))
        a.ladder = (batch, prefill, decode)
    except ValueError as e:
        ap.error(str(e))
    if not re.fullmatch("[0-9.]+[gmk]bit", a.rate):
        ap.error("--rate: expected a rate such as 25gbit, found '%s'" % a.rate)
    if any(l.ranks > a.gpus for l in a.layouts):
        ap.error("--layouts: more ranks than the %d GPUs" % a.gpus)
    if a.launcher == "mpirun" and any(l.nodes > 2 for l in a.layouts):
        ap.error("--launcher mpirun: expected layouts of at most two nodes")
    return a


class Run(gpu.Run):
    """Beside its time limit and origin: the links by number of nodes, their bursts once they are known, and where files made on the way go."""

    def __init__(s, a):
        super().__init__(a)
        s.links = {n: cluster.Link(a.rate, a.burst) for n in sorted({l.nodes for l in a.layouts if l.nodes > 1})}
        s.origin["gpus"] = a.gpus
        s.work = os.path.join(ROOT, "out", "multi")
        os.makedirs(s.work, exist_ok=True)
        s.grace = os.path.join(a.build, "grace")

    def limit(s):
        return max(1, min(RUN_LIMIT_S, s.left() - 2))

    def ranks(s, layout, words, env=None, mpirun=False):
        """(output of rank 0, what went wrong or None, seconds). What ranks say otherwise is kept in out/multi/log.txt."""
        start = time.time()
        out, errors, wrong = cluster.run_ranks(layout, words, s.limit(), s.links.get(layout.nodes), s.a.gpus if s.a.device == "cuda" else 0, env, mpirun)
        with open(os.path.join(s.work, "log.txt"), "a") as f:
            f.write("+ %s: %s\n%s%s\n" % (layout.name, " ".join(words), errors, wrong or ""))
        return out, wrong, round(time.time() - start, 1)

    def engine(s, layout, words):
        """The object that grace bench gpu prints, or its error."""
        mpirun = s.a.launcher == "mpirun"
        if layout.ranks > 1 and not mpirun:
            words = words + ["--nodes", str(layout.nodes)]
        out, wrong, wall = s.ranks(layout, words, mpirun=mpirun)
        row = {"command": " ".join(words), "wall_s": wall}
        try:
            row.update(json.loads(out))
        except ValueError:
            row["error"] = wrong or "no JSON: %s" % out[:200]
        if wrong and "error" not in row:
            row["ended"] = wrong        # measured, but a rank did not end well
            print("%s: %s, after its numbers were there" % (layout.name, wrong), flush=True)
        return row


# ---- files made on the way: recorded routing of as many layers as a model has, plans, a model that is one layer over and over ----

def moe_layers(model):
    c = floor.MODELS.get(MODELS[model][0])
    return c["L"] - c["D"] if c else None


def routing(r, model, alone=False):
    """The model's recording; where that has fewer layers they come in turn, as src/run/trace_gate.c replays them. alone: for layer_model(),
    where no dense layers come before those with experts: a plan says which layers it is for."""
    source = os.path.join(ROOT, MODELS[model][1])
    with open(os.path.join(source, "meta.json")) as f:
        meta = json.load(f)
    wanted, here, k = moe_layers(model), meta["layers"], meta["top_k"]
    if wanted is None:
        return source
    dense = 0 if alone else floor.MODELS[MODELS[model][0]]["D"]
    layer_ids = list(range(dense, dense + wanted))
    if meta["layer_ids"] == layer_ids:
        return source
    target = os.path.join(r.work, "routing", model + "-layer" * alone)
    if not os.path.exists(os.path.join(target, "meta.json")):
        os.makedirs(target, exist_ok=True)
        with open(os.path.join(source, "topk.u8"), "rb") as f:
            ids = f.read()
        token = [ids[i:i + here * k] for i in range(0, len(ids), here * k)]
        with open(os.path.join(target, "topk.u8"), "wb") as f:
            f.write(b"".join((t * (wanted // here + 1))[:wanted * k] for t in token))
        shutil.copy(os.path.join(source, "seqs.csv"), target)
        with open(os.path.join(target, "meta.json"), "w") as f:
            json.dump(dict(meta, layers=wanted, layer_ids=layer_ids), f)
    return target


def rates_file(r, doc, layout):
    """What grace plan --rates reads, of this machine as it was measured."""
    rates = rates_of(r, doc, layout)
    if not rates:
        return None
    path = os.path.join(r.work, "rates.json")
    with open(path, "w") as f:
        json.dump({"grace_rates": 1, "name": "measured here", "cross": {"bytes_per_s": rates.eth, "latency_us": rates.lat_eth * 1e6},
                   "intra": {"bytes_per_s": rates.nvl, "latency_us": 3}, "flop_per_s": rates.flops, "memory_bytes_per_s": rates.hbm, "value_bytes": 2,
                   "dispatch_rounds": 1, "combine_rounds": 1}, f)
    return path


def plan(r, results, trace, layout, words, tokens_a_gpu):
    """(file, what went wrong or None). From the even sequences; what runs has the odd ones."""
    if "--phases" in words:
        rates = rates_file(r, results.doc, layout) or "h200-25g"
        words = [w for w in words if w != "--phases"] + ["--rates", rates, "--decode-tokens", str(tokens_a_gpu)]
    name = "-".join([os.path.basename(trace), layout.name] + [os.path.basename(w).lstrip("-") for w in words]) + ".json"
    path = os.path.join(r.work, "plans", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path) and "--rates" not in words:
        return path, None
    _, wrong = r.run([r.grace, "plan", trace, "--cluster", layout.name, "--train", "even", "-o", path] + words)
    return path, wrong


def layer_model(r, model):
    """A folder with a model that is the MoE layer of `model` over and over, with one attention head and a small vocabulary, so that little else takes time."""
    c = floor.MODELS[MODELS[model][0]]
    folder = os.path.join(r.work, "layers", model)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 128,
                   "hidden_act": "silu", "hidden_size": c["h"], "intermediate_size": c["m"], "max_position_embeddings": 4096, "mlp_only_layers": [],
                   "moe_intermediate_size": c["m"], "norm_topk_prob": True, "num_attention_heads": 1, "num_key_value_heads": 1, "num_experts": c["E"],
                   "num_experts_per_tok": c["k"], "num_hidden_layers": moe_layers(model), "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": None,
                   "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 1024, "bos_token_id": 1, "eos_token_id": 2,
                   "sliding_window": None, "use_sliding_window": False}, f)
    return folder


def layer_shape(model):
    """The same as bench/floor.py names shapes."""
    c = floor.MODELS[MODELS[model][0]]
    return dict({k: c[k] for k in ("h", "E", "k", "m")}, L=moe_layers(model), H=1, KV=1, hd=128, S=0, D=0, dm=0, V=1024)


# ---- floors ----

def link_gbit(r):
    return float(r.a.rate[:-4]) * {"gbit": 1, "mbit": 1e-3, "kbit": 1e-6}[r.a.rate[-4:]]


def rates_of(r, doc, layout):
    known, link = doc.get("rates", {}), doc.get(multi_table.link_name(layout.nodes), {})
    if not r.a.tflops and (known.get("device") != r.origin["device"] or "product_tflops" not in known):
        return None
    tflops, hbm = (r.a.tflops, r.a.hbm) if r.a.tflops else (known["product_tflops"], known["read_tb_s"])
    return floor.Rates(tflops, hbm, known.get("peer_gb_s") or 450, link_gbit(r), lat_eth=link.get("latency_us", 30) * 1e-6)


def add_floors(r, doc, row, model, shape, layout, workload):
    """To prefill and decode: the floor and the multiple of it; of several nodes, what a node's link alone takes, at its line rate, for its mean share of
    the bytes that were counted."""
    rates = rates_of(r, doc, layout)
    if rates and shape:
        hit = [h / layout.ranks for h in gpu.experts_hit(MODELS[model][1], workload, odd=True)]
        w = floor.workload(shape, rates, layout.ranks, layout.nodes, *workload, experts_hit=hit)
        row["floor_rates"] = {"product_tflops": rates.flops / 1e12, "read_tb_s": rates.hbm / 1e12, "peer_gb_s": rates.nvl / 1e9, "link_gbit": rates.eth * 8e-9,
                              "latency_us": rates.lat_eth * 1e6}
        for phase in ("prefill", "decode"):
            if phase in row:
                row[phase].update(floor_ms=w[phase]["serial_ms"], floor_link_ms=w[phase]["eth_ms"], ratio=row[phase]["ms"] / w[phase]["serial_ms"])
    for phase in ("prefill", "decode"):
        counts = row.get(phase, {}).get("counts")
        if layout.nodes > 1 and counts:
            one_way = counts["bytes_wire_cross_node"] / layout.nodes / max(1, counts["steps"] if phase == "decode" else 1)
            link_ms = 8e-6 * one_way / link_gbit(r)
            row[phase].update(link_ms=link_ms, link_ratio=row[phase]["ms"] / link_ms if link_ms else None)


# ---- parts ----

def measure_rates(r, results):
    if r.a.device == "cuda":
        gpu.measure_rates(r, results)
        out, wrong = r.run([sys.executable, "bench/peer_rate.py"])
        if wrong:
            print("rates: %s" % wrong)
        else:
            results.doc.setdefault("rates", dict(r.origin)).update(json.loads(out))
    for nodes, link in r.links.items():
        name = multi_table.link_name(nodes)
        out, wrong = r.run(["bench/nodes.sh", "--test", "--nodes", str(nodes), "--rate", r.a.rate, "--gpus", "0"])
        if wrong:
            print("rates: %s: %s" % (name, wrong))
        if out.startswith("{"):         # also of one that is not shaped as it should be: the tables say so
            results.doc[name] = dict(r.origin, **json.loads(out))
            link.burst = r.a.burst or results.doc[name]["burst"]
    results.write()
    for part in ["rates"] + [multi_table.link_name(n) for n in r.links]:
        print("%s: %s" % (part, json.dumps({k: v for k, v in results.doc.get(part, {}).items() if k not in r.origin})), flush=True)


def bench_words(r, model, workload, repeat):
    folder = os.path.join("models/configs" if model not in SMALL else "models", model)
    return bench_of(r, folder, routing(r, model), workload, repeat) + ([] if model in SMALL else ["--random-weights", "1"])


def bench_of(r, folder, trace, workload, repeat):
    return [r.grace, "bench", "gpu", "-m", folder, "--json", "--device", r.a.device, "--route-trace", trace, "--route-tokens", "odd",
            "--repeat", str(repeat)] + sizes(workload) + r.a.grace.split()


def sizes(workload):
    return ["--batch", str(workload[0]), "--prefill", str(workload[1]), "--decode", str(workload[2])]


def run_words(r, layout, rung):
    """Rows between nodes are packed on GPUs unless they are told not to be."""
    if layout.ranks == 1:
        return []
    plain = r.a.device == "cuda" and layout.nodes > 1 and "--packed" not in rung[2]
    return [w for w in rung[2] if w != "--packed"] + (["--plain-wire"] if plain else [])


def whole_model(r, results, model, layout, name, workload, rung, section, repeat):
    """One row: this rung's plan and options on this layout."""
    row = dict(r.origin, model=model, layout=layout.name, workload=name, rung=rung[0], repeat=repeat)
    words = bench_words(r, model, workload, repeat) + run_words(r, layout, rung)
    if layout.ranks > 1:
        path, wrong = plan(r, results, routing(r, model), layout, rung[1], workload[0] // layout.ranks)
        words += ["--plan", path]
        if wrong:
            row["error"] = "plan: " + wrong
    if "error" not in row:
        row.update(r.engine(layout, words))
        row.update(model=model, moe_layers=moe_layers(model))
        row["stats"] = {k: v for k, v in row.get("stats", {}).items() if k not in ("pair_rows", "load", "dispatch", "combine")}
    add_floors(r, results.doc, row, model, floor.MODELS.get(MODELS[model][0]), layout, workload)
    results.put(section, row, ("model", "layout", "workload", "rung"))
    print(multi_table.line_of(row), flush=True)
    return row


def hung(row, where):
    """What waited once for a rank until its deadline would wait again."""
    if "error" not in row or row.get("wall_s", 0) < HUNG_S:
        return False
    print("%s: took %.0f s to fail: what else would run there is left out" % (where, row["wall_s"]), flush=True)
    return True


def measure_models(r, results, models):
    for model in models:
        for layout in r.a.layouts:
            for name in r.a.workloads:
                if r.left() < 12:
                    return print("engine: no time left for %s %s %s" % (model, layout.name, name))
                if hung(whole_model(r, results, model, layout, name, gpu.WORKLOADS[name], OURS, "engine", r.a.repeat), layout.name):
                    break


def measure_engine(r, results):
    measure_models(r, results, r.a.models[:1])


def measure_other_models(r, results):
    measure_models(r, results, r.a.models[1:])


def measure_exchange(r, results):
    """bench_gpu_exchange, which starts a process a GPU itself: one JSON object a line."""
    program = os.path.join(r.a.build, "bench_gpu_exchange")
    if not os.path.exists(os.path.join(ROOT, program)):
        return print("exchange: %s is not built" % program)
    start = time.time()
    out, wrong = r.run([program], dict(cluster.SAFE, CUDA_VISIBLE_DEVICES=",".join(map(str, range(r.a.gpus)))))
    rows = [dict(json.loads(l), **r.origin) for l in out.splitlines() if l.startswith("{")]
    if wrong:
        print("exchange: %s" % wrong)
    for row in rows:
        results.put("exchange", row, ("gpus", "rows"))
    print("exchange: %d rows in %.1f s" % (len(rows), time.time() - start), flush=True)


def exchange_of(rung):
    return rung[2][rung[2].index("--exchange") + 1]


def measure_ladder(r, results):
    """First the whole model on every rung, then its MoE layers alone. An exchange that hung on a layout is left out there, the others are not."""
    name, model, stuck = "%d x %d + %d" % r.a.ladder, r.a.models[0], set()
    for layout in [l for l in r.a.layouts if l.nodes > 1] or r.a.layouts:
        for rung in RUNGS:
            if "packed" in rung[0] and r.a.device == "cpu":
                continue        # rows of CPUs are not packed
            where = "%s %s" % (layout.name, exchange_of(rung))
            if where in stuck:
                continue
            if r.left() < 12:
                return print("ladder: no time left for %s %s" % (layout.name, rung[0]))
            if hung(whole_model(r, results, model, layout, name, r.a.ladder, rung, "ladder", r.a.repeat), where):
                stuck.add(where)
        for row in results.doc.get("ladder", []):
            if (row["model"], row["layout"], row["workload"]) != (model, layout.name, name) or "error" in row:
                continue
            if MODELS[model][0] is None or r.left() < 12:
                break
            rung = next(rung for rung in RUNGS if rung[0] == row["rung"])
            where = "%s %s" % (layout.name, exchange_of(rung))
            if where in stuck:
                continue
            row["moe_layer"] = one_layer(r, results, layout, model, r.a.ladder[:2] + (1,), "prefill", rung, r.a.repeat)
            results.write()
            print("ladder %s %s: MoE layer %s" % (layout.name, row["rung"], row["moe_layer"].get("error") or "%.4f ms" % row["moe_layer"]["ms"]), flush=True)
            if hung(row["moe_layer"], where):
                stuck.add(where)


def one_layer(r, results, layout, model, workload, phase, rung, repeat, stages=False):
    """The mean time of the model's MoE layers in a model that has little else: each with the routing and the place it has in the whole one."""
    trace = routing(r, model, alone=True)
    path, wrong = plan(r, results, trace, layout, rung[1], workload[0] * (workload[1] if phase == "prefill" else 1) // layout.ranks)
    words = bench_of(r, layer_model(r, model), trace, workload, repeat) + ["--random-weights", "1"] + run_words(r, layout, rung)
    words += ["--plan", path] if layout.ranks > 1 else []
    words += ["--stages"] if stages else []
    got = {"error": "plan: " + wrong} if wrong else r.engine(layout, words)
    row = {k: got[k] for k in ("error", "ended", "command", "wall_s", "exchange", "route") if k in got}
    if "error" not in row:
        add_floors(r, results.doc, got, model, layer_shape(model), layout, workload)
        n, times = moe_layers(model), ("ms", "ms_low", "ms_high", "floor_ms", "floor_link_ms", "link_ms")
        row.update({k: got[phase][k] / n for k in times if k in got[phase]}, phase=phase, layers=n, counts=got[phase]["counts"])
        if "stages" in got[phase]:
            row["stages_ms"] = stages_of(got[phase]["stages"], n)
    return row


def stages_of(timed, n_layers):
    """Milliseconds of a layer by stage, and of the whole run that was timed so: embedding and logits are in that, and are no layer's."""
    share = timed["steps"] * n_layers
    return dict({k: us / 1e3 / share for k, us in timed["time_us"].items() if k != "logits"}, whole=timed["ms"] / share)


def layer_workload(tokens, ranks):
    """Decode steps of few tokens; prefills of many, as prompts of 64. (workload, the phase that counts)"""
    return ((tokens * ranks, 1, 16), "decode") if tokens <= 256 else ((tokens * ranks // 64, 64, 1), "prefill")


def measure_layers(r, results):
    model = r.a.models[0]
    if MODELS[model][0] is None:
        return print("layers: %s has no released shape" % model)
    for layout in r.a.layouts:
        for tokens in r.a.tokens:
            if r.left() < 12:
                return print("layers: no time left for %s %d" % (layout.name, tokens))
            workload, phase = layer_workload(tokens, layout.ranks)
            row = dict(r.origin, model=model, layout=layout.name, tokens=tokens, **one_layer(r, results, layout, model, workload, phase, OURS, 5, stages=True))
            results.put("layers", row, ("model", "layout", "tokens"))
            print("layer %s %s, %d tokens a GPU: %s" % (layout.name, model, tokens, row.get("error") or "%.4f ms" % row["ms"]), flush=True)
            if hung(row, layout.name):
                break


# ---- peers ----

def importable(*modules):
    return bool(gpu.output_of([sys.executable, "-c", "import %s; print('yes')" % ", ".join(modules)]))


def rows_of(text):
    return [json.loads(l[4:]) for l in text.splitlines() if l.startswith("ROW ")]


def peer_rows(r, layout, script, words):
    out, wrong, wall = r.ranks(layout, [sys.executable, os.path.join("bench", "peers", script)] + words,
                               {"OUT": os.path.join(r.work, "peers"), "OMP_NUM_THREADS": "8", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
                                "TOKENIZERS_PARALLELISM": "false"})
    if wrong:
        print("peers: %s on %s: %s" % (script, layout.name, wrong))
    return [dict(row, layout=layout.name, wall_s=wall, **r.origin) for row in rows_of(out)]


def measure_peers(r, results):
    os.makedirs(os.path.join(r.work, "peers"), exist_ok=True)
    if r.a.device != "cuda" or not importable("torch"):
        return print("peers: PyTorch with GPUs is not here")
    for name in ("deep_ep", "tutel"):
        print("peers: %s: skipped, %s" % (name, "bench/peers does not drive it yet" if importable(name) else "it is not installed"))
    names = {known: m for m, (known, _) in MODELS.items() if known}
    known = [MODELS[m][0] for m in r.a.models if MODELS[m][0]]
    for layout in r.a.layouts:
        if layout.ranks == 1 or r.left() < 30:
            continue
        words = ["--models", known[0], "--tokens", ",".join(map(str, r.a.tokens)), "--trace", os.path.join(ROOT, MODELS[names[known[0]]][1], "topk.u8"),
                 "--budget", "%.0f" % min(60, r.left() - 10)]
        rates = rates_of(r, results.doc, layout)
        if rates:
            words += ["--tflops", "%g" % (rates.flops / 1e12), "--hbm", "%g" % (rates.hbm / 1e12), "--peer", "%g" % (rates.nvl / 1e9)]
        for row in peer_rows(r, layout, "torch_ep.py", words):
            results.put("peer_layers", dict(row, model=names[row["model"]]), ("model", "layout", "tokens", "routing", "mode"))
    for layout in r.a.layouts:
        if layout.ranks == 1 or not importable("transformers") or r.left() < 40:
            continue
        words = ["--worker", "ep", "--models", ",".join(known), "--workloads", ",".join(r.a.workloads), "--reps", "1", "--budget", "%.0f" % (r.limit() - 10)]
        for row in peer_rows(r, layout, "hf_ep.py", words):
            if "step_ms" in row:
                row["peer"] = "transformers %s, %s, expert parallel" % (row["transformers"], row["impl"])
            results.put("peer_models", dict(row, model=names[row["model"]], workload=row.get("wl")), ("model", "layout", "workload"))
            print("transformers %s %s: %s" % (layout.name, row["model"], row.get("error") or "prefill %.4g ms, step %.4g ms" % (
                row["prefill_ms"], row["step_ms"])), flush=True)


def measure_part(part, measure, r, results):
    """Whether it went well: what goes wrong in one part costs no other."""
    try:
        measure(r, results)
        return True
    except Exception:
        traceback.print_exc()
        print("%s: failed" % part, flush=True)
        return False


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # by way of `finally`, which ends the ranks
    a = arguments()
    r, results = Run(a), gpu.Results(os.path.abspath(a.output), "grace_multi_bench", multi_table.markdown)
    for nodes, link in r.links.items():
        known = results.doc.get(multi_table.link_name(nodes), {})
        link.burst = link.burst or (known.get("burst") if known.get("rate") == a.rate else None)
    failed = []
    measures = (measure_rates, measure_engine, measure_exchange, measure_ladder, measure_layers, measure_other_models, measure_peers)
    for part, measure in zip(PARTS, measures):
        if part not in a.parts:
            continue
        start = time.time()
        if r.left() < 5:
            print("%s: no time left" % part)
            continue
        if not measure_part(part, measure, r, results):
            failed.append(part)
        print("%s: %.0f s" % (part, time.time() - start), flush=True)
    results.write()
    print("results: %s and .md" % a.output)
    sys.exit("failed: %s" % ", ".join(failed) if failed else 0)


if __name__ == "__main__":
    main()
