#!/usr/bin/env python3
"""Times hetero beside ONNX Runtime and OpenVINO: `bench.py [--taken] [--beside OTHER] HETERO REFERENCES OUT [NAME...]`.

models.py says what lies in the folders. With `--beside`, another build of hetero runs in the same turns, both in a new process each round, as
where its memory lies decides some percent of what a process takes; the geometric mean of the ratios is printed.

All run the same model on the same input, in turn: ROUNDS times each runs for BLOCK seconds without a pause, of which the second half counts; a
figure is the median of the rounds' ratios. (On a virtual machine a core that wakes up may share a physical core with the other for some tenths of a
second, and threads that spin while idle do not see that; hence the first half.) Each row says how much of the machine other processes took meanwhile; a
row above 8 % is measured again, twice at most. With `--taken` another process holds one core all the time.
Writes OUT.json and OUT.md.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import onnxruntime
import openvino

from runners import Hetero, Library, OnnxRuntime, jiffies, seconds_of

ROUNDS, BLOCK, LEAST = 5, 0.8, 6
ROUNDS_BESIDE = 9
FOREIGN = 8.0
# Spinning threads of one have stopped before the next begins.
PAUSE = 0.05


class OpenVino(Library):
    name = "openvino"

    def __init__(self, model, feeds, threads):
        core = openvino.Core()
        # f32 like the others; its default on some processors is bf16.
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        network = core.read_model(model)
        network.reshape({port: list(array.shape) for port, array in feeds.items()})
        self.request = core.compile_model(network, "CPU", settings).create_infer_request()
        self.feeds = feeds

    def run(self):
        self.request.infer(self.feeds, share_inputs=True)


def measure(hetero, folder, threads, taken, beside):
    with open(os.path.join(folder, "names.json")) as file:
        ports = json.load(file)
    source, model = os.path.join(folder, "case_0"), os.path.join(folder, "model.onnx")
    feeds = {port: np.load(os.path.join(source, stem) + ".npy") for port, stem in ports["inputs"].items()}
    builds = [("hetero", hetero)] + ([("beside", beside)] if beside else [])
    inputs = {port: os.path.join(source, stem) + ".npy" for port, stem in ports["inputs"].items()}
    start = lambda: [Hetero(name, binary, model, inputs, threads) for name, binary in builds]
    children = start()
    runners = [*children, OnnxRuntime(model, feeds, threads)]
    try:
        runners.append(OpenVino(model, feeds, threads))
    except Exception as error:
        print(f"OpenVINO does not take {os.path.basename(folder)}: {str(error).splitlines()[0]}", file=sys.stderr)
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if taken else None
    counts = [max(LEAST, int(BLOCK * 1e3 / statistics.median(runner.block(3)))) for runner in runners]
    times = [[] for _ in runners]
    children_seconds = lambda: sum(seconds_of(child.process.pid) for child in children)
    began, (busy, own), mine = time.time(), jiffies(), children_seconds()
    ended = 0
    for number in range(ROUNDS_BESIDE if beside else ROUNDS):
        if beside and number > 0:
            ended += children_seconds()
            for child in children:
                child.close()
            children = start()
            runners[:len(children)] = children
            for child in children:
                child.block(3)
        # Who comes first changes.
        order = list(range(len(runners)))
        for index in order[number % len(order):] + order[:number % len(order)]:
            time.sleep(PAUSE)
            block = runners[index].block(counts[index])
            times[index].append(statistics.median(block[len(block) // 2:]))
    (busy_end, own_end), wall = jiffies(), time.time() - began
    spent = own_end - own + ended + children_seconds() - mine + (wall if taken else 0)
    foreign = max(0.0, busy_end - busy - spent) / (wall * os.cpu_count()) * 100
    for child in children:
        child.close()
    if other:
        other.kill()
        other.wait()
    row = {"model": os.path.basename(folder), "threads": threads, "core_taken": taken, "rounds": len(times[0]), "runs_per_round": counts[0], "foreign_cpu_percent": foreign}
    for runner, of in zip(runners, times):
        row[runner.name + "_ms"] = statistics.median(of)
        if runner is not runners[0]:
            row["ratio_" + runner.name] = statistics.median(a / b for a, b in zip(times[0], of))
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--taken", action="store_true")
    parser.add_argument("--beside")
    for name in ("hetero", "references", "out"):
        parser.add_argument(name)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    taken, beside, hetero, references, out = given.taken, given.beside, given.hetero, given.references, given.out
    names = given.names or [n for n in sorted(os.listdir(references)) if not n.endswith("_original")]
    columns = ["model", "threads", "hetero ms", "ONNX Runtime ms", "OpenVINO ms", "hetero ÷ ONNX Runtime", "hetero ÷ OpenVINO", "foreign CPU %"]
    columns += ["÷ other build"] if beside else []
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    print("\n".join(lines), flush=True)
    rows = []
    for name in names:
        for threads in (2,) if taken else (1, 2):
            for _ in range(3):
                found = measure(hetero, os.path.join(references, name), threads, taken, beside)
                if found["foreign_cpu_percent"] <= FOREIGN:
                    break
            rows.append(found)
            number = lambda key: f"{found[key]:.2f}" if key in found else "-"
            cells = [name, str(threads), number("hetero_ms"), number("onnxruntime_ms"), number("openvino_ms")]
            cells += [number("ratio_onnxruntime"), number("ratio_openvino"), f"{found['foreign_cpu_percent']:.1f}"]
            cells += [f"{found['ratio_beside']:.3f}"] if beside else []
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    if beside:
        mean = math.exp(statistics.fmean(math.log(row["ratio_beside"]) for row in rows))
        print(f"geometric mean of the ratios to the other build: {mean:.4f}")
    versions = {"onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__}
    with open(out + ".json", "w") as file:
        json.dump({"versions": versions, "core_taken": taken, "rows": rows}, file, indent=1)
    with open(out + ".md", "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
