"""bench/multi.py, cluster.py, multi_table.py: ranks and their environment, failures and time limits, files made on the way, tables; and, with grace as the first
argument, the driver from end to end on two ranks of a CPU."""
import io, json, os, sys, tempfile, time, unittest
from contextlib import redirect_stderr, redirect_stdout

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "bench"))
import cluster, floor, gpu, multi, multi_table

GRACE = sys.argv.pop(1) if len(sys.argv) > 1 and os.path.basename(sys.argv[1]) == "grace" else None
ORIGIN = {"date": "today", "commit": "abc", "device": "G", "gpus": 2}


def python(code):
    return [sys.executable, "-c", "import os, sys, time; r = int(os.environ.get('RANK', 0)); " + code]


class Ranks(unittest.TestCase):
    def test_rank_0_is_heard_and_every_rank_finds_its_place(self):
        line = "' '.join([str(r)] + [os.environ[name] for name in ('WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR')])"
        code = f"os.write(2 if r else 1, ({line} + chr(10)).encode())"  # a line in one write: the ranks share a pipe, print() writes word by word
        out, errors, wrong = cluster.run_ranks(cluster.Layout("1x3"), python(code), 30)
        self.assertEqual((out, wrong), ("0 3 0 127.0.0.1\n", None))
        self.assertEqual(sorted(errors.splitlines()), ["1 3 1 127.0.0.1", "2 3 2 127.0.0.1"])

    def test_one_rank_is_no_job(self):
        self.assertEqual(cluster.run_ranks(cluster.Layout("1x1"), python("print('RANK' in os.environ)"), 30)[0], "False\n")

    def test_the_first_failure_is_told_with_its_words_and_ends_the_others(self):
        kept, cluster.PATIENCE_S = cluster.PATIENCE_S, 0.2
        start = time.time()
        out, _, wrong = cluster.run_ranks(cluster.Layout("1x2"), python("sys.exit('no memory') if r == 1 else time.sleep(60)"), 50)
        cluster.PATIENCE_S = kept
        self.assertEqual((out, wrong), ("", "exit code 1: no memory"))
        self.assertLess(time.time() - start, 30)

    def test_a_cause_is_told_before_warnings_and_traces_of_calls(self):
        text = "nodes: 2 nodes\n[r0/4] warning: slow\nTraceback (most recent call last):\n  File x\n[rank1]: RuntimeError: out of memory\nlast\n"
        self.assertEqual(cluster.telling(text), "RuntimeError: out of memory")
        self.assertEqual((cluster.telling("a warning\n"), cluster.telling("nodes: 2 nodes\n")), ("a warning", ""))

    def test_ranks_that_hang_are_ended_at_the_limit(self):
        self.assertEqual(cluster.run_ranks(cluster.Layout("1x2"), python("time.sleep(60)"), 0.3)[2], "stopped at its time limit of 0 s")

    def test_layouts_that_are_none(self):
        for text in ("2", "0x1", "1x0", "x2", "1x", "ax2", "2x-1"):
            with self.assertRaises(ValueError):
                cluster.Layout(text)


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()

    def tearDown(self):
        self.folder.cleanup()

    def test_layers_of_a_recording_come_in_turn_where_the_model_has_more(self):
        class Run:
            work = self.folder.name
        made, source = multi.routing(Run, "olmoe-1b-7b"), os.path.join(ROOT, multi.MODELS["olmoe-1b-7b"][1])
        ids, meta = [], []
        for path in (made, source):
            with open(os.path.join(path, "topk.u8"), "rb") as f:
                ids.append(f.read())
            with open(os.path.join(path, "meta.json")) as f:
                meta.append(json.load(f))
        self.assertEqual((meta[0]["layers"], meta[1]["layers"]), (16, 8))
        self.assertEqual(meta[0]["layer_ids"], list(range(16)))
        half = meta[1]["layers"] * meta[1]["top_k"]
        for token in (0, 1, meta[1]["tokens"] - 1):
            self.assertEqual(ids[0][token * 2 * half:(token + 1) * 2 * half], 2 * ids[1][token * half:(token + 1) * half])

    def test_a_recording_with_the_models_layers_is_taken_as_it_is(self):
        self.assertEqual(multi.routing(None, "deepseek-v2-lite"), os.path.join(ROOT, "bench/routing/deepseek-v2-lite"))

    def test_a_model_of_one_layer_over_and_over_has_no_dense_layer_before_it(self):
        class Run:
            work = self.folder.name
        for alone, first in ((False, 1), (True, 0)):
            path = multi.routing(Run, "deepseek-v2-lite", alone)
            with open(os.path.join(path, "meta.json")) as f:
                self.assertEqual(json.load(f)["layer_ids"], list(range(first, first + 26)))
            with open(os.path.join(path, "topk.u8"), "rb") as made, open(os.path.join(ROOT, "bench/routing/deepseek-v2-lite/topk.u8"), "rb") as source:
                self.assertEqual(made.read(), source.read())


