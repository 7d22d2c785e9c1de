#!/usr/bin/env python3
"""One GPU, everything that is measured on it: rates, kernels, whole models beside their floor and beside peers.  Standard library only.

  ./run bench gpu [OPTIONS]                 all of it; or, in pieces that fit a time limit:
  ./run bench gpu --parts rates,engine --models olmoe-1b-7b
  ./run bench gpu --parts peers --budget 500

Parts: rates (what the GPU reads and multiplies at most; floors use the last known), kernels (the bench_gpu_* programs that are built), engine
(grace bench gpu with random weights and recorded routing), peers (bench/peers, where PyTorch and transformers are).  Results go into --output, a JSON
file that is rewritten after every row and keeps what other runs put there, and beside it as a table (.md).  Each row has its date, commit and device.
docs/gpu-bench.md says more.
"""
import argparse, csv, datetime, json, os, re, subprocess, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cluster, floor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PARTS = ("rates", "kernels", "engine", "peers")
MODELS = {      # folder of models/configs: name in floor.py and the peers, routing that is replayed
    "olmoe-1b-7b": ("olmoe", "bench/routing/olmoe-small"),
    "deepseek-v2-lite": ("dsv2l", "bench/routing/deepseek-v2-lite"),
    "qwen3-30b-a3b": ("qwen3", "bench/routing/qwen3-small"),
}
WORKLOADS = floor.WORKLOADS     # name: batch, tokens of a prompt, decode steps
KERNELS = ("moe", "attention", "linear", "rows")
KERNEL_ROWS = 60                # of one program in the table


def arguments():
    ap = argparse.ArgumentParser(prog="./run bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--parts", default=",".join(PARTS))
    ap.add_argument("--models", default=",".join(MODELS), help="folders of models/configs")
    ap.add_argument("--workloads", default=",".join(WORKLOADS), help="i: 256 prompts of 128 tokens, 16 steps; ii: 512 of 64, 32; one: 1 of 128, 64")
    ap.add_argument("--device", default="cuda", help="of the engine; cpu to try the driver")
    ap.add_argument("--own-routing", action="store_true", help="let the random routers choose instead of replaying recorded routing")
    ap.add_argument("--repeat", type=int, default=5)
    ap.add_argument("--seed", type=int, default=1, help="of the weights")
    ap.add_argument("--grace", default="", metavar="OPTIONS", help="further options of grace bench gpu, e.g. --grace='--batch-tokens 4096'")
    ap.add_argument("--tflops", type=float, help="the floor's rates, instead of measured ones")
    ap.add_argument("--hbm", type=float, help="TB/s")
    ap.add_argument("--budget", type=float, default=3600, metavar="SECONDS", help="start nothing after this, and stop what runs then")
    ap.add_argument("--commit", help="what was built, where this folder is not its checkout")
    ap.add_argument("--build", default="build/release")
    ap.add_argument("-o", "--output", help="default: bench/results/gpu.json; with --device cpu out/gpu.json")
    a = ap.parse_args()
    for what, known in (("parts", PARTS), ("models", MODELS), ("workloads", WORKLOADS)):
        setattr(a, what, getattr(a, what).split(","))
        wrong = [w for w in getattr(a, what) if w not in known]
        if wrong:
            ap.error("--%s: expected %s, found %s" % (what, ", ".join(known), ", ".join(wrong)))
    if (a.tflops is None) != (a.hbm is None):
        ap.error("--tflops and --hbm go together")
    a.output = a.output or ("bench/results/gpu.json" if a.device == "cuda" else "out/gpu.json")
    return a


# ---- the results file ----

class Results:
    """Rows by a key of some of their members; a new row takes the place of one with the same key."""

    def __init__(s, path, kind="grace_gpu_bench", table=None):
        s.path, s.table, s.doc = path, table or markdown, {kind: 1}
        if os.path.exists(path):
            with open(path) as f:
                s.doc = json.load(f)
            if s.doc.get(kind) != 1:
                sys.exit("%s: expected results of this program" % path)

    def put(s, section, row, key):
        rows = s.doc.setdefault(section, [])
        rows[:] = [r for r in rows if [r.get(k) for k in key] != [row.get(k) for k in key]] + [row]
        s.write()

    def write(s):
        """The numbers first: a table that cannot be made of them loses none."""
        os.makedirs(os.path.dirname(s.path), exist_ok=True)
        replace(s.path, json.dumps(s.doc, indent=1) + "\n")
        replace(os.path.splitext(s.path)[0] + ".md", s.table(s.doc))


