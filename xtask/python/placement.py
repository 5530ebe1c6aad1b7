#!/usr/bin/env python3
"""Calibrates for models, and compares predictions and plans with runs: `placement.py HETERO PROFILE OUT SECONDS CUTS SEED MODEL...`.

All is `hetero calibrate` and `hetero calibrate --check` on every device that is found; this adds the table and the goals:

    operators   median error of predictions over what each device does as one, at most 10 %
    split       predicted against measured latency of plans over several devices, within 15 %; each model is cut anywhere, CUTS times
    planned     the plan that the engine makes of all devices is never slower than the best device alone by more than 2 %, by turns in one run

Runs on emulators and on lavapipe say nothing about chips; here they are devices like others. Where a goal is missed it says so and does not fail, as
other programs' load decides too. Writes OUT.json and OUT.md.
"""
import json
import os
import subprocess
import sys

OPERATORS, SPLIT, PLANNED = 0.10, 0.15, 0.98


def name(path):
    return os.path.basename(os.path.dirname(path))


def main():
    hetero, profile, out, seconds, cuts, seed, *models = sys.argv[1:]
    limits = ["--seconds", seconds]
    subprocess.run([hetero, "calibrate", *models, *limits, "--out", profile], check=True)
    load = os.getloadavg()[0]
    check = [hetero, "calibrate", "--check", *models, *limits, "--profile", profile, "--cuts", cuts, "--seed", seed, "--json"]
    found = json.loads(subprocess.run(check, check=True, stdout=subprocess.PIPE, text=True).stdout)
    percent = lambda share: f"{100 * share:.1f} %"
    lines = [
        "# Predictions and plans beside runs",
        "",
        f"{os.cpu_count()} cores, load {load:.1f} before the check and {os.getloadavg()[0]:.1f} after it; seed {seed} of the cuts.",
        "",
        "| model | device | run, ms | median error | 90 % within | whole run | median without nodes like these |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["checks"]:
        known, held_out = row["known"], row["held_out"]
        lines.append(f"| {row['model']} | {row['device']} | {1e3 * row['seconds']:.2f} | {percent(known['median'])} | {percent(known['p90'])} | {percent(known['whole'])} | {percent(held_out['median'])} |")
    lines += ["", "| model | plan | devices | partitions | predicted, ms | measured, ms | error |", "|---|---|---|---|---|---|---|"]
    for model in found["plans"]:
        for row in model["plans"]:
            lines.append(f"| {model['model']} | {row['plan']} | {', '.join(row['devices'])} | {row['partitions']} | {1e3 * row['predicted']:.2f} | {1e3 * row['measured']:.2f} | {percent(row['error'])} |")
    lines += ["", "| model | best device alone | its time over the plan's, by turns |", "|---|---|---|"]
    best = [(model["model"], model["best_alone"]) for model in found["plans"] if model["best_alone"]]
    lines += [f"| {model} | {one['device']} | {one['ratio']:.3f} |" for model, one in best]

    verdict = lambda met: "reached" if met else "MISSED"
    lines.append("")
    for row in found["medians"]:
        lines.append(f"- operators on {row['device']}: median error {percent(row['known'])}, goal {percent(OPERATORS)}: {verdict(row['known'] <= OPERATORS)}")
    split = [abs(row["error"]) for model in found["plans"] for row in model["plans"] if len(row["devices"]) > 1]
    if split:
        within = sum(error <= SPLIT for error in split)
        lines.append(f"- {len(split)} split plans: {within} within {percent(SPLIT)}, the worst {percent(max(split))}: {verdict(within == len(split))}")
    if best:
        worst = min(best, key=lambda one: one[1]["ratio"])
        lines.append(f"- plans of all devices: the worst is {worst[1]['ratio']:.3f} times as fast as the best device alone ({worst[0]}), goal {PLANNED}: {verdict(worst[1]['ratio'] >= PLANNED)}")
    with open(out + ".json", "w") as file:
        json.dump(found, file, indent=1)
    with open(out + ".md", "w") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


main()