def phase(ms, cross, steps=1):
    counts = {"rows_cross_node": cross, "bytes_wire_cross_node": 4096 * cross, "rows_intra_node": 10, "idle_pairs": 5, "steps": steps,
              "time_us": {"dispatch": 1000.0, "combine": 1000.0}}
    return {"ms": ms, "ms_low": ms, "ms_high": ms, "tokens_s": 1.0, "counts": counts, "link_ms": ms / 2, "link_ratio": 2.0}


def row(rung, prefill_ms, step_ms, cross):
    return dict(ORIGIN, model="m", layout="2x1", workload="w", rung=rung, prefill=phase(prefill_ms, cross), decode=phase(step_ms, cross, 4), decode_tokens=4,
                stats={"load_std": 3.0})


class Tables(unittest.TestCase):
    def test_a_ladder_is_compared_with_its_two_bases(self):
        doc = {"ladder": [row("contiguous + per-expert", 60.0, 5.0, 400), row("uniform + flat (Occult)", 30.0, 2.5, 100), row("auto", 16.0, 1.0, 50),
                          dict(row("auto + homes", 1.0, 1.0, 1), error="refused")]}
        text = multi_table.markdown(doc)
        for part in ("| auto | 16 | 1 | 20 | 2.00 | 4.00 |", "| 100 -50.0 % |", "| auto + homes | refused |", "2 x G, commit abc, today",
                     "| uniform + flat over auto, end to end: m, 2x1, w | 1.45 | 2.00 |", "| contiguous + per-expert over auto, end to end: m, 2x1, w | 4.66 | 4.00 |"):
            self.assertIn(part, text)

    def test_models_stand_beside_the_peer_of_their_layout(self):
        doc = {"engine": [row("auto", 16.0, 1.0, 50), dict(ORIGIN, model="m", layout="1x2", workload="w", rung="auto", error="no memory")],
               "peer_models": [dict(ORIGIN, model="m", layout="2x1", workload="w", prefill_ms=32.0, step_ms=4.0)]}
        text = multi_table.markdown(doc)
        for part in ("| m | 2x1 | w | 16 ms [16, 16] | 8 | 32 ms (2.0 x ours) | 1 ms [1, 1] | 0.5 | 4 ms (4.0 x ours) |", "| m | 1x2 | w | no memory |",
                     "| transformers over ours, end to end: m, 2x1, w | 1 | 2.40 |", "| prefill over its bytes at line rate: m, 2x1, w | 1.15 | 2.00 |"):
            self.assertIn(part, text)

    def test_a_layer_stands_beside_pytorch_on_recorded_routing(self):
        layer = dict(ORIGIN, model="m", layout="2x1", tokens=8192, ms=10.0, ms_low=9.0, ms_high=11.0, floor_ms=8.0)
        peer = dict(ORIGIN, model="m", layout="2x1", tokens=8192, routing="trace4", mode="a2a", ms=60.0, floor_ms=8.0)
        timed = {"steps": 4, "ms": 88.0, "time_us": dict(attention=8000.0, gate=4000.0, route=0.0, dispatch=16000.0, experts=40000.0, combine=12000.0, logits=9e3)}
        layer["stages_ms"] = multi.stages_of(timed, 2)
        text = multi_table.markdown({"layers": [layer], "peer_layers": [peer, dict(peer, mode="graph", error="skipped", ms=None)][:1]})
        self.assertIn("| m | 2x1 | 8192 | 1 | 0.5 | 2 | 5 | 1.5 | 11 |", text)
        self.assertIn("| m | 2x1 | 8192 | 10.0000 ms [9.0000, 11.0000] (1.25) | 8 |  | 60 ms (6.0 x ours) |", text)
        self.assertIn("| PyTorch's all-to-all over MoE layer: m, 2x1, 8192 tokens a GPU | 5 | 6.00 |", text)


    def test_exchanges_are_listed_and_two_of_them_were_aimed_at(self):
        text = multi_table.markdown({"exchange": [dict(ORIGIN, gpus=g, rows=n, us=12.5, gb_s=333.0) for g in (2, 4) for n in (16, 64, 4096)]})
        for part in ("| 2 | 16 | 12.5 | 333 |", "| 4 | 16 | 12.5 | 333 |", "4 GPUs, 64 rows each, us | 20 | 12.5 |", "| 300 | 333 |"):
            self.assertIn(part, text)