def replace(path, text):
    with open(path + ".partial", "w") as f:
        f.write(text)
    os.replace(path + ".partial", path)


def output_of(words):
    try:
        return subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout.decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


class Run:
    """What this call knows: its time limit and where its rows come from."""

    def __init__(s, a):
        s.a, s.end = a, time.time() + a.budget
        head, changed = output_of(["git", "rev-parse", "--short=12", "HEAD"]) or "unknown", output_of(["git", "status", "--porcelain", "-uno"])
        gpu = output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).splitlines()
        s.origin = {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
                    "commit": a.commit or head + ("+" if changed else ""),
                    "device": gpu[0] if gpu and a.device == "cuda" else a.device}

    def left(s):
        return s.end - time.time()

    def limit(s):
        return max(1, s.left())

    def run(s, words, env=None):
        """(output, what went wrong or None). It and what it started end at the limit."""
        print("+ " + " ".join(words), file=sys.stderr, flush=True)
        out, _, wrong = cluster.run([(words, dict(os.environ, **(env or {})))], s.limit())
        return out, wrong


# ---- parts ----

def measure_rates(r, results):
    program = os.path.join(r.a.build, "bench_gpu_rates")
    if not os.path.exists(os.path.join(ROOT, program)):
        return print("rates: %s is not built: it needs nvcc" % program)
    out, wrong = r.run([program])
    lines = [json.loads(l) for l in out.splitlines() if l.startswith("{")]
    if wrong or not lines:
        return print("rates: %s" % (wrong or "no GPU"))
    results.doc["rates"] = dict(r.origin, read_tb_s=lines[0]["read_tb_s"], product_tflops=lines[0]["product_tflops"])
    results.write()


def rates_of(r, doc):
    known = doc.get("rates", {})
    if r.a.tflops:
        return floor.Rates(r.a.tflops, r.a.hbm)
    return floor.Rates(known["product_tflops"], known["read_tb_s"]) if known.get("device") == r.origin["device"] else None


def measure_kernels(r, results):
    for name in KERNELS:
        program = os.path.join(r.a.build, "bench_gpu_" + name)
        if not os.path.exists(os.path.join(ROOT, program)):
            print("kernels: %s is not built" % program)
        elif r.left() > 20:
            out, wrong = r.run([program])
            rows = [dict(json.loads(l), **r.origin) for l in out.splitlines() if l.startswith("{")]
            rows = [row for row in rows if row.get("bench") != "gpu_ceilings"]
            if wrong:
                print("kernels: %s: %s" % (program, wrong))
            if rows:
                results.doc.setdefault("kernels", {})[name] = rows
                results.write()


