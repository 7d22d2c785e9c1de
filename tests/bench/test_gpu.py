"""bench/gpu.py and bench/floor.py: rows in the results file, their table, the floor, what the driver does with a program that fails. No GPU is needed."""
import json, os, sys, tempfile, time, unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "bench"))
import floor, gpu

ORIGIN = {"date": "today", "commit": "abc", "device": "G"}


def engine_row(model="olmoe-1b-7b", workload="i", ms=30.0):
    return dict(ORIGIN, model=model, workload=workload, weights="random weights, seed 1", prefill={"ms": ms, "floor_ms": 20.0, "ratio": ms / 20},
                decode={"ms": 5.0, "tokens_s": 51200.0})


class Driver(unittest.TestCase):
    def results(self, name="r.json"):
        return gpu.Results(os.path.join(self.folder.name, name))

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()

    def tearDown(self):
        self.folder.cleanup()

    def test_a_new_row_takes_the_place_of_its_like_and_the_others_stay(self):
        r = self.results()
        r.put("engine", engine_row(ms=30.0), ("model", "workload"))
        r.put("engine", engine_row(workload="ii"), ("model", "workload"))
        again = self.results()
        again.put("engine", engine_row(ms=40.0), ("model", "workload"))
        with open(again.path) as f:
            rows = json.load(f)["engine"]
        self.assertEqual([(x["workload"], x["prefill"]["ms"]) for x in rows], [("ii", 30.0), ("i", 40.0)])

    def test_a_file_of_something_else_is_not_overwritten(self):
        path = os.path.join(self.folder.name, "other.json")
        with open(path, "w") as f:
            f.write("{}")
        with self.assertRaises(SystemExit):
            gpu.Results(path)

    def test_the_table_has_times_ratios_marks_and_peers(self):
        doc = {"engine": [engine_row()], "peer_models": [dict(ORIGIN, model="olmoe-1b-7b", workload="i", peer="other 1", prefill_ms=100.0, step_ms=36.0)],
               "kernels": {"moe": [dict(ORIGIN, bench="gpu_moe", model="olmoe", rows=16, median_us=12.5, floor_us=10.0, ratio=1.25, tflops=3)]}}
        text = gpu.markdown(doc)
        for part in ("| olmoe-1b-7b | i: 256 x 128 + 16 | 30 ms (1.50) | 100 ms (5.00) | 5 ms | 36 ms | 51200 |", "random weights, seed 1", "other 1",
                     "| olmoe, rows 16 | 12.5 | 10.0 | 1.25 | 3 TFLOP/s |", "G, commit abc, today"):
            self.assertIn(part, text)

    def test_a_program_that_fails_leaves_its_words_and_one_that_hangs_is_stopped_with_what_it_started(self):
        class Arguments:
            budget, device, commit = 1, "cpu", "abc"
        run = gpu.Run(Arguments)
        self.assertEqual((run.origin["commit"], run.origin["device"]), ("abc", "cpu"))
        self.assertEqual(run.run([sys.executable, "-c", "import sys; print('out'); sys.exit('no memory')"]), ("out\n", "exit code 1: no memory"))
        start = time.time()
        self.assertEqual(run.run(["bash", "-c", "sleep 60 & sleep 60"])[1], "stopped at its time limit of 1 s")
        self.assertLess(time.time() - start, 30)

    def test_the_replayed_routing_hits_what_its_tokens_name(self):
        folder = os.path.join(self.folder.name, "routing")
        os.makedirs(folder)
        with open(os.path.join(folder, "meta.json"), "w") as f:
            json.dump({"layers": 1, "top_k": 2}, f)
        with open(os.path.join(folder, "seqs.csv"), "w") as f:
            f.write("seq,start,tokens\n0,0,1\n1,1,1\n")
        with open(os.path.join(folder, "topk.u8"), "wb") as f:
            f.write(bytes([0, 1, 1, 2]))
        self.assertEqual(gpu.experts_hit(folder, (1, 128, 4)), (2, 2))     # one request: the first sequence
        self.assertEqual(gpu.experts_hit(folder, (256, 128, 16)), (3, 3))     # both, again and again
        self.assertEqual(gpu.experts_hit(folder, (256, 128, 16), odd=True), (2, 2))     # the second alone

    def test_routing_of_the_repository_fits_the_models(self):
        for name, (key, folder) in gpu.MODELS.items():
            with open(os.path.join(ROOT, folder, "meta.json")) as f:
                meta = json.load(f)
            self.assertEqual((meta["experts"], meta["top_k"]), (floor.MODELS[key]["E"], floor.MODELS[key]["k"]))
            self.assertEqual(os.path.getsize(os.path.join(ROOT, folder, "topk.u8")), meta["tokens"] * meta["layers"] * meta["top_k"])


class Floor(unittest.TestCase):
    def test_parameters_are_those_of_the_released_models(self):
        for key, total in (("olmoe", 6.92e9), ("dsv2l", 15.71e9), ("qwen3", 30.53e9)):
            self.assertAlmostEqual(sum(floor.params(floor.MODELS[key])) / total, 1, delta=0.002)

    def test_a_step_of_one_token_reads_its_experts_and_everything_else_once(self):
        c = floor.MODELS["olmoe"]
        w = floor.workload(c, floor.Rates(1e9, 1.0), 1, 1, 1, 128, 1)["decode"]     # memory alone counts, 1 TB/s
        weights = 2 * (c["L"] * (4 * c["h"] ** 2 + 8 * 3 * c["h"] * c["m"] + c["h"] * c["E"]) + c["h"] * c["V"])
        self.assertAlmostEqual(w["wt_bytes"], weights, delta=1)

    def test_fewer_experts_take_less_time(self):
        c, r = floor.MODELS["qwen3"], floor.Rates()
        all_of_them, half = (floor.workload(c, r, 1, 1, 256, 128, 4, experts_hit=(128, n))["decode"]["serial_ms"] for n in (128, 64))
        self.assertLess(half, 0.6 * all_of_them)


if __name__ == "__main__":
    unittest.main()
