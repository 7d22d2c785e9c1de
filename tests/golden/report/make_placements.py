"""Writes placements.json beside this file: an invented placements document with every part (docs/report.md), from a fixed seed."""
import json
import os
import random

N_NODES, GPUS, LAYERS, EXPERTS, DOMAINS = 2, 2, 4, 16, ["prose", "math", "code"]
RANKS = N_NODES * GPUS
rng = random.Random(7)


def plan(name, memory, cross, load):
    even = LAYERS * EXPERTS // RANKS
    return {
        "name": name, "planner": name.split()[0], "memory": memory, "slots_fullest": int(memory * even), "slots_total": int(memory * even * RANKS),
        "replica_bytes": int((memory - 1) * even * 1.5e6), "kv_tokens_displaced": int((memory - 1) * even * 300), "rows_cross": cross, "rows_intra": 1.1 * cross,
        "load_max_over_mean": load, "load_std": 0.5 * (load - 1), "load_floor": 0.02, "prefill_us": 3e4 * cross, "decode_us": 2e3 * cross,
        "pair_rows": [[rng.randint(100, 4000) for _ in range(RANKS)] for _ in range(RANKS)],
        "load": [[rng.randint(800, 1200) for _ in range(RANKS)] for _ in range(LAYERS)],
    }


def affinity():
    values = [0] * (EXPERTS * EXPERTS)
    for i in range(EXPERTS):
        for j in range(i):
            values[i * EXPERTS + j] = values[j * EXPERTS + i] = rng.randint(0, 50) + (400 if i % RANKS == j % RANKS else 0)
    return {"layer": 0, "n": EXPERTS, "order": sorted(range(EXPERTS), key=lambda e: e % RANKS), "groups": [EXPERTS // RANKS] * RANKS,
            "ranks": list(range(RANKS)), "values": values}


def curve(start, slope):
    return [{"memory": 1 + 0.25 * i, "rows_cross": max(0, start - slope * i), "step_us": 3e4 * max(0.1, start - slope * i)} for i in range(5)]


plans = [plan("contiguous", 1, 1.0, 1.4), plan("uniform", 1, 0.98, 1.3), plan("grace DR+TAR", 1.2, 0.87, 1.2), plan("eplb", 1.2, 0.96, 1.1),
         plan("auto", 1.2, 0.57, 1.1)]
plans[2]["affinity"] = affinity()
plans[2]["knee"] = {"chosen": 1, "points": [{"delta": d, "r": d / 4, "size_std": d ** 0.5, "utility": 0.7 - 0.4 * 2.7 ** -d} for d in range(1, 5)]}
plans[2]["replicas"] = [{"layer": 0, "experts": [3, 5], "primary_rank": 1, "hosts": [[2], [0, 2]]}]
document = {
    "grace_placements": 1, "title": "Placements of an invented model", "command": "python3 make_placements.py",
    "trace": {"name": "invented", "layers": LAYERS, "experts": EXPERTS, "top_k": 4, "tokens": 20480, "synthetic": True,
              "tested_on": "odd sequences; planned on even ones"},
    "cluster": {"nodes": N_NODES, "gpus_per_node": GPUS},
    "expert_load": [[rng.randint(100, 3000) for _ in range(EXPERTS)] for _ in range(LAYERS)],
    "plans": plans,
    "curves": [{"trace": "invented", "cluster": "node:2 gpu:2", "series": [
        {"planner": "contiguous", "points": [{"memory": 1, "rows_cross": 1.0, "step_us": 3e4}]},
        {"planner": "eplb", "points": curve(0.96, 0.2)}, {"planner": "grace", "points": curve(0.87, 0.2)}, {"planner": "auto", "points": curve(0.8, 0.25)}]}],
    "transfer": {"planner": "auto", "domains": DOMAINS, "rows": [[0.57, 0.8, 0.9], [0.8, 0.6, 0.7], [0.85, 0.7, 0.5]], "contiguous": [1, 1, 1]},
}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "placements.json"), "w") as file:
    json.dump(document, file, separators=(",", ":"))
    file.write("\n")
