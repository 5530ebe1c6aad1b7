#!/usr/bin/env python3
"""Times models of every type and kind in hetero beside ONNX Runtime and OpenVINO: `bench_types.py [--quick] HETERO CACHE OUT [NAME...]`.

The rows are trained models (trained_models.py) and made ones (made_models.py); `ROWS` is the one table of them, by group. Each row is measured in
a process of its own that tells each figure as soon as it has it, so that a model that crashes, or takes longer than LIMIT seconds for a step, is a
row too. As in bench.py, all run the same model on the same input in turns: ROUNDS times each runs for BLOCK seconds, of which the second half
counts, and a ratio is the median of the rounds' ratios; a row above FOREIGN percent of other processes' time is measured again, twice at most.
`plain %` is the share of hetero's time in plain kernels, by `hetero profile`. With `--quick` there are QUICK rounds, and no row is measured again.
Writes OUT.json and OUT.md.
"""
import argparse
import json
import math
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

import made_models
import trained_models

THREADS, ROUNDS, QUICK, BLOCK, PAUSE, FOREIGN = 2, 5, 3, 0.6, 0.05, 8.0
# Seconds for a step of a row, and for all rounds of one whose runs are slow.
LIMIT, BUDGET = 60, 40

ROWS = {
    "types": [
        "t5-encoder-int8", "t5-decoder-int8", "resnet50-qdq", "matting-uint8", "minilm-dynamic-int8", "slovorez-f16", "diffusion-unet", "speech-encoder",
        "image-transformer-1", "image-transformer-8", "matting-f16", "wake-vad", "painn", "graph-network", "op-qlinear-conv", "op-matmul-integer", "op-conv-f16",
        "op-quantize-linear", "op-topk", "op-einsum", "op-attention",
    ],
    "networks in 8 bits": ["resnet50-qoperator", "mobilenet-qdq"],
    "networks in f16": ["squeezenet-f16", "resnet50-f16", "encoder-6x384-f16"],
    "loops": ["lstm-loop", "gru-step", "slanet-plus"],
    "small": [
        "attacut", "captcha-crnn", "layout-cdla", "seizure", "romanizer-encoder", "romanizer-decoder", "signals-head", "signals-pair", "text-angle", "wake-mel",
        "wake-head", "tashkeel-int8", "voicefilter-int8", "nsnet2", "lac", "swift-f0",
    ],
    "others": [
        "minilm", "layout-order", "page-orientation", "table-process", "table-detect", "kokoro-int8", "ddddocr", "ddddocr-old-int8", "dnsmos", "plcmos", "signals-trees",
        "classifier", "regressor", "iris",
    ],
    "f32, to compare with": ["resnet50-f32", "squeezenet-f32", "encoder-6x384-f32"],
}
# What a model may take of the time of another, both in hetero.
OWN = [("resnet50-qdq", "resnet50-f32", 0.45), ("squeezenet-f16", "squeezenet-f32", 1.1), ("resnet50-f16", "resnet50-f32", 1.1), ("encoder-6x384-f16", "encoder-6x384-f32", 1.1)]


def cases_of(cache, name):
    """The path of a model, and its cases."""
    if name in made_models.MODELS:
        path, feeds = made_models.made(cache, name)
        return path, [("", feeds)]
    return trained_models.cases(cache, name)


def tell(**figures):
    print(json.dumps(figures), flush=True)


