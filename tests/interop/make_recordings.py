#!/usr/bin/env python3
"""Small SGLang expert-distribution recordings as torch.save writes them: per_token.pt, per_pass.pt, stat.pt.

    make_recordings.py OUT_DIR            with torch where there is one, else with pickle and a hand-made ZIP of the same layout
    make_recordings.py --no-torch OUT_DIR the second way everywhere

The world: 3 model layers, layer 0 dense; 4 experts, top-2, 6 physical experts (0 and 3 have copies) in an order of their own per layer; 3 passes:
a prefill of sequences of 3 and 2 tokens, two decode steps, the last with a padded token. expected.txt: what a reader must find, one token a line.
"""
import collections, os, pickle, random, struct, sys, types, zlib

try:
    if "--no-torch" in sys.argv:
        raise ImportError
    import torch
except ImportError:
    torch = None

LAYERS, EXPERTS, TOP_K, WIDTH = 3, 4, 2, 8
P2L = [[0, 1, 2, 3, 0, 3], [3, 2, 1, 0, 0, 3], [1, 0, 3, 2, 3, 0]]
PASSES = [([11, 12, 13, 21, 22], [0, 1, 2, 0, 1], [3, 2], 1), ([14, 23], [3, 2], None, 2), ([15, 24, 0], [4, 3, 0], None, 2)]
PADDED = (2, 2)     # pass, token


class Tensor:       # a stand-in: nested lists and a kind
    def __init__(self, values, kind):
        self.values, self.kind = values, kind

    def shape(self):
        size, v = [], self.values
        while isinstance(v, list):
            size.append(len(v))
            v = v[0]
        return size

    def flat(self):
        v = self.values
        for _ in self.shape()[1:]:
            v = [x for row in v for x in row]
        return v


def world():
    rng, tokens, records = random.Random(7), [], []
    for p, (ids, positions, lengths, mode) in enumerate(PASSES):
        topk = [[[-1] * WIDTH for _ in ids] for _ in range(LAYERS)]
        count = [[0] * 6 for _ in range(LAYERS)]
        for t in range(len(ids)):
            if (p, t) == PADDED:
                continue
            line = []
            for layer in range(1, LAYERS):
                for k, e in enumerate(rng.sample(range(EXPERTS), TOP_K)):
                    physical = rng.choice([i for i, x in enumerate(P2L[layer]) if x == e])
                    topk[layer][t][k] = physical
                    count[layer][physical] += 1
                    line.append(e)
            tokens.append((p, positions[t], line))
        records.append(dict(forward_pass_id=40 + p, rank=0, gatherer_key="primary", input_ids=ids, positions=positions, extend_seq_lens=lengths,
                            forward_mode=mode, topk_ids_of_layer=Tensor(topk, "Int"), misc_objects=[], global_physical_count=Tensor(count, "Int")))
    return tokens, records


def storage_module():
    torch_, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    sys.modules["torch"], sys.modules["torch._utils"] = torch_, utils

    def _rebuild_tensor_v2(*args):
        pass
    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch_._utils = utils
    for name in ("IntStorage", "LongStorage"):
        setattr(torch_, name, type(name, (), {"__module__": "torch"}))
    return torch_


def pickled(obj):
    """data.pkl and the storages, as torch's serialization does it."""
    import io
    torch_, storages, out = storage_module(), [], io.BytesIO()

    class Storage:
        def __init__(self, tensor):
            self.tensor, self.key = tensor, None

    class Pickler(pickle._Pickler if False else pickle.Pickler):
        def persistent_id(self, o):
            if not isinstance(o, Storage):
                return None
            if o.key is None:
                o.key = str(len(storages))
                storages.append(struct.pack("<%d%s" % (len(o.tensor.flat()), "i" if o.tensor.kind == "Int" else "q"), *o.tensor.flat()))
            return ("storage", getattr(torch_, o.tensor.kind + "Storage"), o.key, "cpu", len(o.tensor.flat()))

        def reducer_override(self, o):
            if not isinstance(o, Tensor):
                return NotImplemented
            size = o.shape()
            stride = [1] * len(size)
            for i in range(len(size) - 2, -1, -1):
                stride[i] = stride[i + 1] * size[i + 1]
            return torch_._utils._rebuild_tensor_v2, (Storage(o), 0, tuple(size), tuple(stride), False, collections.OrderedDict())

    Pickler(out, 2).dump(obj)
    return out.getvalue(), storages


