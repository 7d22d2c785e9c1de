#!/usr/bin/env python3
"""Writes ladder.json, the sample document of the report tests. Every number in it is invented (a seeded generator, no run of any model);
it is only shaped like a real one: totals equal the sums of their matrices, loads add up to tokens x top-k in every layer."""
import json
import random
import statistics

NODES, GPUS, LAYERS, EXPERTS, TOP_K, TOKENS = 2, 2, 8, 64, 8, 5120
RANKS = NODES * GPUS
HASH = "9f3c5a7be1d20846"
rng = random.Random(20)


def node(rank):
    return rank // GPUS


def pair_rows(cross, intra):
    rows = []
    for a in range(RANKS):
        row = []
        for b in range(RANKS):
            mean = 52000 if a == b else intra / (RANKS * (GPUS - 1)) if node(a) == node(b) else cross / (RANKS * (RANKS - GPUS))
            row.append(round(mean * rng.uniform(0.88, 1.12)))
        rows.append(row)
    return rows


def total(rows, same_node):
    return sum(rows[a][b] for a in range(RANKS) for b in range(RANKS) if a != b and (node(a) == node(b)) == same_node)


def loads(skew):
    table = []
    for _ in range(LAYERS):
        weights = [max(0.15, rng.gauss(1, skew)) for _ in range(RANKS)]
        row = [round(TOKENS * TOP_K * w / sum(weights)) for w in weights]
        row[-1] += TOKENS * TOP_K - sum(row)
        table.append(row)
    return table


def rung(name, plan, exchange, route, cross, intra, skew, moe_ms, replicas=0, baseline=False, load=None):
    pairs, load = pair_rows(cross, intra), load or loads(skew)
    idle = sum(max(row) * RANKS - sum(row) for row in load) * 0.62
    experts = moe_ms * 1000 * 0.46 * (1 + skew / 4)
    rows_cross, rows_intra = total(pairs, False), total(pairs, True)
    out = {"name": name}
    if baseline:
        out["baseline"] = True
    out |= {
        "plan": plan, "exchange": exchange, "route": route, "rows_cross_node": rows_cross, "rows_intra_node": rows_intra,
        "bytes_cross_node": rows_cross * 1024, "bytes_intra_node": rows_intra * 1024,
        "load_max_over_mean": round(statistics.mean(max(r) / statistics.mean(r) for r in load), 4),
        "load_std": round(statistics.mean(statistics.pstdev(r) for r in load), 2),
        "idle_model_us": round(idle, 1), "idle_measured_us": None, "moe_us": moe_ms * 1000, "moe_us_spread": round(moe_ms * rng.uniform(8, 30), 1),
        "wall_us": round(moe_ms * 1000 * 1.31 + 61000, 1), "identical": True, "logits_hash": HASH, "replica_slots": replicas,
        "time_us": {"route": round(moe_ms * 21, 1), "dispatch": round((moe_ms * 1000 - experts) * 0.55, 1), "experts": round(experts, 1),
                    "combine": round((moe_ms * 1000 - experts) * 0.45 - moe_ms * 21, 1)},
        "pair_rows": pairs, "load": load,
    }
    return out


def rungs():
    uniform, grouped = loads(0.26), loads(0.42)
    return [
        rung("contiguous+per-expert", "contiguous", "per-expert", "primary", 327000, 163000, 0.2, 812.4),
        rung("uniform+flat (Occult)", "uniform", "flat", "primary", 139800, 64800, 0.26, 604.9, baseline=True, load=uniform),
        rung("uniform+HSC", "uniform", "hsc", "primary", 98700, 127200, 0.26, 541.7, load=uniform),
        rung("HG+HSC", "grace, controlled", "hsc", "primary", 74300, 95700, 0.42, 497.2, load=grouped),
        rung("+FR+WRR", "grace, controlled, fixed", "hsc", "wrr", 85300, 112100, 0.27, 472.8, 61),
        rung("+DR+WRR", "grace, controlled, dynamic", "hsc", "wrr", 84700, 113900, 0.2, 461.0, 93),
        rung("+DR+TAR", "grace, controlled, dynamic", "hsc", "tar", 70900, 100800, 0.23, 438.6, 93),
    ]


