#!/usr/bin/env python3
"""Times operators on every element type beside ONNX Runtime: `sweep.py [--only TEXT] HETERO FOLDER OUT`.

Each case is a model of one node with about a million elements. Only cases for which ONNX Runtime has a kernel are measured. Both run the same inputs in
turns with THREADS threads: ROUNDS times each, for BLOCK seconds without a pause; a figure is the least of the rounds' medians, since other load only adds.
Results are compared: integers exactly, floats to LIMITS of the range.
FOLDER gets models and inputs; writes OUT.json and OUT.md, and fails where hetero takes more than MOST times as long, or results differ.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from runners import Hetero, OnnxRuntime

THREADS, ROUNDS, BLOCK, MOST = 2, 3, 0.06, 5.0
# What a floating-point result may differ by, of the range of the expected values.
LIMITS = {"f32": 1e-4, "f64": 1e-7, "f16": 4e-3}
TYPES = {
    "f32": np.float32, "f64": np.float64, "f16": np.float16, "i64": np.int64, "i32": np.int32, "i16": np.int16, "i8": np.int8,
    "u64": np.uint64, "u32": np.uint32, "u16": np.uint16, "u8": np.uint8, "bool": np.bool_,
}
FLOATS, SIGNED = ["f32", "f64", "f16"], ["i64", "i32", "i16", "i8"]
INTEGERS = SIGNED + ["u64", "u32", "u16", "u8"]
NUMBERS, ALL = FLOATS + INTEGERS, FLOATS + INTEGERS + ["bool"]
MATRIX, IMAGE = (1024, 1024), (1, 64, 128, 128)


class Case:
    """A node, the types that it is tried on, its inputs' shapes, constants by position, and attributes."""

    def __init__(self, operator, types, shapes=(MATRIX,), constants=None, low=None, label=None, outputs=1, result=None, **attributes):
        self.operator, self.types, self.shapes, self.constants = operator, types, shapes, constants or {}
        self.low, self.label, self.outputs, self.result, self.attributes = low, label or operator, outputs, result, attributes


def ints(*values):
    return np.array(values, np.int64)


