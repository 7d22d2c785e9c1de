"""bench/multi.py, cluster.py, multi_table.py: ranks and their environment, failures and time limits, files made on the way, tables; and, with grace as the first
argument, the driver from end to end on two ranks of a CPU."""
import json, os, sys, tempfile, time, unittest

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
        code = "print(r, os.environ['WORLD_SIZE'], os.environ['LOCAL_RANK'], os.environ['MASTER_ADDR'], file=sys.stderr if r else sys.stdout)"
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

    def test_ranks_that_hang_are_ended_at_the_limit(self):
        self.assertEqual(cluster.run_ranks(cluster.Layout("1x2"), python("time.sleep(60)"), 0.3)[2], "stopped at its time limit of 0 s")

    def test_layouts_that_are_none(self):
        for text in ("2", "3x1", "1x0", "x2", "1x", "ax2", "2x-1"):
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
        half = meta[1]["layers"] * meta[1]["top_k"]
        for token in (0, 1, meta[1]["tokens"] - 1):
            self.assertEqual(ids[0][token * 2 * half:(token + 1) * 2 * half], 2 * ids[1][token * half:(token + 1) * half])

    def test_a_recording_with_the_models_layers_is_taken_as_it_is(self):
        self.assertEqual(multi.routing(None, "deepseek-v2-lite"), os.path.join(ROOT, "bench/routing/deepseek-v2-lite"))


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
        text = multi_table.markdown({"exchange": [dict(ORIGIN, rows=n, us=12.5, gb_s=333.0) for n in (16, 64, 4096)]})
        for part in ("| 16 | 12.5 | 333 |", "64 rows a GPU, us | 20 | 12.5 |", "| 300 | 333 |"):
            self.assertIn(part, text)


class Floors(unittest.TestCase):
    def test_a_layer_alone_takes_less_than_a_layer_of_its_model(self):
        rates = floor.Rates()
        for model in gpu.MODELS:
            c = floor.MODELS[gpu.MODELS[model][0]]
            alone, whole = (floor.workload(shape, rates, 2, 1, 128, 64, 1)["prefill"]["serial_ms"] for shape in (multi.layer_shape(model), c))
            self.assertLess(alone, whole)
            self.assertGreater(alone, floor.workload(c, rates, 2, 1, 128, 64, 1)["prefill"]["nvl_ms"])


@unittest.skipUnless(GRACE, "grace is not named")
class Whole(unittest.TestCase):
    def test_two_ranks_from_end_to_end(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "multi.json")
            words = [sys.executable, os.path.join(ROOT, "bench", "multi.py"), "--device", "cpu", "--gpus", "2", "--layouts", "1x2", "--models", "tiny-olmoe", "--repeat", "1",
                     "--ladder", "4,4,2", "--parts", "ladder", "--build", os.path.dirname(GRACE), "--budget", "100", "-o", path]
            out, errors, wrong = cluster.run_ranks(cluster.Layout("1x1"), words, 100)
            self.assertIsNone(wrong, errors)
            with open(path) as f:
                rows = json.load(f)["ladder"]
            self.assertEqual([r.get("error") for r in rows], [None] * 9)
            self.assertEqual({(r["ranks"], r["nodes"], r["prefill"]["counts"]["tokens"], r["decode"]["counts"]["tokens"]) for r in rows}, {(2, 1, 16, 8)})


if __name__ == "__main__":
    unittest.main()
