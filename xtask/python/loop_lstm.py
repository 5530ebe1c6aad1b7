"""Writes an LSTM as tf2onnx does it: a Loop whose body is one step, in ten nodes.

Usage: loop_lstm.py FILE [STEPS [HIDDEN]]
"""

import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save


def model(steps: int, hidden: int):
    """Returns the model: x [steps, 1, hidden] to all states and the last state."""
    random = np.random.default_rng(7)

    def weight(name, *shape):
        values = random.uniform(-0.2, 0.2, shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    def floats(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    body = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "step"], ["now"], axis=0),
            helper.make_node("Concat", ["now", "h"], ["both"], axis=1),
            helper.make_node("MatMul", ["both", "kernel"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["gates"]),
            helper.make_node("Split", ["gates"], ["i", "j", "f", "o"], axis=1, num_outputs=4),
            helper.make_node("Sigmoid", ["i"], ["input_gate"]),
            helper.make_node("Tanh", ["j"], ["candidate"]),
            helper.make_node("Sigmoid", ["f"], ["forget_gate"]),
            helper.make_node("Sigmoid", ["o"], ["output_gate"]),
            helper.make_node("Mul", ["forget_gate", "c"], ["kept"]),
            helper.make_node("Mul", ["input_gate", "candidate"], ["new"]),
            helper.make_node("Add", ["kept", "new"], ["c_next"]),
            helper.make_node("Tanh", ["c_next"], ["squashed"]),
            helper.make_node("Mul", ["output_gate", "squashed"], ["h_next"]),
            helper.make_node("Identity", ["h_next"], ["h_seen"]),
            helper.make_node("Identity", ["going"], ["going_next"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            floats("h", 1, hidden),
            floats("c", 1, hidden),
        ],
        [
            helper.make_tensor_value_info("going_next", TensorProto.BOOL, []),
            floats("h_next", 1, hidden),
            floats("c_next", 1, hidden),
            floats("h_seen", 1, hidden),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["trips", "", "h0", "c0"], ["h_last", "c_last", "all"], body=body)],
        "loop_lstm",
        [floats("x", steps, 1, hidden)],
        [floats("all", steps, 1, hidden), floats("h_last", 1, hidden)],
        [
            numpy_helper.from_array(np.array(steps, np.int64), "trips"),
            numpy_helper.from_array(np.zeros((1, hidden), np.float32), "h0"),
            numpy_helper.from_array(np.zeros((1, hidden), np.float32), "c0"),
            weight("kernel", 2 * hidden, 4 * hidden),
            weight("bias", 4 * hidden),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 9
    return made


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[2:]]
    save(model(*(numbers + [100, 64][len(numbers):])), sys.argv[1])