def experts_hit(folder, workload, odd=False):
    """Different experts that the prefill's rows, and those of a decode step, choose in a layer, on average: the rows take the tokens that
    src/run/trace_gate.c gives them. odd: of the odd sequences only (--route-tokens odd)."""
    with open(os.path.join(ROOT, folder, "meta.json")) as f:
        meta = json.load(f)
    with open(os.path.join(ROOT, folder, "topk.u8"), "rb") as f:
        topk = f.read()
    with open(os.path.join(ROOT, folder, "seqs.csv")) as f:
        sequences = [(int(s["start"]), int(s["tokens"])) for s in csv.DictReader(f)][int(odd)::1 + int(odd)]
    layers, k, (batch, prefill, decode) = meta["layers"], meta["top_k"], workload

    def token(r, position):
        first, n = sequences[r % len(sequences)]
        return first + (int(0.6180339887498949 * n) * (r // len(sequences)) + position) % n

    def mean_hit(tokens):
        return sum(len({e for t in tokens for e in topk[(t * layers + l) * k:(t * layers + l + 1) * k]}) for l in range(layers)) / layers

    steps = [mean_hit({token(r, position) for r in range(batch)}) for position in range(prefill, prefill + decode, 4)]
    return mean_hit({token(r, position) for r in range(batch) for position in range(prefill)}), sum(steps) / len(steps)


def floors(rates, model, workload, hit):
    """Milliseconds of a prefill and of a step."""
    w = floor.workload(floor.MODELS[MODELS[model][0]], rates, 1, 1, *WORKLOADS[workload], experts_hit=hit)
    return w["prefill"]["serial_ms"], w["decode"]["serial_ms"]


def measure_engine(r, results):
    grace = os.path.join(r.a.build, "grace")
    has_device = "--device" in output_of([os.path.join(ROOT, grace), "bench", "gpu", "--help"])
    if r.a.device != "cpu" and not has_device:
        return print("engine: this build has no --device")
    for model in r.a.models:
        for workload in r.a.workloads:
            if r.left() < 30:
                return print("engine: no time left for %s %s" % (model, workload))
            batch, prefill, decode = WORKLOADS[workload]
            words = [grace, "bench", "gpu", "--random-weights", str(r.a.seed), "-m", "models/configs/" + model, "--batch", str(batch), "--prefill",
                     str(prefill), "--decode", str(decode), "--repeat", str(r.a.repeat), "--json"] + r.a.grace.split()
            words += ["--device", r.a.device] if has_device else []
            words += [] if r.a.own_routing else ["--route-trace", MODELS[model][1]]
            out, wrong = r.run(words)
            row = dict(r.origin, model=model, workload=workload, command=" ".join(words))
            row.update({"error": wrong} if wrong else json.loads(out))
            row["model"] = model
            rates, hit = rates_of(r, results.doc), (None, None) if r.a.own_routing else experts_hit(MODELS[model][1], WORKLOADS[workload])
            if rates:
                row["floor_rates"] = {"product_tflops": rates.flops / 1e12, "read_tb_s": rates.hbm / 1e12}
            row["experts_hit"] = {"prefill": hit[0], "decode": hit[1]}
            for phase, ms in zip(("prefill", "decode"), floors(rates, model, workload, hit) if rates else ()):
                if phase in row:
                    row[phase].update(floor_ms=ms, ratio=row[phase]["ms"] / ms)
            results.put("engine", row, ("model", "workload"))
            print(line_of(row), flush=True)


def line_of(row):
    if "error" in row:
        return "%s %s: %s" % (row["model"], row["workload"], row["error"])
    return "%s %s: %s" % (row["model"], row["workload"], "; ".join("%s %s" % (p, cell(row[p])) for p in ("prefill", "decode")))


def measure_peers(r, results):
    if not output_of([sys.executable, "-c", "import torch; print(torch.cuda.is_available() or '')"]):
        return print("peers: PyTorch with a GPU is not here")
    out = os.path.join(ROOT, "out", "peers")
    os.makedirs(out, exist_ok=True)
    names = {known: m for m, (known, _) in MODELS.items()}
    peers = os.path.join("bench", "peers", "")
    rates = rates_of(r, results.doc)
    text, wrong = r.run([sys.executable, peers + "fmoe_bench.py", "--budget", "%.0f" % min(150, r.left() / 3)]
                        + (["--tflops", "%g" % (rates.flops / 1e12), "--hbm", "%g" % (rates.hbm / 1e12)] if rates else []), {"OUT": out})
    print(text if not wrong else "peers: fmoe_bench.py: " + wrong)
    for row in load_rows(out, "fmoe.json"):
        results.put("peer_experts", dict(row, model=names.get(row["model"], row["model"]), **r.origin), ("model", "tokens"))
    if r.left() < 60:
        return print("peers: no time left for transformers")
    text, wrong = r.run([sys.executable, peers + "hf_ep.py", "--what", "single", "--gpus", "1", "--models", ",".join(MODELS[m][0] for m in r.a.models), "--workloads",
                         ",".join(r.a.workloads), "--budget", "%.0f" % (r.left() - 15)], {"OUT": out})
    print(text if not wrong else "peers: hf_ep.py: " + wrong)
    for row in load_rows(out, "hf_ep.json"):
        if "step_ms" not in row:
            continue
        row = dict(row, model=names[row["model"]], workload=row["wl"], peer="transformers %s, %s" % (row["transformers"], row["impl"]), **r.origin)
        results.put("peer_models", row, ("model", "workload", "peer"))


def load_rows(folder, name):
    """And away with it: rows of an earlier call must not come back."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return []
    with open(path) as f:
        rows = json.load(f)
    os.remove(path)
    return rows


# ---- the table ----

def cell(phase):
    if not phase:
        return ""
    return "%.4g ms" % phase["ms"] + (" (%.2f)" % phase["ratio"] if "ratio" in phase else "")


def peer_cell(rows, key, floor_ms):
    if not rows or key not in rows[0]:
        return ""
    ms = rows[0][key]
    return "%.4g ms" % ms + (" (%.2f)" % (ms / floor_ms) if floor_ms else "")


def engine_table(doc):
    lines = ["## Whole models", "", "Milliseconds and, in parentheses, the multiple of the floor (bench/floor.py at the rates above, experts as the routing hits them).", "",
             "| model | workload | prefill | transformers | decode step | transformers | decode tokens/s |", "|---|---|---|---|---|---|---|"]
    for row in doc["engine"]:
        peers = [p for p in doc.get("peer_models", []) if (p["model"], p["workload"]) == (row["model"], row["workload"])]
        pre, dec = row.get("prefill", {}), row.get("decode", {})
        lines.append("| %s | %s | %s | %s | %s | %s | %s |" % (
            row["model"], "%s: %d x %d + %d" % ((row["workload"],) + tuple(WORKLOADS[row["workload"]])), cell(pre) or row.get("error", ""),
            peer_cell(peers, "prefill_ms", pre.get("floor_ms")), cell(dec), peer_cell(peers, "step_ms", dec.get("floor_ms")),
            "%.0f" % dec["tokens_s"] if dec else ""))
    marks = sorted({"%s: %s" % (row["model"], "; ".join(row[k] for k in ("weights", "routing") if k in row)) for row in doc["engine"] if "error" not in row})
    peers = sorted({p["peer"] for p in doc.get("peer_models", [])})
    return lines + [""] + ["- " + m for m in marks] + (["- peers: %s, random weights, routing of its own" % ", ".join(peers)] if peers else []) + [""]


def is_case(key, value):
    return not isinstance(value, float) and not re.search("_us$|_tflops$|_ms$", key) and key not in ("us", "bench", "date", "commit", "device", "tflops")


def time_of(row):
    return next((row[k] for k in ("median_us", "run_us", "us") if k in row), None)


def kernel_tables(doc):
    lines = ["## Kernels", ""]
    for name, rows in doc["kernels"].items():
        timed = [r for r in rows if time_of(r) is not None]
        if not timed:
            continue
        lines += ["**%s**" % name, "", "| case | us | floor us | ratio | rate |", "|---|---|---|---|---|"]
        for r in timed[:KERNEL_ROWS]:
            case = ", ".join(str(v) if isinstance(v, str) else "%s %s" % (k, v) for k, v in r.items() if is_case(k, v))
            rate = ", ".join("%.3g %s" % (r[k], unit) for k, unit in (("tflops", "TFLOP/s"), ("tb_s", "TB/s")) if k in r)
            lines.append("| %s | %.1f | %s | %s | %s |" % (case, time_of(r), "%.1f" % r["floor_us"] if "floor_us" in r else "",
                                                     "%.2f" % r["ratio"] if "ratio" in r else "", rate))
        lines += ["", "%d more are in the JSON file." % (len(timed) - KERNEL_ROWS), ""] if len(timed) > KERNEL_ROWS else [""]
    return lines


def peer_experts_table(doc):
    lines = ["## The expert part of one layer by others", "", "| model | tokens | floor ms | Triton fused MoE | torch grouped_mm |", "|---|---|---|---|---|"]
    for r in doc["peer_experts"]:
        both = ["%.3f ms (%.2f)" % (r[ms], r[x]) if ms in r else "" for ms, x in (("triton_ms", "x_triton"), ("grouped_mm_ms", "x_grouped"))]
        lines.append("| %s | %d | %.3f | %s | %s |" % (r["model"], r["tokens"], r["floor_ms"], both[0], both[1]))
    return lines + [""]


def origins(doc):
    rows = doc.get("engine", []) + doc.get("peer_models", []) + doc.get("peer_experts", []) + [r for k in doc.get("kernels", {}).values() for r in k]
    return sorted({"%s, commit %s, %s" % (r["device"], r["commit"], r["date"]) for r in rows})


def markdown(doc):
    lines = ["# One GPU", "", "Written by `./run bench gpu` (docs/gpu-bench.md); every row of the JSON file beside this one has its command.", ""]
    if "rates" in doc:
        lines += ["Measured rates of %s: %.2f TB/s read, %.0f TFLOP/s in bf16." % (doc["rates"]["device"], doc["rates"]["read_tb_s"],
                                                                              doc["rates"]["product_tflops"]), ""]
    if "engine" in doc:
        lines += engine_table(doc)
    if "kernels" in doc:
        lines += kernel_tables(doc)
    if "peer_experts" in doc:
        lines += peer_experts_table(doc)
    return "\n".join(lines + ["Made on:", ""] + ["- " + o for o in origins(doc)]) + "\n"


def main():
    a = arguments()
    r, results = Run(a), Results(os.path.abspath(a.output))
    for part, measure in zip(PARTS, (measure_rates, measure_kernels, measure_engine, measure_peers)):
        if part not in a.parts:
            continue
        if r.left() < 5:
            print("%s: no time left" % part)
        else:
            measure(r, results)
    results.write()
    print("results: %s and .md" % a.output)


if __name__ == "__main__":
    main()
