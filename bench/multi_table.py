"""The tables of bench/multi.py: its results file as Markdown."""


def number(x):
    return "" if x is None else "%.4g" % x


def nodes_of(row):
    return int(row["layout"].partition("x")[0])


def link_name(nodes):
    """Of what was measured of a link: between two nodes, which are joined directly, or through the switch of more."""
    return "link" if nodes <= 2 else "link_of_%d_nodes" % nodes


def cell(phase):
    """Median, spread, and the multiple of the floor."""
    if not phase:
        return ""
    spread = "%s ms [%s, %s]" % (number(phase["ms"]), number(phase["ms_low"]), number(phase["ms_high"]))
    return spread + (" (%.2f)" % phase["ratio"] if phase.get("ratio") else "")


def line_of(row):
    head = "%s %s %s, %s: " % (row["model"], row["layout"], row["workload"], row["rung"])
    if "error" in row:
        return head + row["error"]
    links = {p: ", link %s ms" % number(row[p]["link_ms"]) if "link_ms" in row[p] else "" for p in ("prefill", "decode")}
    return head + "; ".join("%s %s%s" % (p, cell(row[p]), links[p]) for p in links)


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + ["| " + " | ".join(r) + " |" for r in rows] + [""]


def peer_of(doc, row):
    for p in doc.get("peer_models", []):
        if (p["model"], p["layout"], p["workload"]) == (row["model"], row["layout"], row["workload"]):
            return p
    return {}


def peer_cell(ms, ours):
    return "" if ms is None else "%s ms" % number(ms) + (" (%.1f x ours)" % (ms / ours["ms"]) if ours else "")


def engine_table(doc):
    rows = []
    for row in doc["engine"]:
        peer, pre, dec = peer_of(doc, row), row.get("prefill", {}), row.get("decode", {})
        rows.append([row["model"], row["layout"], row["workload"], cell(pre) or row.get("error", ""), number(pre.get("link_ms")),
                     peer_cell(peer.get("prefill_ms"), pre), cell(dec), number(dec.get("link_ms")), peer_cell(peer.get("step_ms"), dec),
                     "%.0f" % dec["tokens_s"] if dec else ""])
    head = ["model", "nodes x GPUs", "workload", "prefill", "link ms", "transformers", "decode step", "link ms", "transformers", "decode tokens/s"]
    return ["## Whole models", "", "Median [quartiles] and, in parentheses, the multiple of the floor. Link: what a node's mean share of the "
            "bytes counted takes at the link's line rate.", ""] + table(head, rows)


def versus(value, base):
    return "" if value is None or not base else "%+.1f %%" % (100 * (value / base - 1))


def end_to_end(row):
    """Milliseconds of the whole workload: the prefill and its steps."""
    return row["prefill"]["ms"] + row["decode_tokens"] * row["decode"]["ms"]


COUNTED = ("rows_cross_node", "bytes_wire_cross_node", "rows_intra_node", "idle_pairs")


def counted(row):
    """Of the prefill and its steps together."""
    return {k: row["prefill"]["counts"][k] + row["decode"]["counts"][k] for k in COUNTED}


def exchange_ms(row):
    if row.get("device") == "cpu":
        return sum(row[p]["counts"]["time_us"][k] for p in ("prefill", "decode") for k in ("dispatch", "combine")) / 1e3
    return (row["prefill"].get("link_ms") or 0) + row["decode_tokens"] * (row["decode"].get("link_ms") or 0)


def times_over(base, row):
    return "%.2f" % (end_to_end(base) / end_to_end(row)) if base else ""


def ladder_rows(rows):
    done = [r for r in rows if "error" not in r]
    occult = next((r for r in done if "Occult" in r["rung"]), None)
    plain = next((r for r in done if "per-expert" in r["rung"]), None)
    base = counted(occult) if occult else {}
    for r in rows:
        if "error" in r:
            yield [r["rung"], r["error"]] + [""] * 11
            continue
        n = counted(r)
        beside = {k: "%d %s" % (n[k], versus(n[k], base.get(k))) for k in COUNTED}
        yield [r["rung"], number(r["prefill"]["ms"]), number(r["decode"]["ms"]), number(end_to_end(r)), times_over(occult, r), times_over(plain, r),
               number(r.get("moe_layer", {}).get("ms")), beside["rows_cross_node"], "%.1f" % (n["bytes_wire_cross_node"] / 1e6), beside["rows_intra_node"],
               beside["idle_pairs"], number(r["stats"].get("load_std")), number(exchange_ms(r))]


