#!/usr/bin/env python3
"""Writes OUT.json and OUT.md of what engine/examples/tiles.rs has printed: `tiles.py ROWS OUT`.

Figures are medians. A ratio is the median of the best device alone over that of the tiles, of the same run; two goals stand beside them: within 5 % of the
best single device where devices share the host's cores, and at least 1.9 times for two synthetic devices of equal speed. Where a goal is
missed, says so; it does not fail, as other programs' load decides too.
"""
import json
import os
import statistics
import sys


def shares(row):
    return ", ".join(f"{s['device']} {s['done']} of {s['planned']} planned, {s['stolen']} stolen" for s in row["shares"])


def main():
    rows_file, out = sys.argv[1:]
    with open(rows_file) as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        row["median"] = statistics.median(row["seconds"])
    alone = {row["case"]: row["median"] for row in rows if row["case"].endswith("alone")}
    real = [seconds for case, seconds in alone.items() if not case.startswith(("synthetic", "constant"))]
    lines = [
        "# Matrix products in tiles",
        "",
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end. Synthetic devices take a stated time and are no chips.",
        "",
        "| case | median ms | runs | spread ms | best alone / this | tiles done | error (NMSE) |",
        "|---|---|---|---|---|---|---|",
    ]
    goals = []
    for row in rows:
        best = min(real, default=None)
        for kind in ("synthetic:0", "constant: cpu:0"):
            if kind.split(":")[0] in row["case"]:
                best = alone.get(f"{kind} alone")
        row["ratio"] = best / row["median"] if best and not row["case"].startswith("one tile") else None
        ratio = f"{row['ratio']:.3f}" if row["ratio"] else ""
        spread = f"{1e3 * min(row['seconds']):.0f}–{1e3 * max(row['seconds']):.0f}"
        lines.append(f"| {row['case']} | {1e3 * row['median']:.1f} | {len(row['seconds'])} | {spread} | {ratio} | {shares(row)} | {row['nmse']:.1e} |")
        goal = {"tiles over cpu:0 and opencl:0": 0.95, "constant: tiles over cpu:0 and opencl:0": 0.95,
                "cpu:0 and opencl:0, tiles left to the engine": 0.95, "two synthetic devices of equal speed": 1.9}.get(row["case"])
        if goal and row["ratio"]:
            verdict = "reached" if row["ratio"] >= goal else "MISSED"
            goals.append(f"- {row['case']}: {row['ratio']:.3f} times the best device alone, goal {goal}: {verdict}")
    if not real:
        goals.append("- cpu:0 and opencl:0 were not measured")
    lines += ["", *goals]
    with open(f"{out}.json", "w") as file:
        json.dump(rows, file, indent=1)
    with open(f"{out}.md", "w") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


main()