def measure(hetero, cache, name, number, rounds):
    """The process of a row: tells its figures on the standard output, a line each."""
    from bench import OpenVino
    from runners import Hetero, OnnxRuntime, jiffies, seconds_of

    path, cases = cases_of(cache, name)
    feeds = cases[number][1]
    peers = []
    for peer in (OnnxRuntime, OpenVino):
        try:
            runner = peer(path, feeds, THREADS)
            first = runner.block(1)[0]
            peers.append((runner, min(runner.block(1)[0], first)))
            tell(**{peer.name + "_ms": peers[-1][1]})
        except Exception as error:
            tell(**{peer.name + "_failure": " ".join(str(error).split())[:200]})
    with tempfile.TemporaryDirectory() as folder:
        inputs = {}
        for position, (port, content) in enumerate(feeds.items()):
            inputs[port] = os.path.join(folder, f"{position}.npy")
            np.save(inputs[port], content)
        with open(os.path.join(folder, "errors"), "w+") as errors:
            child = Hetero("hetero", hetero, path, inputs, THREADS, errors)
            try:
                first = child.block(1)[0]
                tell(hetero_ms=first)
                second = child.block(1)[0] if first < 10e3 else first
            except RuntimeError:
                errors.seek(0)
                tell(failure=" ".join(errors.read().split())[:300])
                return
        runners = [(child, min(first, second)), *peers]
        times = [[] for _ in runners]
        counts = [max(1, int(BLOCK * 1e3 / max(of, 1e-3))) for _, of in runners]
        round_ms = sum(count * of for count, (_, of) in zip(counts, runners))
        began, (busy, own), mine = time.time(), jiffies(), seconds_of(child.process.pid)
        for turn in range(max(1, min(rounds, int(BUDGET * 1e3 / round_ms)))):
            # Who comes first changes.
            order = list(range(len(runners)))
            for index in order[turn % len(order):] + order[:turn % len(order)]:
                time.sleep(PAUSE)
                block = runners[index][0].block(counts[index])
                times[index].append(statistics.median(block[len(block) // 2:]))
        (busy_end, own_end), wall = jiffies(), time.time() - began
        spent = own_end - own + seconds_of(child.process.pid) - mine
        row = {"rounds": len(times[0]), "foreign_cpu_percent": max(0.0, busy_end - busy - spent) / (wall * os.cpu_count()) * 100}
        for (runner, _), of in zip(runners, times):
            row[runner.name + "_ms"] = statistics.median(of)
            if runner is not child:
                row["ratio_" + runner.name] = statistics.median(a / b for a, b in zip(times[0], of))
        with open(f"/proc/{child.process.pid}/status") as file:
            row["hetero_resident_mb"] = next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))
        tell(**row)
        child.close()
        command = [hetero, "profile", "--device", "cpu:0", path, "--threads", str(THREADS), "--json"]
        for port, file in inputs.items():
            command += ["--input", f"{port}={file}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            kernels = json.loads(done.stdout)["rows"]
            total = sum(kernel["us"] for kernel in kernels) or 1.0
            plain = [kernel for kernel in kernels if kernel["kernel"].startswith("oracle")]
            tell(plain_percent=sum(kernel["us"] for kernel in plain) / total * 100, plain_operators=sorted({kernel["operators"] for kernel in plain}))


def row_of(hetero, cache, name, number, rounds):
    """Runs the process of a row until it ends or a step takes too long."""
    command = [sys.executable, os.path.abspath(__file__), "--row", name, str(number), "--rounds", str(rounds), hetero, cache, "-"]
    with tempfile.TemporaryFile("w+") as errors:
        # A session of its own, so that what the process started ends with it.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        lines = queue.Queue()

        def read():
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        row = {"model": name}
        try:
            while (line := lines.get(timeout=LIMIT + (BUDGET if "hetero_ms" in row else 0))) is not None:
                row.update(json.loads(line))
        except queue.Empty:
            if "hetero_ms" not in row:
                row["failure"] = f"no end in {LIMIT} s"
        finally:
            # What the row has started ends with it, also where the benchmark is interrupted.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if process.wait() not in (0, -signal.SIGKILL) and "hetero_ms" not in row and "failure" not in row:
            errors.seek(0)
            row["failure"] = f"the process of the row ended with {process.returncode}: " + " ".join(errors.read().split())[-200:]
    peers = [row[key] for key in ("onnxruntime_ms", "openvino_ms") if key in row]
    if "hetero_ms" in row and peers:
        ratios = [row[key] for key in ("ratio_onnxruntime", "ratio_openvino") if key in row]
        row["ratio"] = max(ratios) if ratios else row["hetero_ms"] / min(peers)
    return row


def mean(ratios):
    return math.exp(statistics.fmean(map(math.log, ratios)))


def summary(rows):
    """Lines with the geometric means of groups, and with what models take of the time of others."""
    lines = []
    for group in [*ROWS, None]:
        of = [row for row in rows if group in (row["group"], None)]
        ratios = [row["ratio"] for row in of if "ratio" in row]
        if ratios:
            title = f"The geometric mean over {group}" if group else "The geometric mean over all"
            failed = len(of) - len(ratios)
            lines.append(f"- {title} is {mean(ratios):.2f} of the faster peer's time, in {len(ratios)} row{'s' if len(ratios) > 1 else ''}" + (f"; {failed} have no end or an error." if failed else "."))
    times = {row["model"]: row["hetero_ms"] for row in rows if "hetero_ms" in row}
    for one, other, goal in OWN:
        if one in times and other in times:
            lines.append(f"- {one} takes {times[one] / times[other]:.2f} of the time of {other} (goal {goal:.2f}).")
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--row", nargs=2)
    parser.add_argument("--rounds", type=int)
    for name in ("hetero", "cache", "out"):
        parser.add_argument(name)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    if given.row:
        return measure(given.hetero, given.cache, given.row[0], int(given.row[1]), given.rounds)
    known = {name: group for group, names in ROWS.items() for name in names}
    if unknown := set(given.names) - set(known):
        sys.exit(f"unknown models: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    trained_models.join(given.cache)
    columns = ["model", "case", "hetero ms", "ONNX Runtime ms", "OpenVINO ms", "÷ faster peer", "plain %", "RSS MB", "foreign CPU %"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    print("\n".join(lines), flush=True)
    rows = []
    for name in given.names or known:
        _, cases = cases_of(given.cache, name)
        for number, (label, _) in enumerate(cases):
            for _ in range(1 if given.quick else 3):
                row = row_of(given.hetero, given.cache, name, number, QUICK if given.quick else ROUNDS)
                if row.get("foreign_cpu_percent", 0.0) <= FOREIGN:
                    break
            row.update(case=label, group=known[name])
            rows.append(row)
            of = lambda key, form=".2f": format(row[key], form) if key in row else "-"
            cells = [name, label or "-", of("hetero_ms", ".3f"), of("onnxruntime_ms", ".3f"), of("openvino_ms", ".3f"), row.get("failure") or of("ratio")]
            cells += [of("plain_percent", ".1f"), of("hetero_resident_mb", ".0f"), of("foreign_cpu_percent", ".1f")]
            lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
            print(lines[-1], flush=True)
    lines += ["", *summary(rows)]
    print("\n".join(summary(rows)))
    with open(given.out + ".json", "w") as file:
        json.dump({"rows": rows}, file, indent=1)
    with open(given.out + ".md", "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
