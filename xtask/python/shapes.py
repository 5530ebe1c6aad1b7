#!/usr/bin/env python3
"""Times models whose sizes change from run to run, beside ONNX Runtime: `shapes.py EXAMPLE OUT SEED [--quick] [--only NAME]`.

EXAMPLE is engine/examples/shapes.rs, whose commands are described there. transformers.py makes the two models: an encoder of 12 layers and 768
columns, which gets sentences of random lengths from 1 to 512, and a decoder of 6 layers and 512 columns, which goes on token by token, each run
with the cache that the last one gave. Of each step there are

    first    the run on the loaded model, whose sizes are mostly new, with what it plans and compiles
    again    the same run again, the least of several; before each of them, the run before it is made again, so that all find the same in the processor's caches
    alone    a plan that was made and compiled for exactly these sizes alone, by turns with `again` and behind the same run; making it is not counted
    peer     ONNX Runtime, which runs the same inputs in the same process each time: its first run of these sizes, and the least of several

The last three are measured at every STRIDE-th run. hetero and ONNX Runtime take turns, block by block, and wait until the threads of the other
sleep. `first ÷ alone` is over the median of `alone`, `again ÷ alone` and `÷ ONNX Runtime` are of the least times, and a cell is the median of its steps.

Another process runs all steps once more with a trace, which tells what each run plans and compiles, and is asked for its memory.

Outputs are compared with ONNX Runtime's, and those of `first` with those of `alone`, bit by bit: a difference ends in exit code 1. Goals of time and memory are only
told, as other programs' load decides too. Writes OUT.json and OUT.md, and the models into the folder OUT.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import onnxruntime

import transformers

THREADS = 2
# Before each block, and before each run, as in the example.
PAUSE, BETWEEN = 0.05, 200e-6
# Steps that no goal is for: the model's first plans are made there.
WARM = 5
STRIDE = 5
# What a step may take over that of a plan alone, in seconds of planning and compiling, and in memory over that of the first steps.
GOAL, MOST_PREPARING, MOST_MEMORY = 1.05, 5e-3, 1.1
AGREEMENT = 1e-3
PROMPT = 16
VOCABULARY = {"encoder": 30522, "decoder": 8000}
BOUNDS = [32, 128, 256, 512, 768, 1 << 20]


def rounds_for(seconds):
    """How often a run is repeated."""
    return int(min(12, max(3, 0.3 / seconds)))


class Hetero:
    def __init__(self, example, model, vocabulary):
        command = [example, model, str(THREADS), str(vocabulary)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words):
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            sys.exit("the example has ended")
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the example has failed")
        return json.loads(line)

    def next(self, counts):
        return self.ask("next", *counts)["seconds"]

    def output(self, path):
        shape = self.ask("write", path)["shape"]
        return np.fromfile(path, np.float32).reshape(shape)

    def close(self):
        self.process.stdin.close()
        if self.process.wait() != 0:
            sys.exit("the example has failed")


class OnnxRuntime:
    def __init__(self, model, vocabulary):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = THREADS, 3
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.names = [port.name for port in self.session.get_outputs()]
        self.vocabulary, self.past, self.cache = vocabulary, 0, {}

    def inputs(self, count):
        total = self.past + count
        new, all = np.arange(self.past, total, dtype=np.int64), np.arange(total, dtype=np.int64)
        feeds = {}
        for port in self.session.get_inputs():
            if port.name == "input_ids":
                feeds[port.name] = ((new * new * 7 + new * 13 + 5) % self.vocabulary)[None]
            elif port.name == "position_ids":
                feeds[port.name] = new[None]
            elif port.name == "attention_mask":
                feeds[port.name] = (all % 16 != 7).astype(np.int64)[None]
            else:
                heads, columns = port.shape[1], port.shape[3]
                feeds[port.name] = self.cache.get(port.name, np.zeros((1, heads, 0, columns), np.float32))
        return feeds

    def run(self):
        time.sleep(BETWEEN)
        start = time.perf_counter()
        self.outputs = self.session.run(None, self.feeds)
        return time.perf_counter() - start

    def next(self, count):
        self.feeds = self.inputs(count)
        seconds = self.run()
        cached = {name: value for name, value in zip(self.names, self.outputs) if name.startswith("present.")}
        self.cache = {name.replace("present", "past_key_values", 1): value for name, value in cached.items()}
        self.past += count if cached else 0
        return seconds


def blocks_of(name, quick, rng):
    """Lists of steps, the number of new elements of each; only the last of a list is compared."""
    if name == "encoder":
        lengths = rng.integers(1, 513, 50 if quick else 500).tolist()
        return [lengths[start : start + STRIDE] for start in range(0, len(lengths), STRIDE)]
    return [[PROMPT]] + [[1] * STRIDE] * ((100 if quick else 1000) // STRIDE)


def measure(example, folder, name, blocks):
    """Times all blocks; returns a row for each."""
    model, vocabulary = os.path.join(folder, f"{name}.onnx"), VOCABULARY[name]
    hetero, peer = Hetero(example, model, vocabulary), OnnxRuntime(model, vocabulary)
    rows, steps, size = [], 0, 0

    def ours(row, block):
        row["first"] = hetero.next(block)
        row.update(hetero.ask("alone", rounds_for(row["first"][-1])))

    def theirs(row, block):
        row["peer_first"] = [peer.next(count) for count in block]
        row["peer"] = [peer.run() for _ in range(rounds_for(row["peer_first"][-1]))]

    for number, block in enumerate(blocks):
        size = block[-1] if name == "encoder" else size + sum(block)
        row = {"size": size, "warm": steps >= WARM}
        # Who comes first changes.
        for part in (ours, theirs)[:: 1 if number % 2 == 0 else -1]:
            time.sleep(PAUSE)
            part(row, block)
        steps += len(block)
        if not row["same"]:
            sys.exit(f"{name}: a plan for size {size} alone has other outputs")
        if number % max(1, len(blocks) // 25) == 0 or number + 1 == len(blocks):
            expected, actual = peer.outputs[0], hetero.output(os.path.join(folder, "output.bin"))
            if actual.shape != expected.shape:
                sys.exit(f"{name}: the output of size {size} is {actual.shape}, not {expected.shape}")
            row["difference"] = float(np.abs(actual - expected).max() / np.ptp(expected))
            if not row["difference"] <= AGREEMENT:
                sys.exit(f"{name}: the output of size {size} differs from ONNX Runtime's by {row['difference']:.1e} of its range")
        rows.append(row)
        if number % 25 == 24:
            print(f"{name}: {number + 1} of {len(blocks)}", file=sys.stderr, flush=True)
    hetero.close()
    return rows


def tell(example, folder, name, blocks):
    """Runs all steps with a trace; returns what each has planned and compiled, and the memory held after the first steps and in the end."""
    hetero = Hetero(example, os.path.join(folder, f"{name}.onnx"), VOCABULARY[name])
    steps, held = [], []
    for count in (count for block in blocks for count in block):
        steps.append(hetero.ask("told", count))
        if len(steps) == WARM:
            held.append(hetero.ask("held"))
    held.append(hetero.ask("held"))
    hetero.close()
    return steps, held


def table(name, rows):
    """Returns the lines of a table over ranges of sizes, and the ratios that goals are for."""
    what = "length" if name == "encoder" else "cache after the run"
    columns = [what, "runs compared", "first ms", "again ms", "alone ms", "first ÷ alone", "95 % of them ≤", "again ÷ alone", "ONNX Runtime ms", "first ÷ its first", "again ÷ ONNX Runtime"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    goals, least = [], 0
    for bound in BOUNDS:
        part = [row for row in rows if row["warm"] and least < row["size"] <= bound]
        least = bound
        if not part:
            continue
        median = lambda value: statistics.median(map(value, part))
        ratios = [row["first"][-1] / statistics.median(row["alone"]) for row in part]
        first, again = statistics.median(ratios), median(lambda row: min(row["again"]) / min(row["alone"]))
        goals.append(max(first, again))
        ms = lambda value: f"{1e3 * median(value):.2f}"
        cells = [f"{min(row['size'] for row in part)} to {max(row['size'] for row in part)}", str(len(part))]
        cells += [ms(lambda row: row["first"][-1]), ms(lambda row: min(row["again"])), ms(lambda row: min(row["alone"]))]
        cells += [f"{first:.3f}", f"{np.quantile(ratios, 0.95):.3f}", f"{again:.3f}", ms(lambda row: min(row["peer"]))]
        cells += [f"{median(lambda row: row['first'][-1] / row['peer_first'][-1]):.2f}", f"{median(lambda row: min(row['again']) / min(row['peer'])):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines, max(goals)


def verdict(value, goal):
    return "reached" if value <= goal else "MISSED"


def report(name, rows, steps, held):
    lines, ratio = table(name, rows)
    preparing = [step["planning"] + step["compiling"] for step in steps[WARM:]]
    made = [after["plans_made"] > before["plans_made"] for before, after in zip(steps[WARM - 1 :], steps[WARM:])]
    served = [seconds for seconds, is_new in zip(preparing, made) if not is_new] or [0.0]
    over = sum(seconds > MOST_PREPARING for seconds in preparing)
    growth = held[1]["resident"] / held[0]["resident"]
    megabytes = lambda bytes: f"{bytes / 1e6:.0f} MB"
    runs = [row for row in rows if row["warm"]]
    total = sum(row["first"][-1] for row in runs) / sum(statistics.median(row["alone"]) for row in runs)
    differences = [row["difference"] for row in rows if "difference" in row]
    lines += [
        "",
        f"- time of a run over that of a plan alone, `first` or `again`, in the worst row: {ratio:.3f}, goal {GOAL}: {verdict(ratio, GOAL)}; of all `first` together {total:.3f}",
        f"- planning and compiling in a run, after {WARM} runs: median {1e3 * statistics.median(preparing):.2f} ms, most {1e3 * max(preparing):.2f} ms, goal {1e3 * MOST_PREPARING:.0f} ms: {verdict(max(preparing), MOST_PREPARING)}; "
        f"{over} of {len(preparing)} runs took more; {sum(made)} made a plan; without these most {1e3 * max(served):.2f} ms",
        f"- resident memory after {WARM} runs {megabytes(held[0]['resident'])}, after {len(steps)} runs {megabytes(held[1]['resident'])}: {growth:.2f} times, goal {MOST_MEMORY}: "
        + (verdict(growth, MOST_MEMORY) if name == "encoder" else f"not for a cache, which grew from {megabytes(held[0]['cache'])} to {megabytes(held[1]['cache'])} itself"),
        f"- the loaded model: {held[1]['plans_made']} plans made, {held[1]['plans_kept']} kept, arena {megabytes(held[1]['arena'])}" + (f"; {held[1]['notes']}" if held[1]["notes"] else ""),
        f"- outputs: the same to the bit as those of a plan alone in all {len(rows)}; largest difference from ONNX Runtime in {len(differences)} of them {max(differences):.1e} of the range, {AGREEMENT:.0e} allowed",
    ]
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["encoder", "decoder"])
    for argument in ("example", "out", "seed"):
        parser.add_argument(argument)
    given = parser.parse_args()
    seed, folder = int(given.seed), given.out
    os.makedirs(folder, exist_ok=True)
    make = {
        "encoder": lambda path: transformers.encoder(path, seed, 12, 768, 12, VOCABULARY["encoder"]),
        "decoder": lambda path: transformers.decoder(path, seed, 6, 512, 8, VOCABULARY["decoder"]),
    }
    lines, found = [], {"versions": {"onnxruntime": onnxruntime.__version__}, "seed": seed, "quick": given.quick}
    for name in [given.only] if given.only else make:
        make[name](os.path.join(folder, f"{name}.onnx"))
        blocks = blocks_of(name, given.quick, np.random.default_rng(seed))
        rows = measure(given.example, folder, name, blocks)
        steps, held = tell(given.example, folder, name, blocks)
        found[name] = {"rows": rows, "steps": steps, "held": held}
        title = f"The {name}, {sum(map(len, blocks))} runs, {THREADS} threads; load {os.getloadavg()[0]:.1f} at the end:"
        part = [title, "", *report(name, rows, steps, held), ""]
        print("\n".join(part), flush=True)
        lines += part
    with open(given.out + ".json", "w") as file:
        json.dump(found, file, indent=1)
    with open(given.out + ".md", "w") as file:
        file.write("\n".join(lines))


main()
