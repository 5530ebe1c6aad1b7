#!/usr/bin/env python3
"""Times hetero beside ONNX Runtime: `bench.py HETERO REFERENCES OUT.json [NAME...]`; see models.py for the folders.

Both run the same model on the same input, one after the other, ROUNDS times; a figure is the median of the rounds' ratios. Each row says how
much of the machine other processes took meanwhile; a row above 8 % is measured once more.
"""
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import onnxruntime

ROUNDS, WARMUP, REPEAT = 5, 2, 8
FOREIGN = 8.0


def jiffies():
    """Busy time of the machine, and of this process with its ended children, in seconds."""
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:]]
    busy = (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return busy, own.user + own.system + own.children_user + own.children_system


def row(hetero, folder, threads):
    with open(os.path.join(folder, "names.json")) as file:
        ports = json.load(file)
    source = os.path.join(folder, "case_0")
    feeds = {port: np.load(os.path.join(source, stem) + ".npy") for port, stem in ports["inputs"].items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"), options, providers=["CPUExecutionProvider"])
    command = [hetero, "run", os.path.join(folder, "model.onnx"), "--threads", str(threads), "--json"]
    command += ["--warmup", str(WARMUP), "--repeat", str(REPEAT)]
    for port, stem in ports["inputs"].items():
        command += ["--input", f"{port}={os.path.join(source, stem)}.npy"]
    began, (busy, own) = time.time(), jiffies()
    ours, theirs = [], []
    for _ in range(ROUNDS):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        ours.append(json.loads(done.stdout)["latency_us"]["p50"] / 1e3)
        times = []
        for number in range(WARMUP + REPEAT):
            start = time.perf_counter()
            session.run(None, feeds)
            times.append((time.perf_counter() - start) * 1e3)
        theirs.append(statistics.median(times[WARMUP:]))
    (busy_end, own_end), wall = jiffies(), time.time() - began
    foreign = max(0.0, (busy_end - busy) - (own_end - own)) / (wall * os.cpu_count()) * 100
    ratio = statistics.median(a / b for a, b in zip(ours, theirs))
    return {"model": os.path.basename(folder), "threads": threads, "hetero_ms": statistics.median(ours),
            "onnxruntime_ms": statistics.median(theirs), "ratio": ratio, "foreign_cpu_percent": foreign}


def main():
    hetero, references, out = sys.argv[1:4]
    names = sys.argv[4:] or [n for n in sorted(os.listdir(references)) if not n.endswith("_original")]
    rows = []
    print("| model | threads | hetero ms | ONNX Runtime ms | ratio | foreign CPU % |\n|---|---|---|---|---|---|")
    for name in names:
        for threads in (1, 2):
            found = row(hetero, os.path.join(references, name), threads)
            if found["foreign_cpu_percent"] > FOREIGN:
                found = row(hetero, os.path.join(references, name), threads)
            rows.append(found)
            print("| {model} | {threads} | {hetero_ms:.2f} | {onnxruntime_ms:.2f} | {ratio:.2f} | {foreign_cpu_percent:.1f} |".format(**found), flush=True)
    with open(out, "w") as file:
        json.dump({"onnxruntime": onnxruntime.__version__, "rows": rows}, file, indent=1)


main()
