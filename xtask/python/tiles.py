#!/usr/bin/env python3
"""Writes OUT.json and OUT.md of what engine/examples/tiles.rs has printed: `tiles.py ROWS OUT`.

Cases of the real devices are run in turn: a ratio is the median, over the rounds, of the time of the best single device over that of the case.
The floor is what the operations of the product take at the rate that the processor's cores were measured to reach together. Two goals stand
beside the ratios: within 5 % of the best single device where devices share the host's cores, and at least 1.9 times for two synthetic devices
of equal speed. Where a goal is missed, says so; it does not fail, as other programs' load decides too.
"""
import json
import os
import statistics
import sys

GOALS = {
    "tiles over cpu:0 and opencl:0": 0.95,
    "constant: tiles over cpu:0 and opencl:0": 0.95,
    "two synthetic devices of equal speed": 1.9,
}


def family(case):
    """What is compared with each other."""
    return next((kind for kind in ("one tile", "synthetic", "constant") if kind in case), "real")


def best_alone(rows, case):
    """The quickest of the single devices of the case's family."""
    alone = [row for row in rows if row["case"].endswith("alone") and family(row["case"]) == family(case)]
    return min(alone, key=lambda row: row["median"], default=None)


def ratios(best, row):
    """Of the rounds that both ran in, where they ran in the same ones; of the medians, and of the shortest runs."""
    pairs = list(zip(best["seconds"], row["seconds"]))
    same = best is row or (family(row["case"]) != "synthetic" and len(pairs) > 2)
    by_round = statistics.median(one / other for one, other in pairs) if same else best["median"] / row["median"]
    return by_round, min(best["seconds"]) / min(row["seconds"])


def shares(row):
    return ", ".join(f"{s['device']} {s['done']} of {s['planned']} planned, {s['stolen']} stolen" for s in row["shares"])


def main():
    rows_file, out = sys.argv[1:]
    with open(rows_file) as file:
        rows = [json.loads(line) for line in file]
    ceiling = next((row for row in rows if "ceiling" in row), None)
    cases = [row for row in rows if "case" in row]
    for row in cases:
        row["median"] = statistics.median(row["seconds"])
    lines = [
        "# Matrix products in tiles",
        "",
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end. Synthetic devices take a stated time and are no chips.",
    ]
    if ceiling:
        rate, threads = ceiling["ceiling"] / 1e9, ceiling["threads"]
        lines.append(f"Floor of the large products: {1e3 * ceiling['floor']:.0f} ms, at {rate:.1f} GFLOP/s of {threads} threads.")
    lines += [
        "",
        "| case | median ms | runs | spread ms | floor / median | best alone / this | of shortest runs | tiles done | error (NMSE) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    goals = []
    for row in cases:
        best = best_alone(cases, row["case"])
        row["ratio"], row["ratio_of_shortest"] = ratios(best, row) if best else (None, None)
        row["floor"] = ceiling["floor"] if ceiling and family(row["case"]) in ("real", "constant") else None
        number = lambda value: f"{value:.3f}" if value else ""
        spread = f"{1e3 * min(row['seconds']):.0f}–{1e3 * max(row['seconds']):.0f}"
        of_floor = number(row["floor"] and row["floor"] / row["median"])
        columns = [row["case"], f"{1e3 * row['median']:.1f}", str(len(row["seconds"])), spread, of_floor]
        columns += [number(row["ratio"]), number(row["ratio_of_shortest"]), shares(row), f"{row['nmse']:.1e}"]
        lines.append(f"| {' | '.join(columns)} |")
        goal = GOALS.get(row["case"])
        if goal and row["ratio"]:
            verdict = "reached" if row["ratio"] >= goal else "MISSED"
            goals.append(f"- {row['case']}: {row['ratio']:.3f} times {best['case']}, goal {goal}: {verdict}")
    if not any(family(row["case"]) == "real" for row in cases):
        goals.append("- cpu:0 and opencl:0 were not measured")
    lines += ["", *goals]
    with open(f"{out}.json", "w") as file:
        json.dump(rows, file, indent=1)
    with open(f"{out}.md", "w") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


main()