def ladder_table(doc):
    lines = ["## The ladder", "", "Rows, bytes and idle are of one prefill and its steps. Idle: (token, expert) pairs the GPUs waited for. Exchange: on GPUs "
             "what a node's mean share of the bytes between nodes takes at the link's line rate, on CPUs the measured time of dispatch and combine.", ""]
    groups = sorted({(r["model"], r["layout"], r["workload"]) for r in doc["ladder"]})
    for g in groups:
        rows = [r for r in doc["ladder"] if (r["model"], r["layout"], r["workload"]) == g]
        lines += ["**%s, %s, %s**" % g, ""] + table(
            ["rung", "prefill ms", "step ms", "end to end ms", "x over uniform + flat", "x over per-expert", "MoE layer ms", "rows between nodes",
             "MB there", "rows in nodes", "idle pairs", "load std", "exchange ms"], list(ladder_rows(rows)))
    return lines


def peer_layer_ms(doc, row, mode):
    """With recorded routing, of the same case; None: not measured."""
    case = [row[k] for k in ("model", "layout", "tokens")] + [mode]
    ms = [p["ms"] for p in doc.get("peer_layers", []) if [p.get(k) for k in ("model", "layout", "tokens", "mode")] == case and "ms" in p and
          p["routing"].startswith("trace")]
    return min(ms, default=None)


STAGES = ("attention", "gate", "dispatch", "experts", "combine")


def layers_table(doc):
    rows = []
    for r in doc.get("layers", []):
        ours = r.get("error") or "%.4f ms [%.4f, %.4f]" % (r["ms"], r["ms_low"], r["ms_high"])
        if r.get("floor_ms"):
            ours += " (%.2f)" % (r["ms"] / r["floor_ms"])
        rows.append([r["model"], r["layout"], str(r["tokens"]), ours, number(r.get("floor_ms")), number(r.get("link_ms"))] +
                    [peer_cell(peer_layer_ms(doc, r, mode), r if "ms" in r else None) for mode in ("a2a", "agrs", "graph")])
    return ["## One MoE layer", "",
            "By tokens a GPU, recorded routing; in parentheses the multiple of the floor. Ours is a whole layer with a norm and one attention head.", ""] + table(
        ["model", "nodes x GPUs", "tokens", "ours", "floor ms", "link ms", "PyTorch all-to-all", "all-gather", "the same in a graph"], rows) + stages_table(doc)


def stages_table(doc):
    """Of the same layers in a run of their own."""
    rows = [[r["model"], r["layout"], str(r["tokens"])] + [number(r["stages_ms"].get(k)) for k in STAGES + ("whole",)]
            for r in doc.get("layers", []) if r.get("stages_ms")]
    head = ["", "By stage, ms, mean over GPUs, in a run in which stages do not overlap and steps are not replayed: `whole` is its layer. A GPU's stages are the times "
            "between marks on its stream, so what it waits for counts where it waits.", ""]
    return head + table(["model", "nodes x GPUs", "tokens"] + list(STAGES) + ["whole"], rows) if rows else []


def text_of(value):
    return "" if value is None else number(value) if isinstance(value, float) else str(value)


def plain_table(title, rows, leave=("date", "commit", "device")):
    keys = [k for k in rows[0] if k not in leave]
    return ["## " + title, ""] + table(keys, [[text_of(r.get(k)) for k in keys] for r in rows])


# ---- what was aimed at ----

def layers_aimed(doc):
    """Of a layer: the floor on one node, PyTorch on several."""
    for r in doc.get("layers", []):
        if "ms" not in r:
            continue
        case = "%s, %s, %d tokens a GPU" % (r["model"], r["layout"], r["tokens"])
        one_node = nodes_of(r) == 1
        if one_node and r["tokens"] in (64, 4096) and r.get("floor_ms"):
            yield "MoE layer over its floor: " + case, "2.0" if r["tokens"] == 64 else "1.4", "%.2f" % (r["ms"] / r["floor_ms"])
        for mode, name, aim in (("a2a", "all-to-all", "5"), ("agrs", "all-gather", "2.3")):
            ms = peer_layer_ms(doc, r, mode)
            if not one_node and r["tokens"] == 8192 and ms:
                yield "PyTorch's %s over MoE layer: %s" % (name, case), aim, "%.2f" % (ms / r["ms"])