def cases():
    pair = (MATRIX, MATRIX)
    for name in "Abs Neg Sign Relu Sqrt Reciprocal Floor Ceil Round Exp Log Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Erf Sigmoid".split():
        types = FLOATS + SIGNED if name in ("Abs", "Neg", "Sign", "Relu") else FLOATS
        yield Case(name, types, low=0.01 if name in ("Log", "Sqrt", "Reciprocal", "Asin", "Acos") else None)
    for name in "Softplus Softsign Elu Celu Selu LeakyRelu HardSigmoid HardSwish ThresholdedRelu Mish Gelu Shrink".split():
        yield Case(name, FLOATS)
    for name in "Add Sub Mul Div".split():
        yield Case(name, NUMBERS, pair)
        yield Case(name, ["f32", "f64", "f16", "i64", "i32"], (MATRIX, (1024,)), label=f"{name}, a row")
        yield Case(name, ["f32", "f16", "i64"], (MATRIX, (1024, 1)), label=f"{name}, a column")
    for name in "Max Min".split():
        yield Case(name, NUMBERS, pair)
    for name in "Sum Mean".split():
        yield Case(name, FLOATS, (MATRIX,) * 3, label=f"{name} of 3")
    yield Case("Pow", ["f32", "f64", "i32", "i64"], constants={1: lambda dtype: np.array(2, dtype)})
    yield Case("Pow", ["f32", "f64"], pair, low=0.01, label="Pow of two")
    yield Case("Mod", INTEGERS, pair)
    yield Case("Mod", FLOATS, pair, label="Mod, fmod", fmod=1)
    yield Case("PRelu", FLOATS + ["i32", "i64", "u32", "u64"], (IMAGE, (64, 1, 1)))
    yield Case("Clip", NUMBERS, constants={1: lambda dtype: np.array(1, dtype), 2: lambda dtype: np.array(3, dtype)})
    yield Case("Where", ALL, (MATRIX, MATRIX, MATRIX), label="Where")
    for name in "BitwiseAnd BitwiseOr BitwiseXor".split():
        yield Case(name, INTEGERS, pair)
    yield Case("BitwiseNot", INTEGERS)
    yield Case("BitShift", ["u64", "u32", "u16", "u8"], pair, direction="LEFT")
    for name in "And Or Xor".split():
        yield Case(name, ["bool"], pair)
    yield Case("Not", ["bool"])
    for name in "Equal Less Greater LessOrEqual GreaterOrEqual".split():
        yield Case(name, ALL if name == "Equal" else NUMBERS, pair, result="bool")
    for name in "IsNaN IsInf".split():
        yield Case(name, FLOATS, result="bool")
    for to in ALL:
        yield Case("Cast", [own for own in ALL if own != to], label=f"Cast to {to}", result=to, to=helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[to])))
    for name in "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp".split():
        for axis in (0, 1):
            yield Case(name, NUMBERS, constants={1: lambda dtype, axis=axis: ints(axis)}, low=0.01, label=f"{name}, axis {axis}")
    for name in "ArgMax ArgMin".split():
        for axis in (0, 1):
            yield Case(name, FLOATS + ["i64", "i32", "i8", "u8"], label=f"{name}, axis {axis}", result="i64", axis=axis)
    yield Case("CumSum", ["f32", "f64", "i64", "i32"], constants={1: lambda dtype: np.array(1, np.int64)})
    yield Case("TopK", ["f32", "f64", "i64", "i32"], constants={1: lambda dtype: ints(10)}, outputs=2)
    yield Case("Concat", ALL, pair, axis=1)
    yield Case("Transpose", ALL, perm=[1, 0])
    yield Case("Transpose", ALL, (IMAGE,), label="Transpose to channels last", perm=[0, 2, 3, 1])
    yield Case("Slice", ALL, constants={1: lambda dtype: ints(0), 2: lambda dtype: ints(1024), 3: lambda dtype: ints(1), 4: lambda dtype: ints(2)})
    yield Case("Expand", ALL, ((1024, 1),), constants={1: lambda dtype: ints(1024, 1024)})
    yield Case("Tile", ALL, ((512, 512),), constants={1: lambda dtype: ints(2, 2)})
    yield Case("Pad", ALL, constants={1: lambda dtype: ints(3, 3, 3, 3)})
    yield Case("Gather", ALL, constants={1: lambda dtype: np.random.default_rng(1).integers(0, 1024, 1024)}, axis=0)
    yield Case("Gather", ALL, constants={1: lambda dtype: np.random.default_rng(1).integers(0, 1024, 1024)}, label="Gather, axis 1", axis=1)
    yield Case("GatherElements", ALL, constants={1: lambda dtype: np.random.default_rng(1).integers(0, 1024, MATRIX)}, axis=1)
    yield Case("ScatterElements", ALL, constants={
        1: lambda dtype: np.argsort(np.random.default_rng(1).random(MATRIX), axis=1), 2: lambda dtype: np.ones(MATRIX, dtype)}, axis=1)
    yield Case("DepthToSpace", FLOATS + ["u8"], (IMAGE,), blocksize=2)
    yield Case("SpaceToDepth", FLOATS, (IMAGE,), blocksize=2)
    for name in "Softmax LogSoftmax".split():
        yield Case(name, FLOATS, axis=1)
    yield Case("LayerNormalization", FLOATS, constants={1: lambda dtype: np.ones(1024, dtype), 2: lambda dtype: np.zeros(1024, dtype)})
    yield Case("BatchNormalization", FLOATS, (IMAGE,), constants={index: lambda dtype: np.ones(64, dtype) for index in (1, 2, 3, 4)})
    yield Case("InstanceNormalization", FLOATS, (IMAGE,), constants={index: lambda dtype: np.ones(64, dtype) for index in (1, 2)})
    yield Case("LRN", FLOATS, (IMAGE,), size=5)
    yield Case("MaxPool", FLOATS + ["i8", "u8"], (IMAGE,), kernel_shape=[3, 3], strides=[2, 2])
    yield Case("AveragePool", FLOATS, (IMAGE,), kernel_shape=[3, 3], strides=[2, 2])
    yield Case("GlobalAveragePool", FLOATS, (IMAGE,))
    yield Case("Resize", FLOATS + ["u8", "i32"], ((1, 16, 128, 128),), constants={2: lambda dtype: np.array([1, 1, 2, 2], np.float32)}, mode="nearest")
    yield Case("Resize", FLOATS + ["u8"], ((1, 16, 128, 128),), constants={2: lambda dtype: np.array([1, 1, 2, 2], np.float32)}, label="Resize, linear", mode="linear")
    yield Case("MatMul", ["f32", "f64", "f16", "i32", "u32", "i64"], ((256, 512), (512, 256)))
    yield Case("Gemm", FLOATS, ((256, 512), (512, 256), (256,)))
    weights = {1: lambda dtype: (np.random.default_rng(1).random((64, 64, 3, 3)) - 0.5).astype(dtype) / 8}
    yield Case("Conv", FLOATS, ((1, 64, 56, 56),), constants=weights, pads=[1, 1, 1, 1])
    yield Case("ConvTranspose", FLOATS, ((1, 64, 28, 28),), constants=weights, strides=[2, 2])


