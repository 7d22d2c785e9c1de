#!/usr/bin/env python3
"""The lines of Python in docs/interop.md do what the page says: made-up ids become a folder that grace plans from. Run with the path of grace."""
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GRACE = sys.argv.pop() if len(sys.argv) > 1 and not sys.argv[-1].startswith("-") else None


def lines_of_the_page():
    with open(os.path.join(ROOT, "docs", "interop.md"), encoding="utf-8") as f:
        blocks = re.findall(r"```python\n(.*?)```", f.read(), re.S)
    names = {}
    exec("\n".join(blocks), names)
    return names["write_trace"]


class Page(unittest.TestCase):
    def plan_of(self, experts, layer_ids, n_layers):
        """Rows of SGLang's table for a model of n_layers."""
        draw = random.Random(experts)
        sequences = [[[draw.sample(range(experts), 2) for _ in layer_ids] for _ in range(n)] for n in (7, 1, 12)]
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "experts.json")
            lines_of_the_page()(os.path.join(folder, "ids"), sequences, experts, layer_ids, "made up")
            found = json.loads(subprocess.run([GRACE, "inspect", os.path.join(folder, "ids"), "--json"], check=True, capture_output=True).stdout)
            self.assertEqual([found[k] for k in ("model", "experts", "top_k", "tokens", "sequences")], ["made up", experts, 2, 20, 3])
            subprocess.run([GRACE, "plan", os.path.join(folder, "ids"), "--equal-slots", "--format", "sglang", "-o", out], check=True, capture_output=True)
            with open(out, encoding="utf-8") as f:
                rows = json.load(f)["physical_to_logical_map"]
        self.assertEqual(len(rows), n_layers)
        for row in rows:
            self.assertEqual(set(row), set(range(experts)))

    def test_ids_of_one_byte(self):
        self.plan_of(8, [1, 2, 3], 4)

    def test_ids_of_two_bytes(self):
        self.plan_of(300, [0, 1], 2)


if __name__ == "__main__":
    unittest.main()