def models_aimed(doc):
    for r in doc.get("engine", []):
        if "error" in r:
            continue
        case = "%s, %s, %s" % (r["model"], r["layout"], r["workload"])
        if nodes_of(r) == 1 and r["decode"].get("ratio"):
            yield "decode step over its floor: " + case, "1.5", "%.2f" % r["decode"]["ratio"]
        if r["prefill"].get("link_ratio"):
            yield "prefill over its bytes at line rate: " + case, "1.15", "%.2f" % r["prefill"]["link_ratio"]
        if r["decode"].get("link_ms") and r.get("moe_layers"):
            latency_ms = 1e-3 * r.get("floor_rates", {}).get("latency_us", doc.get(link_name(nodes_of(r)), {}).get("latency_us", 0))
            least = r["decode"]["link_ms"] + 2 * r["moe_layers"] * latency_ms
            yield "decode step over its bytes and 2 latencies a layer: " + case, "1.15", "%.2f" % (r["decode"]["ms"] / least)
        peer = peer_of(doc, r)
        if "step_ms" in peer and nodes_of(r) > 1:
            theirs = peer["prefill_ms"] + r["decode_tokens"] * peer["step_ms"]
            yield "transformers over ours, end to end: " + case, "1", "%.2f" % (theirs / end_to_end(r))


def ladder_aimed(doc):
    for g in sorted({(r["model"], r["layout"], r["workload"]) for r in doc.get("ladder", [])}):
        rows = [r for r in doc["ladder"] if (r["model"], r["layout"], r["workload"]) == g and "error" not in r]
        ours = [r for r in rows if r["rung"].startswith("auto")]
        for words, name, aim in (("per-expert", "contiguous + per-expert", "4.66"), ("Occult", "uniform + flat", "1.45")):
            base = [r for r in rows if words in r["rung"]]
            if base and ours:
                best = min(ours, key=end_to_end)
                yield "%s over %s, end to end: %s, %s, %s" % ((name, best["rung"]) + g), aim, times_over(base[0], best)


def exchange_aimed(doc):
    for r in doc.get("exchange", []):
        if r["rows"] == 64:
            yield "dispatch and combine, %d GPUs, 64 rows each, us" % r["gpus"], "20", "%.1f" % r["us"]
        if r["rows"] == 4096:
            yield "dispatch and combine, %d GPUs, 4096 rows each, GB/s out of a GPU (at least)" % r["gpus"], "300", "%.0f" % r["gb_s"]


def aims_table(doc):
    rows = [list(row) for part in (layers_aimed, exchange_aimed, models_aimed, ladder_aimed) for row in part(doc)]
    head = ["## Aims", "", "Set for 4 GPUs of the H200's kind; at most, or for what stands over ours at least.", ""]
    return head + table(["what", "aim", "measured"], rows) if rows else []


# ---- all ----

def link_line(name, link):
    return ("- %s: %s, burst %s: %.2f Gbit/s of payload (%.1f %% of the rate with headers), %.1f us one way; 1 MiB after silence %.0f us (%.0f at the rate)%s" % (
        name.replace("_", " "), link["rate"], link["burst"], link["gbit_s"], 100 * link["of_rate"], link["latency_us"], link["mib_us"],
        link["mib_us_at_rate"], "" if link["shaped"] else ": NOT SHAPED as it should be"))


def rates_lines(doc):
    lines, rates = [], doc.get("rates")
    if rates and "read_tb_s" in rates:
        lines.append("- %s: %.2f TB/s read, %.0f TFLOP/s in bf16; %s GB/s from GPU to GPU" % (rates["device"], rates["read_tb_s"], rates["product_tflops"],
                                                                                          rates.get("peer_gb_s", "?")))
    lines += [link_line(name, doc[name]) for name in sorted(doc) if name.startswith("link")]
    return ["Measured rates:", ""] + lines + [""] if lines else []


def markdown(doc):
    lines = ["# Several GPUs", "", "Written by `./run bench multi` (docs/multi-bench.md); every row of the JSON file beside this one has its command.", ""]
    lines += rates_lines(doc) + aims_table(doc)
    if doc.get("engine"):
        lines += engine_table(doc)
    if doc.get("ladder"):
        lines += ladder_table(doc)
    if doc.get("layers"):
        lines += layers_table(doc)
    if doc.get("exchange"):
        lines += plain_table("Exchange in a node", doc["exchange"])
    if doc.get("peer_layers"):
        keys = ("model", "layout", "tokens", "routing", "mode", "ms", "route_ms", "dispatch_ms", "gemm_ms", "combine_ms", "floor_ms", "error")
        lines += plain_table("MoE layers of PyTorch", [{k: p.get(k) for k in keys} for p in doc["peer_layers"]])
    origins = sorted({"%s%s, commit %s, %s" % ("%d x " % r["gpus"] if "gpus" in r else "", r["device"], r["commit"], r["date"])
                      for part in ("engine", "ladder", "layers", "exchange", "peer_layers", "peer_models") for r in doc.get(part, [])})
    return "\n".join(lines + ["Made on:", ""] + ["- " + o for o in origins]) + "\n"