def knee():
    points = []
    for delta in range(1, 17):
        std = 0.55 * delta - 0.011 * delta * delta
        points.append({"delta": delta, "r": round(delta / 16, 4), "size_std": round(std, 4), "utility": round(0.388 + 0.19 * (1 - 0.72 ** delta) + 0.0014 * delta, 5)})
    x0, y0, x1, y1 = points[0]["size_std"], points[0]["utility"], points[-1]["size_std"], points[-1]["utility"]
    far = [(x1 - x0) * (p["utility"] - y0) - (y1 - y0) * (p["size_std"] - x0) for p in points]
    return {"chosen": far.index(max(far)), "points": points}


def affinity():
    ids = list(range(EXPERTS))
    rng.shuffle(ids)
    groups = [19, 15, 17, 13]
    team = {}                                        # expert -> (group, clique inside the group)
    order = []
    first = 0
    for g, size in enumerate(groups):
        members = ids[first:first + size]
        order += members
        for i, e in enumerate(members):
            team[e] = (g, i // 4)
        first += size
    heat = [rng.lognormvariate(0, 0.55) for _ in range(EXPERTS)]
    values = [0] * (EXPERTS * EXPERTS)
    for i in range(EXPERTS):
        for j in range(i):
            near = 9 if team[i] == team[j] else 3.4 if team[i][0] == team[j][0] else 1.6 if team[i][0] // 2 == team[j][0] // 2 else 1
            values[i * EXPERTS + j] = values[j * EXPERTS + i] = round(38 * near * heat[i] * heat[j] * rng.uniform(0.4, 1.6))
    return {"layer": 3, "n": EXPERTS, "order": order, "groups": groups, "ranks": [0, 1, 2, 3], "values": values}


def replicas():
    out = []
    for layer in range(LAYERS):
        heavy = rng.randrange(RANKS)
        others = [r for r in range(RANKS) if r != heavy]
        hosts = sorted(rng.sample(others, 2 if layer in (2, 5) else 1))
        experts = rng.sample(range(EXPERTS), rng.randint(5, 11))
        out.append({"layer": layer, "experts": experts, "primary_rank": heavy, "hosts": [hosts] * len(experts)})
    return out


def main():
    document = {
        "grace_report": 1,
        "title": "GRACE-MoE on two nodes with two GPUs each",
        "model": {"name": "tiny-olmoe", "family": "olmoe", "layers": LAYERS, "experts": EXPERTS, "top_k": TOP_K, "params": 17035776},
        "cluster": {"nodes": NODES, "gpus_per_node": GPUS},
        "workload": {"sequences": 64, "prefill": 64, "decode": 16},
        "command": "invented: no command made these numbers",
        "commit": "0000000", "machine": "invented: 2 cores, AVX-512, 4 ranks", "date": "2026-01-01 12:00 UTC",
        "reference_hash": HASH,
        "rungs": rungs(),
        "knee": knee(),
        "replicas": replicas(),
        "affinity": affinity(),
        "paper": {"cross": [None, 0.0, -35.6, -50.7, -41.6, -41.8, -52.1]},
        "text": [
            {"domain": "prose", "prompt": "The harbour lay quiet that evening, and", "generated": " the boats that had come in with the tide were drawn up on the sand in a long row. \"We shall have rain,\" said the old man."},
            {"domain": "math", "prompt": "Let x & y be integers with x < y.", "generated": " Then y - x > 0, so y - x is at least 1.\nAnswer: 1"},
            {"domain": "code", "prompt": "static int min(int a, int b) {\n", "generated": "    return a < b ? a : b;\n}\n"},
        ],
    }
    with open("ladder.json", "w", encoding="utf-8") as f:
        json.dump(document, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


main()
