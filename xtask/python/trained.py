#!/usr/bin/env python3
"""Compares trained models of many kinds with ONNX Runtime: `trained.py HETERO CACHE SEED [NAME...]`; see trained_models.py for the models.

Each case is run by `hetero run` on `cpu:0`, file by file, and by ONNX Runtime. Outputs agree where the largest difference is at most SHARE of the
reference's range, integers, truth values and texts where they are equal. A model that quantises values as it goes, or has f16 ones, rounds some of
them up or down by chance, and such steps show in the outputs: where an output of one differs by more, SHARE counts beyond the difference of ONNX
Runtime's own results when its optimisations are off or each weight moves by one rounding error, COPIES times; the line says how much that is.
Every case has LIMIT seconds. Exits with 1 where one disagrees.
"""
import json
import math
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

import trained_models

SHARE, LIMIT, COPIES = 1e-3, 60, 4


def open_session(model, optimised=True):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def reference(session, feeds):
    return dict(zip([port.name for port in session.get_outputs()], session.run(None, feeds)))


def graphs(graph):
    """A graph and those within it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}


def rounds(model):
    """Whether a model rounds values that only a run knows to integers or f16."""
    dynamic = {"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "QAttention", "QuantizeLinear"}
    half = lambda graph: any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    return any(half(graph) or any(node.op_type in dynamic for node in graph.node) for graph in graphs(model.graph))


def others(path):
    """ONNX Runtime's other ways to the same result, for a model that rounds; none for others."""
    model = onnx.load(path)
    if not rounds(model):
        return
    yield open_session(path, optimised=False)
    # Numbers and short lists may be sizes, such as a Resize's, with which the model would be another one.
    is_weight = lambda tensor: tensor.data_type in FLOATS and math.prod(tensor.dims) > 16
    weights = [tensor for graph in graphs(model.graph) for tensor in graph.initializer if is_weight(tensor)]
    contents = [numpy_helper.to_array(tensor) for tensor in weights]
    for copy in range(COPIES):
        rng = np.random.default_rng(copy)
        for tensor, content in zip(weights, contents):
            towards = np.where(rng.random(content.shape) < 0.5, -np.inf, np.inf).astype(content.dtype)
            # Zero stays what it is: its neighbours are no rounding errors of it.
            moved = np.where(content == 0, content, np.nextafter(content, towards)).astype(content.dtype)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
        yield open_session(model.SerializeToString())


def read(path):
    """The content of an output's file: an array, or of a sequence a list of them."""
    if path.endswith(".npy"):
        return np.load(path)
    with open(path, "rb") as file:
        content = file.read()
    if path.endswith(".pb"):
        try:
            tensor = onnx.TensorProto.FromString(content)
            if tensor.data_type:
                return numpy_helper.to_array(tensor)
        except Exception:
            pass
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    raise ValueError(f"{path} is no tensor")


def verdict(actual, expected):
    """Whether an output agrees, and how much it differs: as a share of the reference's range where it is one of floats."""
    if actual.shape != expected.shape:
        return False, f"shape {actual.shape}, not {expected.shape}"
    if actual.dtype != expected.dtype:
        return False, f"type {actual.dtype}, not {expected.dtype}"
    if expected.dtype.kind != "f":
        wrong = int((actual != expected).sum())
        return wrong == 0, f"{wrong} of {expected.size} differ"
    share = difference(actual, expected)
    return share <= SHARE, f"{share:.1e}"


def difference(actual, expected):
    """The largest difference as a share of the reference's range; infinite where other values are not finite."""
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    if not (np.isfinite(actual) == finite).all() or not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return np.inf
    if not finite.any():
        return 0.0
    # One value has no range; its size stands for it, but ONNX Runtime's sigmoid is right to 1e-7 and not to a share of its value.
    span = np.ptp(expected[finite]) or max(np.abs(expected[finite]).max(), 1e-3)
    return np.abs(actual - expected)[finite].max() / span


def run(hetero, path, feeds, session, limit=LIMIT):
    """The problems of one case, each a line, the largest difference, and the milliseconds of hetero's run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [hetero, "run", "--device", "cpu:0", path, "--output", os.path.join(folder, "out"), "--json"]
        for number, (port, content) in enumerate(feeds.items()):
            file = os.path.join(folder, f"{number}.npy")
            np.save(file, content)
            command += ["--input", f"{port}={file}"]
        expected = reference(session, feeds)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return [f"no end in {limit} s"], "-", None
        if done.returncode != 0:
            return [f"exit code {done.returncode}: " + " ".join(done.stderr.split())], "-", None
        report = json.loads(done.stdout)
        written = {output["name"]: output["file"] for output in report["outputs"]}
        problems, told, spread = [], [], None
        for port, of in expected.items():
            actual = read(written[port])
            good, how = verdict(actual, of) if isinstance(of, np.ndarray) else sequence_verdict(actual, of)
            if not good and isinstance(of, np.ndarray) and of.dtype.kind == "f" and actual.shape == of.shape:
                spread = spread or [reference(other, feeds) for other in others(path)]
                # A result of another length is no measure of how much numbers may differ.
                own = max((difference(other[port], of) for other in spread if other[port].shape == of.shape), default=0.0)
                good = difference(actual, of) <= own + SHARE
                how += f" (ONNX Runtime's own results differ by {own:.1e})"
            told.append(how)
            if not good:
                problems.append(f"{port}: {how}")
        return problems, ", ".join(told), report["latency_us"]["p50"] / 1e3


def sequence_verdict(actual, expected):
    """The verdict on a sequence; maps of ZipMap are compared by their values, in the order of their keys."""
    plain = lambda item: np.array([item[key] for key in sorted(item)], np.float32) if isinstance(item, dict) else np.asarray(item)
    actual, expected = [plain(item) for item in actual], [plain(item) for item in expected]
    if len(actual) != len(expected):
        return False, f"{len(actual)} parts, not {len(expected)}"
    for mine, other in zip(actual, expected):
        good, how = verdict(mine.reshape(other.shape), other)
        if not good:
            return good, how
    return True, "equal parts"


def main():
    hetero, cache, seed, names = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    unknown = set(names) - set(trained_models.MODELS)
    if unknown:
        sys.exit(f"unknown models: {', '.join(sorted(unknown))}; there are: {', '.join(trained_models.MODELS)}")
    trained_models.join(cache)
    agreed = failed = 0
    for name in names or trained_models.MODELS:
        path, cases = trained_models.cases(cache, name, seed)
        session = open_session(path)
        for label, feeds in cases:
            began = time.monotonic()
            problems, told, milliseconds = run(hetero, path, feeds, session)
            took = f"{milliseconds:9.2f} ms" if milliseconds is not None else f"{time.monotonic() - began:9.1f} s "
            print(f"{'FAILED' if problems else 'ok    '} {name:18} {label:14} {took}  {told}", flush=True)
            for problem in problems:
                print(f"           {problem[:1000]}", flush=True)
            agreed, failed = agreed + (not problems), failed + bool(problems)
    print(f"{agreed} cases agree, {failed} do not")
    sys.exit(1 if failed or not agreed else 0)


if __name__ == "__main__":
    main()
