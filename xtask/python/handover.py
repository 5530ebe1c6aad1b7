#!/usr/bin/env python3
"""Prints what handing a tensor from the CPU to a device and back takes: `handover.py HETERO OUT ROWS...`.

ROWS are files with a line of JSON for each device and size, as the examples `handover_…` of the backends print them. Beside them a session does the same with a
model on the devices of each row: Relu on the CPU, Neg on the device, Relu on the CPU; its report says what was copied between the two.
Writes OUT.json and OUT.md. Where a goal is missed, says so; it does not fail, as other programs' load decides too.
"""
import json
import os
import subprocess
import sys
import tempfile

import onnx
from onnx import TensorProto, helper

FOREIGN = 8.0
# Goals: microseconds above the driver's own launch, microseconds at p99 on Intel's OpenCL for its processors, part of the staged way from 1 MiB on.
ABOVE, INTEL_P99, OF_STAGED, LARGE = 5.0, 18.0, 0.6, 1 << 20


def model(folder, size):
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size // 4]) for name in ("x", "y")]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="before"),
        helper.make_node("Neg", ["a"], ["b"], name="handed"),
        helper.make_node("Relu", ["b"], ["y"], name="after"),
    ]
    graph = helper.make_graph(nodes, "handover", ports[:1], ports[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = os.path.join(folder, "model.onnx")
    onnx.save(made, path)
    return path


def session(hetero, folder, device, size):
    """Bytes that a session hands over in place, and that it copies, between the CPU and the device; and why."""
    command = [hetero, "run", model(folder, size), "--random", "1", "--json", "--device", "cpu:0", "--device", device]
    command += ["--place", f"before=cpu:0,handed={device},after=cpu:0"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return {"error": done.stderr.strip().splitlines()[0] if done.stderr.strip() else "failed"}
    between = [edge for edge in json.loads(done.stdout)["edges"] if {edge["from"], edge["to"]} == {"cpu:0", device}]
    return {
        "edges": len(between),
        "zero_copy_bytes": sum(edge["zero_copy_bytes"] for edge in between),
        "staged_bytes": sum(edge["staged_bytes"] for edge in between),
        "reason": "; ".join(edge["reason"] for edge in between if edge["reason"]),
    }


def goals(row):
    """Each goal that applies to the row, and whether it is met."""
    if not row["in_place"]:
        return {}
    ours, driver, staged, by_session = row["in_place"], row["driver"], row["staged"], row["session"]
    found = {f"p50 within {ABOVE:.0f} µs of the driver's own launch": ours["p50"] <= driver["p50"] + ABOVE}
    if row["device"].startswith("opencl:") and "Intel(R) Corporation" in row["vendor"]:
        found[f"Intel's OpenCL for processors: p99 at most {INTEL_P99:.0f} µs"] = ours["p99"] <= INTEL_P99
    if row["bytes"] >= LARGE:
        found["from 1 MiB on 40 % below staged"] = ours["p50"] <= OF_STAGED * staged["p50"]
    in_place = by_session.get("staged_bytes") == 0 and by_session.get("zero_copy_bytes") == 2 * row["bytes"]
    found["in place: seen at the pages' own address, no bytes copied"] = bool(row["address"]) and not row["import_bytes"] and in_place
    return found


def size(count):
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def pair(latency):
    return f"{latency['p50']:.1f} / {latency['p99']:.1f}" if latency else "-"


def main():
    hetero, out, files = sys.argv[1], sys.argv[2], sys.argv[3:]
    rows = [json.loads(line) for file in files for line in open(file)]
    if not rows:
        sys.exit("no device was measured")
    columns = ["device", "size", "in place µs", "driver's own launch µs", "above it, p50", "staged µs", "below staged", "address", "session: in place / copied bytes", "foreign CPU %"]
    lines = [
        "Each time is p50 / p99. The kernel is one work item that adds 1 to a word. An address is that of the host's pages, where the device's write was seen.",
        "The driver's own launch is on a queue of the kind that hetero has (Intel's: kernels of one group on the calling thread).",
        "",
    ]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    met = {}
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            row["session"] = session(hetero, folder, row["device"], row["bytes"])
            row["goals"] = goals(row)
            for goal, reached in row["goals"].items():
                met.setdefault(goal, []).append((reached, f"{row['device']} {size(row['bytes'])}"))
            ours, by_session = row["in_place"], row["session"]
            foreign = row["foreign_percent"]
            cells = [row["device"] + (" (emulated)" if row["emulated"] else ""), size(row["bytes"]), pair(ours), pair(row["driver"])]
            cells += [f"{ours['p50'] - row['driver']['p50']:+.1f}" if ours else "-", pair(row["staged"])]
            cells += [f"{100 * (1 - ours['p50'] / row['staged']['p50']):.0f} %" if ours else "-"]
            cells += [hex(row["address"]) if row["address"] else "-"]
            cells += [by_session.get("error") or f"{by_session['zero_copy_bytes']} / {by_session['staged_bytes']}"]
            cells += ["?" if foreign is None else f"{foreign:.1f}" + (" (noisy)" if foreign > FOREIGN else "")]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Goals:", ""]
    for goal, rows_of in met.items():
        missed = [name for reached, name in rows_of if not reached]
        lines.append(f"- {goal}: {len(rows_of) - len(missed)} of {len(rows_of)} rows" + (f"; not {', '.join(missed)}" if missed else ""))
    print("\n".join(lines), flush=True)
    with open(out + ".json", "w") as file:
        json.dump({"rows": rows}, file, indent=1)
    with open(out + ".md", "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