class Floors(unittest.TestCase):
    def test_a_layer_alone_takes_less_than_a_layer_of_its_model(self):
        rates = floor.Rates()
        for model in gpu.MODELS:
            c = floor.MODELS[gpu.MODELS[model][0]]
            alone, whole = (floor.workload(shape, rates, 2, 1, 128, 64, 1)["prefill"]["serial_ms"] for shape in (multi.layer_shape(model), c))
            self.assertLess(alone, whole)
            self.assertGreater(alone, floor.workload(c, rates, 2, 1, 128, 64, 1)["prefill"]["nvl_ms"])


class Driver(unittest.TestCase):
    """All parts on four GPUs, with programs that answer at once: which are started, what is kept when some of them fail."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.started, self.kept = [], (cluster.run, multi.ROOT, gpu.ROOT, sys.argv)
        self.path, build = (os.path.join(self.folder.name, n) for n in ("multi.json", "build"))
        multi.ROOT = self.folder.name           # files made on the way
        os.symlink(os.path.join(ROOT, "bench"), os.path.join(self.folder.name, "bench"))
        os.mkdir(build)
        for program in ("bench_gpu_rates", "bench_gpu_exchange"):
            open(os.path.join(build, program), "w").close()
        sys.argv = ["multi.py", "--gpus", "4", "--build", build, "-o", self.path, "--burst", "128kb"]
        cluster.run = self.answer
        self.wrong = lambda words: None

    def tearDown(self):
        cluster.run, multi.ROOT, gpu.ROOT, sys.argv = self.kept
        self.folder.cleanup()

    def answer(self, starts, limit_s):
        words, env = starts[0]
        self.started.append((words, env, len(starts), limit_s))
        said = {"bench_gpu_rates": {"read_tb_s": 3.0, "product_tflops": 700.0}, "peer_rate.py": {"peer_gb_s": 390.0, "direct": True},
                "bench_gpu_exchange": {"rows": 64, "us": 20.0, "gb_s": 1.0, "gpus": 4},
                "nodes.sh": {"rate": "25gbit", "burst": "256kb", "gbit_s": 23.9, "of_rate": 1.0, "latency_us": 10.0, "mib_us": 334.0, "mib_us_at_rate": 335.5,
                             "shaped": True}}
        wrong = self.wrong(words)
        if wrong:
            return "", wrong, wrong
        for name, line in said.items():
            if words[-1].endswith(name) or words[0].endswith(name) and "--test" in words:
                if "--nodes" in words:
                    line = dict(line, latency_us=10.0 if words[words.index("--nodes") + 1] == "2" else 40.0)
                return json.dumps(line) + "\n", "", None
        if "plan" in words:
            return "", "", None
        stages = {k: 1.0 for k in ("attention", "gate", "dispatch", "experts", "combine", "logits")}
        timed = dict(phase(8.0, 100, 4), stages={"steps": 4, "ms": 9.0, "time_us": stages} if "--stages" in words else None)
        timed = {k: v for k, v in timed.items() if v}
        return json.dumps({"prefill": timed, "decode": timed, "decode_tokens": 4, "stats": {"load_std": 1.0}}), "", None

    def main(self):
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()), self.assertRaises(SystemExit) as ended:
            multi.main()
        with open(self.path) as f:
            return json.load(f), out.getvalue(), ended.exception.code

    def runs(self):
        """(words before grace's own, its words, environment, how many processes)"""
        return [(w[:w.index("--")] if "--" in w else [], w, env, n) for w, env, n, _ in self.started if "bench" in w and "gpu" in w]

    def test_every_part_runs_as_one_node_and_as_two_of_two_gpus_each(self):
        doc, _, code = self.main()
        self.assertEqual(code, 0)
        self.assertEqual({(r["model"], r["layout"]) for r in doc["engine"]}, {(m, l) for m in gpu.MODELS for l in ("1x4", "2x2")})
        self.assertEqual([(r["layout"], r["rung"], r["moe_layer"]["phase"]) for r in doc["ladder"]], [("2x2", rung[0], "prefill") for rung in multi.RUNGS])
        self.assertEqual({(r["layout"], r["tokens"]) for r in doc["layers"]}, {(l, t) for l in ("1x4", "2x2") for t in (64, 4096, 8192)})
        self.assertEqual([(r["gpus"], r["rows"]) for r in doc["exchange"]], [(4, 64)])
        for nodes, words, env, n in self.runs():
            layout = words[words.index("--nodes") + 1] + "x%d" % (2 if nodes else 4)
            self.assertIn(layout, ("1x4", "2x2"))
            self.assertIn("-%s-" % layout, words[words.index("--plan") + 1])
            if nodes:                           # a half of the GPUs each: bench/nodes.sh
                self.assertEqual(nodes[1:], ["--nodes", "2", "--per-node", "2", "--gpus", "4", "--patience", "20", "--rate", "25gbit", "--burst", "128kb"])
            else:                               # a process a GPU, and all see all of them
                self.assertEqual((n, env["WORLD_SIZE"], "CUDA_VISIBLE_DEVICES" in env), (4, "4", "CUDA_VISIBLE_DEVICES" in os.environ))
        self.assertTrue(all(limit <= multi.RUN_LIMIT_S for _, _, _, limit in self.started))

    def test_four_nodes_have_a_link_of_their_own_and_a_quarter_of_the_bytes_each(self):
        sys.argv += ["--layouts", "4x1,2x2", "--parts", "rates,engine,ladder"]
        doc, _, code = self.main()
        self.assertEqual((code, doc["link"]["latency_us"], doc["link_of_4_nodes"]["latency_us"]), (0, 10.0, 40.0))
        self.assertEqual({r["layout"] for r in doc["ladder"]}, {"2x2", "4x1"})
        for nodes, words, _, _ in self.runs():
            n = words[len(words) - words[::-1].index("--nodes")]      # of grace
            self.assertEqual(nodes[1:5], ["--nodes", n, "--per-node", str(4 // int(n))])
            self.assertIn("-%sx%d-" % (n, 4 // int(n)), words[words.index("--plan") + 1])
        for r in doc["engine"]:
            n = int(r["layout"][0])
            for name, steps in (("prefill", 1), ("decode", 4)):
                self.assertAlmostEqual(r[name]["link_ms"], 100 * 4096 / n / steps / (25e9 / 8) * 1e3)
            aimed = dict(row[::2] for row in multi_table.models_aimed({"engine": [r], "link": doc["link"], "link_of_4_nodes": doc["link_of_4_nodes"]}))
            least = r["decode"]["link_ms"] + 2 * r["moe_layers"] * {2: 0.01, 4: 0.04}[n]
            self.assertEqual(aimed["decode step over its bytes and 2 latencies a layer: %s, %s, i" % (r["model"], r["layout"])], "%.2f" % (8.0 / least))
        with open(self.path[:-4] + "md") as f:
            self.assertIn("- link of 4 nodes: 25gbit, burst 256kb: ", f.read())

    def test_layouts_that_cannot_be_started(self):
        for words in (["--layouts", "5x1"], ["--layouts", "4x1", "--launcher", "mpirun"], ["--gpus", "3"]):
            with redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit):
                sys.argv, kept = sys.argv + words, sys.argv
                try:
                    multi.arguments()
                finally:
                    sys.argv = kept
            self.assertIn("expected" if words[-1] != "5x1" else "more ranks than the 4 GPUs", said.getvalue())
        sys.argv += ["--gpus", "3", "--layouts", "3x1"]
        self.assertEqual([l.ranks for l in multi.arguments().layouts], [3])

    def test_floors_are_those_of_four_gpus(self):
        doc, _, _ = self.main()
        for r in doc["engine"]:
            nodes = int(r["layout"][0])
            rates = floor.Rates(700.0, 3.0, 390.0, 25.0)
            hit = [h / 4 for h in gpu.experts_hit(multi.MODELS[r["model"]][1], gpu.WORKLOADS["i"], odd=True)]
            w = floor.workload(floor.MODELS[multi.MODELS[r["model"]][0]], rates, 4, nodes, *gpu.WORKLOADS["i"], experts_hit=hit)
            self.assertAlmostEqual(r["decode"]["floor_ms"], w["decode"]["serial_ms"])
            self.assertEqual("link_ratio" in r["prefill"] and r["prefill"]["link_ms"] != 4.0, nodes == 2)
        with open(self.path[:-4] + "md") as f:
            self.assertIn("MoE layer over its floor: olmoe-1b-7b, 1x4, 64 tokens a GPU | 2.0 |", f.read())

    def test_what_fails_is_kept_beside_what_does_not(self):
        self.wrong = lambda words: "exit code 1: no memory" if "--nodes" in words and words[words.index("--nodes") + 1] == "2" else None
        doc, _, code = self.main()
        self.assertEqual(code, 0)
        for r in doc["engine"] + doc["layers"]:
            self.assertEqual(r.get("error"), "exit code 1: no memory" if r["layout"] == "2x2" else None)
        self.assertEqual({r["error"] for r in doc["ladder"]}, {"exit code 1: no memory"})

    def test_without_rates_there_are_times_without_floors(self):
        self.wrong = lambda words: "no GPU" if words[-1].endswith("bench_gpu_rates") else None
        doc, _, code = self.main()
        self.assertEqual((code, {r["decode"].get("floor_ms") for r in doc["engine"]}), (0, {None}))

    def test_an_exchange_that_hangs_costs_its_own_rungs_alone(self):
        self.wrong = lambda words: "stopped at its time limit of 150 s" if "flat" in words else None
        kept, multi.HUNG_S = multi.HUNG_S, 0
        doc, out, _ = self.main()
        multi.HUNG_S = kept
        self.assertEqual([r["rung"] for r in doc["ladder"] if "error" in r], ["uniform + flat (Occult)"])
        self.assertEqual(len(doc["ladder"]), len(multi.RUNGS))
        self.assertIn("2x2 flat: took 0 s to fail", out)

    def test_a_part_that_breaks_costs_no_other_and_a_later_call_adds_to_what_is_there(self):
        sys.argv += ["--parts", "rates,exchange,layers", "--layouts", "1x4"]
        kept, multi.layer_model = multi.layer_model, None
        doc, out, code = self.main()
        multi.layer_model = kept
        self.assertEqual((code, "layers" in doc, len(doc["exchange"])), ("failed: layers", False, 1))
        sys.argv[-3] = "layers"
        doc, _, code = self.main()
        self.assertEqual((code, len(doc["layers"]), len(doc["exchange"]), "floor_ms" in doc["layers"][0]), (0, 3, 1, True))


@unittest.skipUnless(GRACE, "grace is not named")
class Whole(unittest.TestCase):
    def test_two_ranks_from_end_to_end(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "multi.json")
            words = [sys.executable, os.path.join(ROOT, "bench", "multi.py"), "--device", "cpu", "--gpus", "2", "--layouts", "1x2", "--models", "tiny-olmoe", "--repeat", "1",
                     "--ladder", "4,4,2", "--parts", "ladder", "--build", os.path.dirname(GRACE), "--budget", "300", "-o", path]
            out, errors, wrong = cluster.run_ranks(cluster.Layout("1x1"), words, 300)
            self.assertIsNone(wrong, errors)
            with open(path) as f:
                rows = json.load(f)["ladder"]
            self.assertEqual([r.get("error") for r in rows], [None] * 9)
            self.assertEqual({(r["ranks"], r["nodes"], r["prefill"]["counts"]["tokens"], r["decode"]["counts"]["tokens"]) for r in rows}, {(2, 1, 16, 8)})


if __name__ == "__main__":
    unittest.main()
