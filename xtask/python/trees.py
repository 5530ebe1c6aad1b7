#!/usr/bin/env python3
"""Times ensembles of decision trees in hetero beside ONNX Runtime: `trees.py [--once] HETERO FOLDER OUT`.

The ensembles are made here, of seeded numbers: grown leaf by leaf to 31 leaves as LightGBM does, and balanced with a depth of 8 as scikit-learn's
forests often are. Thresholds are taken from the rows that reach a node, so that rows go all ways. Both run the same model on the same rows in
turns: ROUNDS times each runs for BLOCK seconds without a pause, of which the second half counts; a figure is the median of the rounds' ratios.
A row during which other processes took more than FOREIGN percent of the machine is measured again, twice at most. Results must be equal to a relative
difference of LIMIT to ONNX Runtime's with one thread: with more, its sums depend on their number, and hetero's do not. With `--once` no row is measured again.
FOLDER gets the models; writes OUT.json and OUT.md, and fails where hetero is slower or results differ.
"""
import argparse
import heapq
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from runners import Hetero, OnnxRuntime, jiffies, seconds_of

ROUNDS, BLOCK, LEAST, PAUSE, FOREIGN, LIMIT = 7, 0.4, 6, 0.05, 8.0, 1e-6
FEATURES = 30


def grow(random, rows, leaves, depth):
    """A tree as a list of [feature, threshold, yes, no], or None for a leaf: the leaf with most rows is split next, up to a depth."""
    nodes = [None]
    open_leaves = [(-len(rows), 0, rows, 0)]
    count = 1
    while open_leaves and count < leaves:
        _, node, part, level = heapq.heappop(open_leaves)
        feature = int(random.integers(FEATURES))
        values = rows[:, feature] if len(part) == 0 else part[:, feature]
        threshold = np.float32(np.quantile(values, random.uniform(0.5, 0.5) if depth == 8 else random.uniform(0.15, 0.85)))
        yes, no = len(nodes), len(nodes) + 1
        nodes[node] = (feature, threshold, yes, no)
        nodes += [None, None]
        count += 1
        below = part[:, feature] <= threshold
        for child, some in ((yes, part[below]), (no, part[~below])):
            if level + 1 < depth:
                # Levels are filled one after the other where the tree is to be balanced.
                heapq.heappush(open_leaves, (level + 1 if depth == 8 else -len(some), child, some, level + 1))
    return nodes


def model(trees, leaves, depth, path):
    random = np.random.default_rng(trees * 1000 + leaves)
    rows = random.standard_normal((4096, FEATURES)).astype(np.float32)
    lists = {key: [] for key in "treeids nodeids featureids modes values truenodeids falsenodeids".split()}
    votes = {key: [] for key in "treeids nodeids ids weights".split()}
    for tree in range(trees):
        for number, node in enumerate(grow(random, rows, leaves, depth)):
            feature, value, yes, no = node or (0, 0.0, 0, 0)
            for key, item in zip(lists, (tree, number, feature, "BRANCH_LEQ" if node else "LEAF", value, yes, no)):
                lists[key].append(item)
            if node is None:
                for key, item in zip(votes, (tree, number, 0, np.float32(random.standard_normal()))):
                    votes[key].append(item)
    attributes = {f"nodes_{key}": items for key, items in lists.items()} | {f"target_{key}": items for key, items in votes.items()}
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, base_values=[0.5], **attributes)
    port = lambda name, width: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])
    graph = helper.make_graph([node], "trees", [port("x", FEATURES)], [port("y", 1)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def difference(hetero, path, rows, folder, expected):
    subprocess.run([hetero, "run", path, "--device", "cpu:0", "--input", f"x={rows}", "--output", folder], check=True, stdout=subprocess.DEVNULL)
    found = np.load(os.path.join(folder, "y.npy"))
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return float(np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 1.0)))


def measure(hetero, path, rows, threads, folder):
    feeds = {"x": np.load(rows)}
    child, peer = Hetero("hetero", hetero, path, {"x": rows}, threads), OnnxRuntime(path, feeds, threads)
    runners = [child, peer]
    counts = [max(LEAST, int(BLOCK * 1e3 / statistics.median(runner.block(20)))) for runner in runners]
    times = [[], []]
    began, (busy, own), mine = time.time(), jiffies(), seconds_of(child.process.pid)
    for number in range(ROUNDS):
        # Who comes first changes.
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            time.sleep(PAUSE)
            block = runners[index].block(counts[index])
            times[index].append(statistics.median(block[len(block) // 2:]))
    (busy_end, own_end), wall = jiffies(), time.time() - began
    foreign = max(0.0, busy_end - busy - (own_end - own) - (seconds_of(child.process.pid) - mine)) / (wall * os.cpu_count()) * 100
    child.close()
    return {
        "rows": len(feeds["x"]), "threads": threads, "hetero_ms": statistics.median(times[0]), "onnxruntime_ms": statistics.median(times[1]),
        "ratio": statistics.median(a / b for a, b in zip(*times)), "foreign_cpu_percent": foreign,
        "difference": difference(hetero, path, rows, folder, OnnxRuntime(path, feeds, 1).run()[0]),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--once", action="store_true")
    for name in ("hetero", "folder", "out"):
        parser.add_argument(name)
    given = parser.parse_args()
    hetero, folder, out = given.hetero, given.folder, given.out
    os.makedirs(folder, exist_ok=True)
    columns = ["trees", "rows", "threads", "hetero ms", "ONNX Runtime ms", "hetero ÷ ONNX Runtime", "largest difference", "foreign CPU %"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    print("\n".join(lines), flush=True)
    table = []
    for shape, leaves, depth in (("of 31 leaves", 31, 31), ("of depth 8", 256, 8)):
        for trees in (100, 1000):
            path = os.path.join(folder, f"trees-{trees}-{leaves}.onnx")
            if not os.path.exists(path):
                model(trees, leaves, depth, path)
            for count in (1, 10_000):
                rows = os.path.join(folder, f"rows-{count}.npy")
                np.save(rows, np.random.default_rng(7).standard_normal((count, FEATURES)).astype(np.float32))
                for threads in (1, 2):
                    for _ in range(1 if given.once else 3):
                        found = measure(hetero, path, rows, threads, folder)
                        if found["foreign_cpu_percent"] <= FOREIGN:
                            break
                    found["trees"] = f"{trees} {shape}"
                    table.append(found)
                    cells = [found["trees"], f"{count:,}".replace(",", " "), str(threads), f"{found['hetero_ms']:.4f}", f"{found['onnxruntime_ms']:.4f}"]
                    cells += [f"{found['ratio']:.2f}", f"{found['difference']:.0e}", f"{found['foreign_cpu_percent']:.1f}"]
                    lines.append("| " + " | ".join(cells) + " |")
                    print(lines[-1], flush=True)
    with open(out + ".json", "w") as file:
        json.dump({"onnxruntime": onnxruntime.__version__, "rows": table}, file, indent=1)
    with open(out + ".md", "w") as file:
        file.write("\n".join(lines) + "\n")
    slow = [row for row in table if row["ratio"] > 1.0]
    wrong = [row for row in table if row["difference"] > LIMIT]
    for row in slow:
        print(f"slower than ONNX Runtime: {row['trees']}, {row['rows']} rows, {row['threads']} threads: {row['ratio']:.2f}")
    for row in wrong:
        print(f"results differ: {row['trees']}, {row['rows']} rows: {row['difference']:.1e}")
    sys.exit(1 if slow or wrong else 0)


if __name__ == "__main__":
    main()
