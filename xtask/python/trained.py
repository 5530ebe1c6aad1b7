#!/usr/bin/env python3
"""Compares trained models of many kinds with ONNX Runtime: `trained.py HETERO CACHE SEED [NAME...]`; see trained_models.py for the models.

Each case is run by `hetero run` on `cpu:0`, file by file, and by ONNX Runtime. Outputs agree where the largest difference is at most SHARE of the
reference's range, integers, truth values and texts where they are equal. A model that quantises values as it goes rounds some of them up or down by
chance, and some amplify one such step beyond any measure, or have another length after it. Where the whole of one differs by more, all that lies
between two roundings has to agree to SHARE: each node that rounds gets what ONNX Runtime computed there, in both, and what each computes there by
itself is an output. Of what still differs, as a recurrent layer that rounds its states does and models in f16 do, SHARE counts beyond the difference
of ONNX Runtime's own results when its optimisations are off or each weight and input moves by one rounding error, several times; the line says how
much that is.
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

SHARE, LIMIT, COPIES, PART_COPIES = 1e-3, 60, 4, 16


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
# Nodes that round real numbers to integers that only a run knows, and all whose result jumps where their first input moves.
QUANTISING = {"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "QAttention", "QuantizeLinear"}
ROUNDING = QUANTISING | {"Round", "Floor", "Ceil"}


def rounds(model):
    """Whether a model rounds values that only a run knows to integers or f16."""
    half = lambda graph: any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    return any(half(graph) or any(node.op_type in QUANTISING for node in graph.node) for graph in graphs(model.graph))


def moved(content, seed):
    """The same numbers, each moved up or down by one rounding error; what is no float stays."""
    if content.dtype.kind != "f":
        return content
    towards = np.where(np.random.default_rng(seed).random(content.shape) < 0.5, -np.inf, np.inf).astype(content.dtype)
    # Zero stays what it is: its neighbours are no rounding errors of it.
    return np.where(content == 0, content, np.nextafter(content, towards)).astype(content.dtype)


def others(path, copies=COPIES):
    """ONNX Runtime's other ways to the same result, for a model that rounds; none for others."""
    model = onnx.load(path)
    if not rounds(model):
        return
    yield open_session(path, optimised=False)
    # Numbers and short lists may be sizes, such as a Resize's, with which the model would be another one.
    is_weight = lambda tensor: tensor.data_type in FLOATS and math.prod(tensor.dims) > 16
    weights = [tensor for graph in graphs(model.graph) for tensor in graph.initializer if is_weight(tensor)]
    contents = [numpy_helper.to_array(tensor) for tensor in weights]
    for copy in range(copies):
        for number, (tensor, content) in enumerate(zip(weights, contents)):
            tensor.CopyFrom(numpy_helper.from_array(moved(content, [copy, number]), tensor.name))
        yield open_session(model.SerializeToString())


def parts(path, feeds):
    """A model whose nodes that round read inputs instead of what other nodes computed, which is an output; and the inputs of both."""
    model = onnx.load(path)
    computed = {name for node in model.graph.node for name in node.output}
    rounded = {}
    for node in model.graph.node:
        name = node.input[0] if node.op_type in ROUNDING else None
        if name in computed:
            node.input[0] = rounded.setdefault(name, f"rounded_{len(rounded)}")
    known = {port.name for port in model.graph.output}
    whole = onnx.load(path)
    for name in sorted(rounded.keys() - known):
        whole.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    contents = reference(open_session(whole.SerializeToString()), feeds)
    given = dict(feeds)
    for name, new in rounded.items():
        content = given[new] = contents[name]
        # Sizes stay open: bounds from the file would be of other runs.
        model.graph.input.append(onnx.helper.make_tensor_value_info(new, onnx.helper.np_dtype_to_tensor_dtype(content.dtype), [None] * content.ndim))
    return model, given


def parts_agree(hetero, path, feeds, limit):
    """The problems of a model in parts, and the largest difference of one."""
    model, given = parts(path, feeds)
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "parts.onnx")
        onnx.save(model, file)
        session = open_session(file)
        # The last rounding may have been the last that an input was for.
        given = {port.name: given[port.name] for port in session.get_inputs()}
        results = results_of(hetero, file, given, folder, limit)
        if isinstance(results, str):
            return [results], "-"
        (actual, _), expected = results, reference(session, given)
        wrong = {port: of for port, of in expected.items() if not verdict(actual[port], of)[0]}
        agreed = [(actual[port], of) for port, of in expected.items() if port not in wrong and of.dtype.kind == "f"]
        most = max((difference(mine, of) for mine, of in agreed), default=0.0)
        spread = []
        if wrong:
            copies = enumerate(others(file, PART_COPIES))
            spread = [reference(other, {name: moved(content, copy) for name, content in given.items()}) for copy, other in copies]
        problems, told = beyond(actual, wrong, spread)
        return problems, " but ".join([f"{most:.1e}", *told])


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
    if not isinstance(expected, np.ndarray):
        return sequence_verdict(actual, expected)
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


def results_of(hetero, path, feeds, folder, limit):
    """What hetero's run gives, and its milliseconds; or what went wrong."""
    command = [hetero, "run", "--device", "cpu:0", path, "--output", os.path.join(folder, "out"), "--json"]
    for number, (port, content) in enumerate(feeds.items()):
        file = os.path.join(folder, f"{number}.npy")
        np.save(file, content)
        command += ["--input", f"{port}={file}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"no end in {limit} s"
    if done.returncode != 0:
        return f"exit code {done.returncode}: " + " ".join(done.stderr.split())
    report = json.loads(done.stdout)
    return {output["name"]: read(output["file"]) for output in report["outputs"]}, report["latency_us"]["p50"] / 1e3


def run(hetero, path, feeds, session, limit=LIMIT):
    """The problems of one case, each a line, the largest difference, and the milliseconds of hetero's run."""
    with tempfile.TemporaryDirectory() as folder:
        results = results_of(hetero, path, feeds, folder, limit)
        if isinstance(results, str):
            return [results], "-", None
        actual, milliseconds = results
        expected = reference(session, feeds)
        problems, told = [], []
        for port, of in expected.items():
            good, how = verdict(actual[port], of)
            told.append(how)
            problems += [] if good else [f"{port}: {how}"]
    model = onnx.load(path) if problems else None
    if problems and any(node.op_type in QUANTISING for node in model.graph.node):
        whole, (problems, parts_told) = "; ".join(problems), parts_agree(hetero, path, feeds, limit)
        told = [f"IN PARTS {parts_told}; as a whole {whole}"]
    elif problems and rounds(model):
        problems, told = beyond(actual, expected, [reference(other, feeds) for other in others(path)])
    return problems, ", ".join(told), milliseconds


def beyond(actual, expected, spread):
    """The problems of outputs that may differ by SHARE more than those of `spread`, and what is told of each."""
    problems, told = [], []
    for port, of in expected.items():
        good, how = verdict(actual[port], of)
        if not good and isinstance(of, np.ndarray) and of.dtype.kind == "f" and of.shape == actual[port].shape:
            # A result of another length is no measure of how much numbers may differ.
            own = max((difference(other[port], of) for other in spread if other[port].shape == of.shape), default=0.0)
            good = difference(actual[port], of) <= own + SHARE
            how += f" (ONNX Runtime's own results differ by {own:.1e})"
        told.append(how)
        problems += [] if good else [f"{port}: {how}"]
    return problems, told


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
