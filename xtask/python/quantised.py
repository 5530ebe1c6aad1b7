"""Networks in 8 bits, as ONNX Runtime's static quantiser writes them, with weights of a seed.

`resnet50` is the light ResNet-50 of the package onnx with He-normal weights, `mobilenet` has the shape of MobileNetV2: inverted residuals of 1×1 and depthwise
convolutions with ReLU6. `write` makes them as QDQ models (DequantizeLinear before each operator, QuantizeLinear behind it) or as QOperator models (QLinearConv and
the like), calibrated with random images.

`quantised.py OUT SEED` writes all of them.
"""
import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnxruntime import quantization

import models

IMAGE = (1, 3, 224, 224)
# Each network's name, its maker and the quantiser's options.
KNOWN = {
    "resnet50-qdq": ("resnet50", {}),
    "resnet50-qdq-signed": ("resnet50", {"activations": "int8", "per_channel": False}),
    "resnet50-qoperator": ("resnet50", {"form": "QOperator"}),
    "mobilenet-qdq": ("mobilenet", {}),
    "mobilenet-qoperator": ("mobilenet", {"form": "QOperator"}),
}


class Images(quantization.CalibrationDataReader):
    """A few random images for one input."""

    def __init__(self, name, seed, count=4):
        rng = np.random.default_rng([seed, 7])
        self.rest = iter([{name: rng.standard_normal(IMAGE).astype(np.float32)} for _ in range(count)])

    def get_next(self):
        return next(self.rest, None)


def resnet50(seed):
    """ResNet-50 in f32, with its normalisations and He-normal weights."""
    path = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light", "light_resnet50.onnx")
    model = onnx.load(path)
    models.he_normal(model, np.random.default_rng([seed, models.LIGHT.index("resnet50")]))
    models.only_used_inputs(model)
    models.before_softmax(model)
    return version_converter.convert_version(model, 13)


def mobilenet(seed, classes=1000):
    """A network of inverted residuals in f32, with the sizes of MobileNetV2."""
    rng = np.random.default_rng([seed, 50])
    nodes, constants = [], []

    def constant(array):
        name = f"constant_{len(constants)}"
        constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(kind, *inputs, **attributes):
        name = f"{kind}_{len(nodes)}_output"
        nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind}_{len(nodes)}", **attributes))
        return name

    zero, six = constant(np.float32(0)), constant(np.float32(6))

    def conv(x, inputs, outputs, kernel=1, stride=1, groups=1, relu=True):
        shape = (outputs, inputs // groups, kernel, kernel)
        weights = rng.standard_normal(shape).astype(np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        bias = (rng.standard_normal(outputs) * 0.1).astype(np.float32)
        y = op("Conv", x, constant(weights), constant(bias), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4, group=groups)
        return op("Clip", y, zero, six) if relu else y

    x, channels = conv("image", 3, 32, 3, 2), 32
    for factor, outputs, count, stride in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]:
        for number in range(count):
            step, wide = stride if number == 0 else 1, channels * factor
            y = x if factor == 1 else conv(x, channels, wide)
            y = conv(y, wide, wide, 3, step, wide)
            y = conv(y, wide, outputs, relu=False)
            x, channels = (op("Add", x, y) if step == 1 and channels == outputs else y), outputs
    x = op("GlobalAveragePool", conv(x, channels, 1280))
    x = op("Flatten", x, axis=1)
    weights = (rng.standard_normal((classes, 1280)) / np.sqrt(1280)).astype(np.float32)
    nodes.append(helper.make_node("Gemm", [x, constant(weights), constant(np.zeros(classes, np.float32))], ["scores"], name="classify", transB=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, classes])
    graph = helper.make_graph(nodes, "mobilenet", [image], [scores], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def quantise(model, path, seed, form="QDQ", activations="uint8", weights="int8", per_channel=True):
    """Writes an f32 model of one image in 8 bits, calibrated with images of the seed; normalisations go into the convolutions first."""
    types = {"uint8": quantization.QuantType.QUInt8, "int8": quantization.QuantType.QInt8}
    forms = {"QDQ": quantization.QuantFormat.QDQ, "QOperator": quantization.QuantFormat.QOperator}
    plain, joined = path + ".f32", path + ".joined"
    onnx.save(model, plain)
    try:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = joined
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
        (image,) = [value.name for value in session.get_inputs()]
        quantization.quantize_static(
            joined,
            path,
            Images(image, seed),
            quant_format=forms[form],
            activation_type=types[activations],
            weight_type=types[weights],
            per_channel=per_channel,
        )
    finally:
        for made in (plain, joined):
            if os.path.exists(made):
                os.remove(made)


def write(name, path, seed):
    """Writes the network of a name in `KNOWN` to `path`."""
    maker, options = KNOWN[name]
    quantise({"resnet50": resnet50, "mobilenet": mobilenet}[maker](seed), path, seed, **options)


def main():
    out, seed = sys.argv[1], int(sys.argv[2])
    os.makedirs(out, exist_ok=True)
    for name in KNOWN:
        write(name, os.path.join(out, f"{name}.onnx"), seed)


if __name__ == "__main__":
    main()
