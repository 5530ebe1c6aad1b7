#!/usr/bin/env python3
"""Schedules real workflows beside SAGA: `schedule.py EXAMPLE FIRST_ANSWER FOLDER OUT SECONDS SEED`.

EXAMPLE is `scheduler/examples/workflows.rs`, which schedules each workflow of FOLDER on each set of processors. HEFT, PEFT and CPOP are those of anrg-saga, an
implementation that has nothing in common with hetero's; it reads the same files here. The bound is hetero's own: `scheduler/tests` compare it with trying
everything. Then a graph of 10 000 tasks, by `scheduler/examples/first_answer.rs`. Writes OUT.json and OUT.md; fails where a goal is missed.
"""
import json
import logging
import math
import os
import statistics
import subprocess
import sys

import saga
from saga import Network, TaskGraph
from saga.schedulers import CpopScheduler, HeftScheduler, PEFTScheduler

PEERS = {"heft": HeftScheduler, "peft": PEFTScheduler, "cpop": CpopScheduler}
FIRST_ANSWER_MS = 50.0


def instance(path, speeds):
    """The task graph and network, and the bandwidth at which the mean transfer takes as long as the mean task."""
    with open(path) as file:
        workflow = json.load(file)["workflow"]
    sizes = {file["id"]: file["sizeInBytes"] for file in workflow["specification"]["files"]}
    runtimes = {task["id"]: task["runtimeInSeconds"] for task in workflow["execution"]["tasks"]}
    tasks = {task["id"]: task for task in workflow["specification"]["tasks"]}
    edges = []
    for task in tasks.values():
        for child in task["children"]:
            passed = set(task["outputFiles"]) & set(tasks[child]["inputFiles"])
            edges.append((task["id"], child, float(sum(sizes[file] for file in passed))))
    computation = statistics.fmean(runtimes[task] / speed for task in tasks for speed in speeds)
    bandwidth = statistics.fmean(size for _, _, size in edges) / computation
    nodes = [(f"p{index}", speed) for index, speed in enumerate(speeds)]
    links = [(a, b, bandwidth) for a, _ in nodes for b, _ in nodes if a < b]
    graph = TaskGraph.create(tasks=[(task, runtimes[task]) for task in tasks], dependencies=edges)
    return graph, Network.create(nodes=nodes, edges=links), bandwidth


def makespan(scheduler, network, graph):
    """None where the peer refuses its own schedule: it takes some tasks without duration for overlapping ones."""
    try:
        return scheduler().schedule(network, graph).makespan
    except ValueError as error:
        print(f"{scheduler.__name__} fails: {error}", file=sys.stderr)
        return None


def main():
    # It tells of each source and sink that it adds.
    logging.disable(logging.WARNING)
    example, first_answer, folder, out, seconds, seed = sys.argv[1:]
    lines = subprocess.run([example, folder, seconds, seed], check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    table = [
        f"`latency_aware` with {seconds} s beside anrg-saga's HEFT, PEFT and CPOP. Makespans in seconds; the bound is what no schedule falls below.",
        "",
        "| workflow | tasks | speeds | HEFT | PEFT | CPOP | best of them | hetero | over best | bound | over bound |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    missed = []
    for row in rows:
        graph, network, bandwidth = instance(os.path.join(folder, row["workflow"] + ".json"), row["speeds"])
        if not math.isclose(bandwidth, row["bandwidth"], rel_tol=1e-9):
            sys.exit(f"{row['workflow']}: the bandwidth is {bandwidth} here and {row['bandwidth']} there")
        row["peers"] = {name: makespan(scheduler, network, graph) for name, scheduler in PEERS.items()}
        best, ours, bound = min(value for value in row["peers"].values() if value is not None), row["makespans"]["latency_aware"], row["bound"]
        row["best"] = best
        if ours > best * (1 + 1e-9):
            missed.append(f"{row['workflow']} {row['speeds']}: {ours / best:.4f} of the best")
        cells = [row["workflow"], row["tasks"], " ".join(f"{speed:g}" for speed in row["speeds"])]
        cells += ["fails" if row["peers"][name] is None else f"{row['peers'][name]:.4g}" for name in PEERS]
        cells += [f"{best:.5g}", f"{ours:.5g}", f"{ours / best:.4f}", f"{bound:.5g}", f"{ours / bound:.4f}"]
        table.append("| " + " | ".join(map(str, cells)) + " |")
    over = statistics.geometric_mean(row["makespans"]["latency_aware"] / row["best"] for row in rows)
    ours = statistics.geometric_mean(row["makespans"]["latency_aware"] / row["bound"] for row in rows)
    peers = statistics.geometric_mean(row["best"] / row["bound"] for row in rows)
    closed = (peers - ours) / (peers - 1) if peers > 1 else 1.0
    if closed < 0.5:
        missed.append(f"{100 * closed:.0f} % of the distance to the bound are closed, and 50 % are wanted")
    answers = [json.loads(line) for line in subprocess.run([first_answer, "10000", seconds, seed], check=True, capture_output=True, text=True).stdout.splitlines()]
    last = answers[-1]
    if last["first_answer_ms"] > FIRST_ANSWER_MS:
        missed.append(f"the first answer for 10 000 tasks takes {last['first_answer_ms']:.1f} ms, and {FIRST_ANSWER_MS:.0f} ms are allowed")
    table += [
        "",
        f"Geometric means: hetero {over:.4f} of the best of HEFT, PEFT and CPOP; over the bound {peers:.4f} for the best of them and {ours:.4f} for hetero:"
        f" {100 * closed:.0f} % of the distance are closed.",
        f"10 000 tasks on 4 devices: first answer after {last['first_answer_ms']:.1f} ms with {answers[0]['makespan']:.5g} s, after {seconds} s"
        f" {last['makespan']:.5g} s; bound {last['bound']:.5g} s.",
    ]
    table += [f"- missed: {line}" for line in missed] or ["All goals are met."]
    print("\n".join(table), flush=True)
    with open(out + ".json", "w") as file:
        json.dump({"rows": rows, "large": last, "closed": closed, "saga": getattr(saga, "__version__", "2.1.0")}, file, indent=1)
    with open(out + ".md", "w") as file:
        file.write("\n".join(table) + "\n")
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
