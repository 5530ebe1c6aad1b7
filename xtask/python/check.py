#!/usr/bin/env python3
"""Runs hetero on models and compares it with references: `check.py HETERO REFERENCES [NAME...]`; see models.py for the folders.

A case passes where the largest absolute difference is at most 1e-3 of the reference output's range; of networks as shipped, whose outputs are
all equal, where each element is within 1e-3 of its value, as the standard's own tests ask. Exits with 1 where any case fails.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

SHARE = 1e-3


def main():
    hetero, references = sys.argv[1], sys.argv[2]
    names = sys.argv[3:] or sorted(os.listdir(references))
    failed = passed = 0
    print(f"{'model':24} {'case':>4} {'output':28} {'max difference':>14} {'range':>10} {'ratio':>9} {'ms':>9}")
    for name in names:
        folder = os.path.join(references, name)
        with open(os.path.join(folder, "names.json")) as file:
            ports = json.load(file)
        for case in sorted(entry for entry in os.listdir(folder) if entry.startswith("case_")):
            source = os.path.join(folder, case)
            with tempfile.TemporaryDirectory() as out:
                command = [hetero, "run", "--device", "cpu:0", os.path.join(folder, "model.onnx"), "--output", out, "--json"]
                for port, stem in ports["inputs"].items():
                    command += ["--input", f"{port}={os.path.join(source, stem)}.npy"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=600)
                if done.returncode != 0:
                    print(f"{name:24} {case[5:]:>4} FAILED with exit code {done.returncode}\n{done.stderr}")
                    failed += 1
                    continue
                report = json.loads(done.stdout)
                milliseconds = report["latency_us"]["p50"] / 1e3
                for port, stem in ports["outputs"].items():
                    expected = np.load(os.path.join(source, stem) + ".out.npy").astype(np.float64)
                    actual = np.load(os.path.join(out, stem) + ".npy").astype(np.float64)
                    difference, span = np.inf, float(np.ptp(expected))
                    if actual.shape == expected.shape:
                        difference = float(np.abs(actual - expected).max())
                    limit = 1e-7 + SHARE * np.abs(expected).min() if name.endswith("_original") else SHARE * span
                    good = difference <= limit and not report["moved"]
                    ratio = difference / span if span else float("nan")
                    word = "" if good else "  FAILED"
                    print(f"{name:24} {case[5:]:>4} {port[:28]:28} {difference:14.3e} {span:10.3e} {ratio:9.1e} {milliseconds:9.2f}{word}", flush=True)
                    passed, failed = passed + good, failed + (not good)
    print(f"{passed} outputs agree, {failed} do not")
    sys.exit(1 if failed or not passed else 0)


main()