def content(case, shape, dtype, seed):
    random = np.random.default_rng(seed)
    if dtype == np.bool_:
        return random.random(shape) < 0.5
    if np.issubdtype(dtype, np.floating):
        low = -4.0 if case.low is None else case.low
        high = 1.0 if case.low is not None or case.operator in ("Asin", "Acos", "Sinh", "Cosh") else 4.0
        return random.uniform(max(low, -1.0) if high == 1.0 else low, high, shape).astype(dtype)
    low = 1 if np.issubdtype(dtype, np.unsignedinteger) or case.operator in ("Div", "Mod") else -4
    return random.integers(low, 6, shape).astype(dtype)


def model(case, name, path, folder):
    """Writes the model and its inputs; the inputs' files by name."""
    dtype = TYPES[name]
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ports, feeds, initializers, names = [], {}, [], []
    count = max(len(case.shapes), max(case.constants, default=-1) + 1)
    for index in range(count):
        own = f"x{index}"
        if index in case.constants:
            array = np.asarray(case.constants[index](dtype))
            initializers.append(onnx.numpy_helper.from_array(array, own))
        elif index < len(case.shapes):
            is_condition = case.operator == "Where" and index == 0
            array = content(case, case.shapes[index], np.bool_ if is_condition else dtype, index + 1)
            file = os.path.join(folder, f"{name}-{own}-{case.label.replace(' ', '-').replace(',', '')}.npy")
            np.save(file, array)
            feeds[own] = file
            ports.append(helper.make_tensor_value_info(own, TensorProto.BOOL if is_condition else code, list(array.shape)))
        else:
            own = ""
        names.append(own)
    outputs = [f"y{index}" for index in range(case.outputs)]
    result = code if case.result is None else helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[case.result]))
    kinds = [result, TensorProto.INT64][:case.outputs]
    node = helper.make_node(case.operator, names, outputs, **case.attributes)
    graph = helper.make_graph([node], "sweep", ports, [onnx.ValueInfoProto(name=own, type=helper.make_tensor_type_proto(kind, None)) for own, kind in zip(outputs, kinds)], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return feeds


def difference(found, expected, name):
    """How far results are apart, as a share of what they may be; 0 where they are equal."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if not np.issubdtype(expected.dtype, np.floating):
        return 0.0 if np.array_equal(found, expected) else float("inf")
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isfinite(found), np.isfinite(expected)):
        return float("inf")
    finite = np.isfinite(expected)
    limit = LIMITS["f32" if expected.dtype == np.float32 else name if name in LIMITS else "f32"]
    scale = max(1.0, float(np.max(np.abs(expected[finite]), initial=0.0)))
    return float(np.max(np.abs(found[finite] - expected[finite]), initial=0.0)) / scale / limit


def measure(hetero, case, name, folder):
    label = f"{case.label}-{name}".replace(" ", "-").replace(",", "")
    path = os.path.join(folder, label + ".onnx")
    files = model(case, name, path, folder)
    feeds = {own: np.load(file) for own, file in files.items()}
    try:
        peer = OnnxRuntime(path, feeds, THREADS)
        expected = peer.run()
    except Exception as error:
        if "NOT_IMPLEMENTED" in str(error) or "NotImplemented" in type(error).__name__ or "type" in str(error).lower():
            return None
        raise
    out = os.path.join(folder, "out")
    command = [hetero, "run", path, "--device", "cpu:0", "--output", out]
    for own, file in files.items():
        command += ["--input", f"{own}={file}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    apart = max(difference(np.load(os.path.join(out, f"y{index}.npy")), array, name) for index, array in enumerate(expected))
    child = Hetero("hetero", hetero, path, files, THREADS)
    runners = [child, peer]
    counts = [max(3, min(2000, int(BLOCK * 1e3 / statistics.median(runner.block(3))))) for runner in runners]
    times = [[], []]
    for number in range(ROUNDS):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            time.sleep(0.01)
            times[index].append(statistics.median(runners[index].block(counts[index])))
    child.close()
    for file in [*files.values(), path]:
        os.remove(file)
    return {"case": case.label, "type": name, "hetero_ms": min(times[0]), "onnxruntime_ms": min(times[1]), "ratio": min(times[0]) / min(times[1]), "difference": apart}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="measure cases with this text in their names")
    for name in ("hetero", "folder", "out"):
        parser.add_argument(name)
    given = parser.parse_args()
    os.makedirs(given.folder, exist_ok=True)
    rows, table = [], {}
    for case in cases():
        if given.only not in case.label:
            continue
        for name in case.types:
            row = measure(given.hetero, case, name, given.folder)
            if row is None:
                continue
            rows.append(row)
            table.setdefault(case.label, {})[name] = row["ratio"]
            mark = (" SLOW" if row["ratio"] > MOST else "") + (f" DIFFERS {row['difference']:.1e}" if row["difference"] > 1 else "")
            print(f"{case.label:32} {name:5} {row['hetero_ms']:9.4f} {row['onnxruntime_ms']:9.4f} {row['ratio']:8.2f}{mark}", flush=True)
    columns = [name for name in TYPES if any(name in cells for cells in table.values())]
    lines = ["| operator | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for label, cells in table.items():
        lines.append(f"| {label} | " + " | ".join(f"{cells[name]:.2f}" if name in cells else "" for name in columns) + " |")
    ratios = [row["ratio"] for row in rows]
    summary = f"{len(rows)} cases; geometric mean {statistics.geometric_mean(ratios):.2f}, {sum(ratio > MOST for ratio in ratios)} beyond {MOST:g}."
    with open(given.out + ".json", "w") as file:
        json.dump({"onnxruntime": onnxruntime.__version__, "threads": THREADS, "rows": rows}, file, indent=1)
    with open(given.out + ".md", "w") as file:
        file.write("\n".join(lines) + f"\n\n{summary}\n")
    print(summary)
    slow = [f"{row['case']} on {row['type']}: {row['ratio']:.1f}" for row in rows if row["ratio"] > MOST]
    wrong = [f"{row['case']} on {row['type']}" for row in rows if row["difference"] > 1]
    if slow or wrong:
        sys.exit("\n".join([f"slower than {MOST:g} times ONNX Runtime:", *slow, "results that differ:", *wrong]))


if __name__ == "__main__":
    main()
