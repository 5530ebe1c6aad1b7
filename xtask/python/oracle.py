#!/usr/bin/env python3
"""Compares the oracle with ONNX Runtime on generated cases: `oracle.py CASES EXCEPTIONS`.

CASES is what `hetero conformance save` writes: a folder per case, laid out as the standard's own, with the oracle's outputs. Each model runs in
ONNX Runtime on the CPU, unoptimised. Outputs agree where types, shapes, NaN and infinities are the same, and the normalised mean squared error
is at most 1e-6 (f32, f64) or 1e-3 (f16, bf16); integers are equal. EXCEPTIONS lists where ONNX Runtime is known to stray from the
standard: a line is `start of a name | reason`, where `*` stands for any text; a line that no disagreement needs is an error, so that the list
stays true, except where its reason starts with `sometimes:`, as it depends on the numbers drawn. Models that ONNX Runtime does not take (types
without a kernel) are counted, by operator.
"""
import collections
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

LIMITS = {"float32": 1e-6, "float64": 1e-6, "float16": 1e-3, "bfloat16": 1e-3}


# Types that ONNX Runtime cannot pass through NumPy, and the type that holds all their values.
WIDER = {
    getattr(onnx.TensorProto, name): wider
    for names, wider in [
        ("BFLOAT16 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT8E8M0 FLOAT4E2M1", onnx.TensorProto.FLOAT),
        ("INT4 UINT4 INT2 UINT2", onnx.TensorProto.INT32),
    ]
    for name in names.split()
}


def tensor(path):
    proto = onnx.TensorProto()
    with open(path, "rb") as file:
        proto.ParseFromString(file.read())
    return proto


def load(folder, kind):
    data = os.path.join(folder, "test_data_set_0")
    names = sorted((name for name in os.listdir(data) if name.startswith(kind)), key=lambda name: int(name[len(kind) + 1 : -3]))
    return [tensor(os.path.join(data, name)) for name in names]


def prepared(folder):
    """The model and its inputs. NumPy has no types narrower than a byte and no bf16, so ONNX Runtime cannot pass them: such inputs become
    initialisers, and such outputs are cast, which loses nothing."""
    model = onnx.load(os.path.join(folder, "model.onnx"))
    graph, values = model.graph, {}
    for proto in load(folder, "input"):
        if proto.data_type in WIDER:
            graph.initializer.append(proto)
            for port in [port for port in graph.input if port.name == proto.name]:
                graph.input.remove(port)
        else:
            values[proto.name] = numpy_helper.to_array(proto)
    for port in list(graph.output):
        wider = WIDER.get(port.type.tensor_type.elem_type)
        if wider:
            graph.node.append(onnx.helper.make_node("Cast", [port.name], [f"wide_{port.name}"], to=wider))
            graph.output.append(onnx.helper.make_tensor_value_info(f"wide_{port.name}", wider, None))
    for port in [port for port in graph.output if port.type.tensor_type.elem_type in WIDER]:
        graph.output.remove(port)
    return model.SerializeToString(), values


def difference(actual, proto):
    expected = numpy_helper.to_array(proto)
    limit = LIMITS.get(expected.dtype.name)
    if proto.data_type in WIDER:
        expected = expected.astype(actual.dtype)
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        return f"is {actual.dtype}{actual.shape}, the oracle's {expected.dtype}{expected.shape}"
    if limit is None:
        wrong = int((actual != expected).sum())
        return f"{wrong} of {actual.size} elements differ" if wrong else None
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(e)
    same = finite | (a == e) | (np.isnan(a) & np.isnan(e))
    if not same.all():
        return f"{int((~same).sum())} of {a.size} elements are not finite in one of both"
    error, power = float(((a[finite] - e[finite]) ** 2).sum()), float((e[finite] ** 2).sum())
    share = error / max(power, sys.float_info.min) if error else 0.0
    return f"the normalised mean squared error is {share:.1e}" if share > limit else None


def run(folder):
    """What became of a case: ('same' | 'differs' | 'untaken', detail)."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    model, values = prepared(folder)
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        ports = [port.name for port in session.get_outputs()]
        actual = dict(zip(ports, session.run(ports, values)))
    except Exception as error:
        return "untaken", str(error).splitlines()[0]
    for expected in load(folder, "output"):
        wide = f"wide_{expected.name}"
        problem = difference(actual[wide if wide in actual else expected.name], expected)
        if problem:
            return "differs", f"{expected.name} {problem}"
    return "same", ""


def exceptions(path):
    with open(path) as file:
        lines = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    return [tuple(part.strip() for part in line.split("|", 1)) for line in lines]


def matches(pattern, name):
    return re.match(".*".join(map(re.escape, pattern.split("*"))), name)


def main():
    root, listed = sys.argv[1], exceptions(sys.argv[2])
    with open(os.path.join(root, "names.txt")) as file:
        names = [line.rstrip("\n") for line in file]
    onnxruntime.set_default_logger_severity(4)
    folders = [os.path.join(root, str(number)) for number in range(len(names))]
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(run, folders))
    table = collections.defaultdict(collections.Counter)
    needed, wrong = set(), []
    for name, (outcome, detail) in zip(names, outcomes):
        operator = name.split(" ", 1)[0]
        reason = next((line for line in listed if matches(line[0], name)), None)
        if outcome == "differs" and reason:
            outcome = "excepted"
            needed.add(reason)
        elif outcome == "differs":
            wrong.append(f"{name}: {detail}")
        table[operator][outcome] += 1
        if "--verbose" in sys.argv and outcome == "untaken":
            print(f"untaken: {name}: {detail}")
    print(f"{'operator':28} {'same':>6} {'excepted':>9} {'untaken':>8}")
    for operator, counts in sorted(table.items()):
        print(f"{operator:28} {counts['same']:6} {counts['excepted']:9} {counts['untaken']:8}")
    total = sum(table.values(), collections.Counter())
    unneeded = [line for line in listed if line not in needed and not line[1].startswith("sometimes:")]
    bare = sorted(operator for operator, counts in table.items() if not counts["same"] and not counts["excepted"])
    for line in wrong:
        print(f"differs: {line}")
    for start, reason in unneeded:
        print(f"listed without need: {start} | {reason}")
    print(f"{len(names)} cases: {total['same']} the same, {total['excepted']} excepted, {total['untaken']} not taken by ONNX Runtime, {len(wrong)} differ")
    print(f"operators that ONNX Runtime takes no case of: {', '.join(bare) or 'none'}")
    sys.exit(1 if wrong or unneeded else 0)


main()