def zipped(name, files):
    """Stored entries, sizes only after the data and in the directory, data at multiples of 64, ZIP64 end records: what PyTorch's writer makes."""
    out, directory = b"", b""
    for file, data in files:
        path, at, crc = (name + "/" + file).encode(), len(out), zlib.crc32(data)
        pad = -(at + 30 + len(path) + 4) % 64
        extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
        out += struct.pack("<IHHHHHIIIHH", 0x04034b50, 0, 0x0808, 0, 0, 0, 0, 0, 0, len(path), len(extra)) + path + extra + data
        out += struct.pack("<IIII", 0x08074b50, crc, len(data), len(data))
        directory += struct.pack("<IHHHHHHIIIHHHHHII", 0x02014b50, 0, 0, 0x0808, 0, 0, 0, crc, len(data), len(data), len(path), 0, 0, 0, 0, 0, at) + path
    at, n = len(out), len(files)
    end = struct.pack("<IQHHIIQQQQ", 0x06064b50, 44, 798, 45, 0, 0, n, n, len(directory), at)
    end += struct.pack("<IIQI", 0x07064b50, 0, at + len(directory), 1)
    end += struct.pack("<IHHHHIIH", 0x06054b50, 0, 0, n, n, len(directory), at, 0)
    return out + directory + end


def save(obj, path):
    if torch:
        torch.save(with_torch(obj), path)
        return
    data, storages = pickled(obj)
    files = [("data.pkl", data), (".format_version", b"1"), (".storage_alignment", b"64"), ("byteorder", b"little")]
    files += [("data/%d" % i, s) for i, s in enumerate(storages)] + [("version", b"3\n"), (".data/serialization_id", b"0" * 40)]
    with open(path, "wb") as f:
        f.write(zipped(os.path.basename(path)[:-3], files))


def with_torch(obj):
    if isinstance(obj, Tensor):
        return torch.tensor(obj.values, dtype=torch.int32 if obj.kind == "Int" else torch.int64)
    if isinstance(obj, dict):
        return {k: with_torch(v) for k, v in obj.items()}
    return [with_torch(v) for v in obj] if isinstance(obj, list) else obj


def main():
    out = sys.argv[-1]
    tokens, records = world()
    p2l = Tensor(P2L, "Long")
    passes = [{k: r[k] for k in ("forward_pass_id", "rank", "gatherer_key", "global_physical_count")} for r in records]
    steps = []
    for p in range(len(PASSES)):
        steps.append([[sum(line[(layer - 1) * TOP_K:layer * TOP_K].count(e) for q, _, line in tokens if q == p) if layer else 0
                       for e in range(EXPERTS)] for layer in range(LAYERS)])
    save(dict(records=records, last_physical_to_logical_map=p2l), os.path.join(out, "per_token.pt"))
    save(dict(records=passes, last_physical_to_logical_map=p2l), os.path.join(out, "per_pass.pt"))
    save(dict(rank=0, logical_count=Tensor(steps, "Int"), average_utilization_rate_over_window=None), os.path.join(out, "stat.pt"))
    with open(os.path.join(out, "expected.txt"), "w") as f:
        for p, position, line in tokens:
            f.write(" ".join(str(x) for x in [p, position] + line) + "\n")
    print("torch", torch.__version__ if torch else "none: hand-made")


main()
