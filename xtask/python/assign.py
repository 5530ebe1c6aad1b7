#!/usr/bin/env python3
"""Solves assignment problems with hetero and with HiGHS: `assign.py HETERO DATA OUT SECONDS [NAME...]`.

DATA is a folder with instances in the OR-Library's text form for generalised assignment, and `bounds.tsv`, which has for each the proven
lower and the best known upper bound. Each instance is solved by both, one after the other, on one core, in so many seconds each. What
either says of an assignment is checked here. Writes OUT.json and OUT.md; exit code 1 if a goal is missed.
"""
import json
import os
import subprocess
import sys
import time

import highspy
import numpy as np

# How much above the best known upper bound a type of instance may end, in percent.
GOALS = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.15, "e": 0.05}


def one_core():
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def read(path):
    """Costs and resources by row of the device, and the budgets."""
    with open(path) as file:
        numbers = [int(word) for word in file.read().split()]
    devices, jobs = numbers[:2]
    tables = np.array(numbers[2:2 + 2 * devices * jobs]).reshape(2, devices, jobs)
    return tables[0], tables[1], np.array(numbers[2 + 2 * devices * jobs:])


def check(instance, assignment, value):
    costs, resources, budgets = instance
    devices, jobs = costs.shape
    if len(assignment) != jobs or any(not 0 <= device < devices for device in assignment):
        return "not a device for each job"
    place = (np.array(assignment), np.arange(jobs))
    held = np.bincount(assignment, weights=resources[place], minlength=devices)
    if (held > budgets).any():
        return "a budget is not kept"
    return None if abs(costs[place].sum() - value) < 1e-6 else "the value is another"


def ours(hetero, path, instance, seconds):
    began = time.perf_counter()
    command = [hetero, "assign", path, "--json", "--seconds", str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{path}: hetero failed")
    result = json.loads(done.stdout)
    wrong = check(instance, result["assignment"], result["value"])
    if wrong:
        sys.exit(f"{path}: hetero's assignment is wrong: {wrong}")
    return {"value": result["value"], "bound": result["bound"], "gap": result["gap"], "proved": result["proved"], "seconds": time.perf_counter() - began}


def highs(instance, seconds):
    costs, resources, budgets = instance
    devices, jobs = costs.shape
    model = highspy.Highs()
    model.silent()
    for option, value in (("time_limit", float(seconds)), ("threads", 1), ("mip_rel_gap", 0.0), ("mip_abs_gap", 0.999)):
        model.setOptionValue(option, value)
    model.addVars(devices * jobs, np.zeros(devices * jobs), np.ones(devices * jobs))
    columns = np.arange(devices * jobs, dtype=np.int32)
    model.changeColsCost(len(columns), columns, costs.ravel().astype(float))
    model.changeColsIntegrality(len(columns), columns, np.full(len(columns), highspy.HighsVarType.kInteger))
    for job in range(jobs):
        model.addRow(1.0, 1.0, devices, np.arange(devices, dtype=np.int32) * jobs + job, np.ones(devices))
    for device in range(devices):
        row = np.arange(jobs, dtype=np.int32) + device * jobs
        model.addRow(-highspy.kHighsInf, float(budgets[device]), jobs, row, resources[device].astype(float))
    began = time.perf_counter()
    model.run()
    took = time.perf_counter() - began
    info = model.getInfo()
    found = {"value": None, "bound": float(np.ceil(info.mip_dual_bound - 1e-6)), "seconds": took}
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        solution = np.array(model.getSolution().col_value).reshape(devices, jobs)
        assignment = solution.argmax(axis=0)
        found["value"] = float(costs[assignment, np.arange(jobs)].sum())
        if check(instance, assignment, found["value"]):
            found["value"] = None
    return found


def main():
    hetero, data, out, seconds, *names = sys.argv[1:]
    one_core()
    bounds = {}
    with open(os.path.join(data, "bounds.tsv")) as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                name, low, high = line.split()
                bounds[name] = (int(low), int(high))
    unknown = [name for name in names if name not in bounds]
    if unknown:
        sys.exit(f"bounds.tsv has no {', '.join(unknown)}")
    columns = ["instance", "hetero", "bound", "gap %", "s", "HiGHS", "bound", "s", "best known", "hetero above it %", "HiGHS above it %", "goal %"]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    print("\n".join(lines), flush=True)
    rows, missed = [], []
    for name in names or bounds:
        path = os.path.join(data, name + ".txt")
        instance = read(path)
        mine, theirs, best = ours(hetero, path, instance, seconds), highs(instance, seconds), bounds[name][1]
        above = lambda value: None if value is None else (value / best - 1) * 100
        goal = GOALS[name[0]]
        row = {"instance": name, "hetero": mine, "highs": theirs, "best_known": best, "proven_bound": bounds[name][0], "above": above(mine["value"]), "highs_above": above(theirs["value"]), "goal": goal}
        rows.append(row)
        if row["above"] > goal + 1e-9 or mine["bound"] > best:
            missed.append(name)
        text = lambda value, digits: "-" if value is None else f"{value:.{digits}f}"
        cells = [name, text(mine["value"], 0), text(mine["bound"], 0), text(mine["gap"] * 100, 3), text(mine["seconds"], 1), text(theirs["value"], 0), text(theirs["bound"], 0), text(theirs["seconds"], 1), str(best), text(row["above"], 3), text(row["highs_above"], 3), text(goal, 2)]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    with open(out + ".json", "w") as file:
        json.dump({"seconds": float(seconds), "highs": highspy.Highs().version(), "rows": rows, "missed": missed}, file, indent=1)
    with open(out + ".md", "w") as file:
        file.write("\n".join(lines) + "\n")
    if missed:
        sys.exit(f"goals missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
