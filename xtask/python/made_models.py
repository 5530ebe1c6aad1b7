"""Models of the types and operators that trained ones of the registries lack, made of seeded weights: `bench_types.py` times them.

`MODELS` has for each name a function that writes the model to a path and returns its inputs. There are 8-bit networks by ONNX Runtime's quantisers,
f16 copies, loops as tf2onnx writes them, transformers with the operator Attention, a U-Net with Einsum, a graph network, and operators alone.
"""
import os
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import quantised
import trained_models
import transformers

F32, I64 = np.float32, np.int64
TYPES = {np.dtype(of): helper.np_dtype_to_tensor_dtype(np.dtype(of)) for of in (F32, np.float16, np.float64, I64, np.int32, np.int8, np.uint8, np.bool_)}


class Graph(transformers.Writer):
    """A writer of any width, of weights that keep the size of values."""

    def __init__(self, seed=1, opset=17):
        super().__init__(seed, 0, 1)
        self.opset = opset

    def matrix(self, *shape):
        inner = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        return self.constant(self.rng.standard_normal(shape, F32) / F32(np.sqrt(inner)))

    def dense(self, value, inner, outer):
        return self.op("Add", self.op("MatMul", value, self.matrix(inner, outer)), self.vector(outer))

    def vector(self, size, around=0.0):
        return self.constant((around + 0.05 * self.rng.standard_normal(size)).astype(F32))

    def normed(self, value, width):
        return self.op("LayerNormalization", value, self.vector(width, 1), self.vector(width), axis=-1)

    def conv(self, value, inner, outer, kernel=3, stride=1):
        return self.op("Conv", value, self.matrix(outer, inner, kernel, kernel), self.vector(outer), kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, strides=[stride] * 2)

    def write(self, path, feeds, outputs, domains=()):
        info = [helper.make_tensor_value_info(name, TYPES[of.dtype], of.shape) for name, of in feeds.items()]
        results = [helper.make_tensor_value_info(name, of, None) for name, of in outputs.items()]
        graph = helper.make_graph(self.nodes, "made", info, results, self.constants)
        sets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=10), path)
        return feeds


def random(seed, *shape):
    return np.random.default_rng([seed, 3]).standard_normal(shape, F32)


# Networks in 8 bits.

def quantised_network(name):
    def write(path, cache):
        quantised.write(name, path, 1)
        (image,) = onnx.load(path).graph.input
        return {image.name: random(1, 1, 3, 224, 224)}

    return write


def dynamic(path, cache):
    """The trained sentence encoder, its products in dynamic int8, as exporters of sentence transformers ship it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, ((_, feeds), *_) = trained_models.cases(cache, "minilm")
    quantize_dynamic(source, path, weight_type=QuantType.QInt8)
    return {name: np.tile(of, (1, 8)) for name, of in feeds.items()}


# Copies in f16.

def half(write):
    """The model of another function with all its floats in f16, its inputs too."""
    def copy(path, cache):
        from onnxruntime.transformers.float16 import convert_float_to_float16

        feeds = write(path, cache)
        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=False, disable_shape_infer=True), path)
        return {name: of.astype(np.float16) if of.dtype == F32 else of for name, of in feeds.items()}

    return copy


def light(name):
    def write(path, cache):
        import models

        source = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light", f"light_{name}.onnx")
        model = onnx.load(source)
        models.he_normal(model, np.random.default_rng([1, models.LIGHT.index(name)]))
        models.only_used_inputs(model)
        models.before_softmax(model)
        onnx.save(model, path)
        (image,) = model.graph.input
        return {image.name: random(1, 1, 3, 224, 224)}

    return write


def encoder(path, cache):
    transformers.encoder(path, 1, 6, 384, 12, 30522)
    ids = np.random.default_rng(1).integers(1, 30000, (1, 128))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


# Transformers with the operator Attention.

def attention_blocks(graph, value, layers, width, heads, context=None):
    for _ in range(layers):
        inner = graph.normed(value, width)
        query, key, of = graph.dense(inner, width, width), graph.dense(inner, width, width), graph.dense(inner, width, width)
        mixed = graph.op("Attention", query, key, of, q_num_heads=heads, kv_num_heads=heads)
        value = graph.op("Add", value, graph.dense(mixed, width, width))
        hidden = graph.op("Gelu", graph.dense(graph.normed(value, width), width, 4 * width))
        value = graph.op("Add", value, graph.dense(hidden, 4 * width, width))
    return value


def speech_encoder(path, cache):
    """As large as the encoder of Whisper-tiny: 1500 positions of 384 columns, four layers."""
    graph = Graph(opset=23)
    value = graph.op("Gelu", graph.op("Conv", "mel", graph.matrix(384, 80, 3), graph.vector(384), kernel_shape=[3], pads=[1, 1]))
    value = graph.op("Gelu", graph.op("Conv", value, graph.matrix(384, 384, 3), graph.vector(384), kernel_shape=[3], pads=[1, 1], strides=[2]))
    value = graph.op("Transpose", value, perm=[0, 2, 1])
    value = attention_blocks(graph, value, 4, 384, 6)
    graph.op("Identity", graph.normed(value, 384), output="states")
    return graph.write(path, {"mel": random(2, 1, 80, 3000)}, {"states": TensorProto.FLOAT})


def image_transformer(batch):
    def write(path, cache):
        """As large as a small ViT: patches of 16, 384 columns, six heads, six layers."""
        graph = Graph(opset=23)
        patches = graph.op("Conv", "image", graph.matrix(384, 3, 16, 16), graph.vector(384), kernel_shape=[16, 16], strides=[16, 16])
        value = graph.op("Transpose", graph.op("Reshape", patches, graph.integers(batch, 384, 196)), perm=[0, 2, 1])
        value = attention_blocks(graph, value, 6, 384, 6)
        graph.op("Identity", graph.normed(value, 384), output="states")
        return graph.write(path, {"image": random(3, batch, 3, 224, 224)}, {"states": TensorProto.FLOAT})

    return write


# A U-Net of diffusion, whose attention is written with Einsum.

def diffusion(path, cache):
    graph, width, heads = Graph(opset=17), 128, 8

    def group_norm(value, channels):
        flat = graph.op("Reshape", value, graph.integers(0, 32, -1))
        ones, zeros = graph.constant(np.ones(32, F32)), graph.constant(np.zeros(32, F32))
        normal = graph.op("Reshape", graph.op("InstanceNormalization", flat, ones, zeros), graph.op("Shape", value))
        scale = graph.constant(np.ones((channels, 1, 1), F32))
        return graph.op("Mul", normal, scale)

    def block(value, inner, outer):
        swish = lambda x: graph.op("Mul", x, graph.op("Sigmoid", x))
        new = graph.conv(swish(group_norm(value, inner)), inner, outer)
        new = graph.conv(swish(group_norm(new, outer)), outer, outer)
        return graph.op("Add", new, value if inner == outer else graph.conv(value, inner, outer, 1))

    def attend(value, channels, size):
        rows = graph.op("Transpose", graph.op("Reshape", group_norm(value, channels), graph.integers(1, channels, size * size)), perm=[0, 2, 1])
        apart = lambda: graph.op("Reshape", graph.dense(rows, channels, channels), graph.integers(1, size * size, heads, channels // heads))
        scores = graph.op("Einsum", apart(), apart(), equation="bihd,bjhd->bhij")
        shares = graph.op("Softmax", graph.op("Mul", scores, graph.scalar((channels // heads) ** -0.5)), axis=-1)
        mixed = graph.op("Reshape", graph.op("Einsum", shares, apart(), equation="bhij,bjhd->bihd"), graph.integers(1, size * size, channels))
        back = graph.op("Reshape", graph.op("Transpose", graph.dense(mixed, channels, channels), perm=[0, 2, 1]), graph.integers(1, channels, size, size))
        return graph.op("Add", value, back)

    value = graph.conv("latent", 4, width)
    kept, channels, size = [], width, 32
    for level in range(3):
        outer = width * (level + 1)
        value = attend(block(value, channels, outer), outer, size)
        kept.append((value, outer, size))
        value, channels, size = graph.conv(value, outer, outer, 3, 2), outer, size // 2
    value = attend(block(value, channels, channels), channels, size)
    for skip, outer, size in reversed(kept):
        scales = graph.constant(np.array([1, 1, 2, 2], F32))
        value = graph.op("Resize", value, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
        value = attend(block(graph.op("Concat", value, skip, axis=1), channels + outer, outer), outer, size)
        channels = outer
    graph.op("Identity", graph.conv(value, channels, 4), output="noise")
    return graph.write(path, {"latent": random(4, 1, 4, 32, 32)}, {"noise": TensorProto.FLOAT})


# A graph network: sums over neighbours by ScatterElements, 32 graphs of 24 nodes.

def graph_network(path, cache):
    graph, width, nodes, edges = Graph(opset=17), 128, 32 * 24, 32 * 96
    value = graph.op("Gather", graph.matrix(119, width), "kind")
    bonds = graph.op("Gather", graph.matrix(8, width), "bond")
    source, target = (graph.op("Gather", "edges", graph.constant(np.int64(row)), axis=0) for row in (0, 1))
    where = graph.op("Expand", graph.op("Unsqueeze", target, graph.integers(1)), graph.integers(edges, width))
    for _ in range(5):
        message = graph.op("Relu", graph.op("Add", graph.op("Gather", value, source), bonds))
        zeros = graph.op("ConstantOfShape", graph.integers(nodes, width))
        summed = graph.op("ScatterElements", zeros, where, message, axis=0, reduction="add")
        hidden = graph.op("Relu", graph.dense(graph.op("Add", value, summed), width, 2 * width))
        value = graph.op("Relu", graph.dense(hidden, 2 * width, width))
    graph.op("Identity", value, output="states")
    rng = np.random.default_rng(5)
    where = rng.integers(0, 24, (2, edges)) + np.repeat(np.arange(32), 96) * 24
    feeds = {"kind": rng.integers(1, 118, nodes), "bond": rng.integers(0, 8, edges), "edges": where}
    return graph.write(path, feeds, {"states": TensorProto.FLOAT})


# Recurrent networks.

def lstm_loop(path, cache):
    """An LSTM of 60 steps as tf2onnx writes one that it does not recognise: a Loop whose body has the cell in its parts, with a scan output."""
    steps, inner, hidden = 60, 40, 128
    body = Graph(seed=6)
    body.op("Identity", "going", output="going_on")
    x = body.op("Gather", "sequence", "step", axis=0)
    gates = body.dense(body.op("Concat", x, "h", axis=1), inner + hidden, 4 * hidden)
    parts = [f"gate_{number}" for number in range(4)]
    body.nodes.append(helper.make_node("Split", [gates], parts, name="split", axis=1))
    i, j, f, o = parts
    kept = body.op("Mul", "c", body.op("Sigmoid", body.op("Add", f, body.scalar(1))))
    body.op("Add", kept, body.op("Mul", body.op("Sigmoid", i), body.op("Tanh", j)), output="c_new")
    body.op("Mul", body.op("Tanh", "c_new"), body.op("Sigmoid", o), output="h_new")
    body.op("Identity", "h_new", output="told")
    of = lambda name, type=TensorProto.FLOAT, shape=(1, hidden): helper.make_tensor_value_info(name, type, shape)
    taken = [of("step", TensorProto.INT64, ()), of("going", TensorProto.BOOL, ()), of("h"), of("c")]
    given = [of("going_on", TensorProto.BOOL, ()), of("h_new"), of("c_new"), of("told")]
    inside = helper.make_graph(body.nodes, "cell", taken, given, body.constants)
    graph = Graph()
    state = graph.constant(np.zeros((1, hidden), F32))
    loop = ["", graph.constant(np.bool_(True)), state, state]
    loop[0] = graph.constant(np.int64(steps))
    graph.nodes.append(helper.make_node("Loop", loop, ["h_last", "c_last", "all"], name="loop", body=inside))
    return graph.write(path, {"sequence": random(6, steps, 1, inner)}, {"all": TensorProto.FLOAT, "h_last": TensorProto.FLOAT})


def gru_step(path, cache):
    """A step of a decoder: embedding, GRU of 256, attention over 20 states, and scores of 2 000 words."""
    graph, width = Graph(), 256
    word = graph.op("Gather", graph.matrix(2000, width), "word")
    recur = [graph.constant(random(7 + part, 1, 3 * width, width) / F32(16)) for part in (0, 1)]
    graph.nodes.append(helper.make_node("GRU", [word, *recur, graph.constant(np.zeros((1, 6 * width), F32)), "", "state"], ["all", "state_out"], name="gru", hidden_size=width, linear_before_reset=1))
    query = graph.op("Reshape", "all", graph.integers(1, 1, width))
    shares = graph.op("Softmax", graph.op("MatMul", query, graph.op("Transpose", "memory", perm=[0, 2, 1])), axis=-1)
    context = graph.op("Concat", query, graph.op("MatMul", shares, "memory"), axis=2)
    graph.op("LogSoftmax", graph.dense(graph.op("Tanh", graph.dense(context, 2 * width, width)), width, 2000), axis=-1, output="scores")
    feeds = {"word": np.array([[17]], I64), "state": random(8, 1, 1, width), "memory": random(9, 1, 20, width)}
    return graph.write(path, feeds, {"scores": TensorProto.FLOAT, "state_out": TensorProto.FLOAT})


# Operators alone.

def alone(kind, feeds, output, constants=(), opset=17, outputs=1, **attributes):
    """One operator on these inputs, behind which constants stand; `output` is the type of the first of its outputs."""
    def write(path, cache):
        graph, given = Graph(opset=opset), feeds()
        names = [*given, *(graph.constant(of) if of is not None else "" for of in constants)]
        results = {f"y{number}": output if number == 0 else TensorProto.INT64 for number in range(outputs)}
        graph.nodes.append(helper.make_node(kind, names, list(results), name=kind, **attributes))
        return graph.write(path, given, results)

    return write


def bytes_of(seed, *shape, signed=False):
    low, high, of = (-128, 128, np.int8) if signed else (0, 256, np.uint8)
    return np.random.default_rng([seed, 4]).integers(low, high, shape).astype(of)


def qlinear_conv(path, cache):
    graph = Graph()
    scale, zero = graph.scalar(0.02), graph.constant(np.uint8(128))
    weights = [graph.constant(bytes_of(10, 64, 64, 3, 3, signed=True)), graph.scalar(0.01), graph.constant(np.int8(0))]
    inputs = ["x", scale, zero, *weights, graph.scalar(0.5), graph.constant(np.uint8(128)), graph.constant(np.zeros(64, np.int32))]
    graph.nodes.append(helper.make_node("QLinearConv", inputs, ["y"], name="conv", pads=[1] * 4))
    return graph.write(path, {"x": bytes_of(11, 1, 64, 56, 56)}, {"y": TensorProto.UINT8})


def half_conv(path, cache):
    return half(alone("Conv", lambda: {"x": random(12, 1, 64, 56, 56)}, TensorProto.FLOAT, [random(13, 64, 64, 3, 3) / F32(24)], pads=[1] * 4))(path, cache)


MODELS = {
    "resnet50-f32": light("resnet50"),
    "resnet50-qdq": quantised_network("resnet50-qdq"),
    "resnet50-qoperator": quantised_network("resnet50-qoperator"),
    "mobilenet-qdq": quantised_network("mobilenet-qdq"),
    "minilm-dynamic-int8": dynamic,
    "squeezenet-f32": light("squeezenet"),
    "squeezenet-f16": half(light("squeezenet")),
    "resnet50-f16": half(light("resnet50")),
    "encoder-6x384-f32": encoder,
    "encoder-6x384-f16": half(encoder),
    "speech-encoder": speech_encoder,
    "image-transformer-1": image_transformer(1),
    "image-transformer-8": image_transformer(8),
    "diffusion-unet": diffusion,
    "graph-network": graph_network,
    "lstm-loop": lstm_loop,
    "gru-step": gru_step,
    "op-attention": alone("Attention", lambda: {name: random(14, 1, 8, 512, 64) for name in ("q", "k", "v")}, TensorProto.FLOAT, opset=23),
    "op-einsum": alone("Einsum", lambda: {"a": random(15, 8, 128, 4, 64), "b": random(16, 8, 128, 4, 64)}, TensorProto.FLOAT, equation="bihd,bjhd->bhij"),
    "op-topk": alone("TopK", lambda: {"x": random(17, 1, 1_000_000)}, TensorProto.FLOAT, [np.array([100], I64)], outputs=2),
    "op-quantize-linear": alone("QuantizeLinear", lambda: {"x": random(18, 4_000_000)}, TensorProto.UINT8, [F32(0.02), np.uint8(128)]),
    "op-qlinear-conv": qlinear_conv,
    "op-matmul-integer": alone("MatMulInteger", lambda: {"a": bytes_of(19, 512, 512)}, TensorProto.INT32, [bytes_of(20, 512, 512, signed=True), np.uint8(128)]),
    "op-conv-f16": half_conv,
}


def made(cache, name):
    """The path of a model, which is made unless it is there, and its inputs."""
    folder = os.path.join(cache, "made")
    os.makedirs(folder, exist_ok=True)
    path, inputs = (os.path.join(folder, name + ending) for ending in (".onnx", ".npz"))
    if not os.path.exists(inputs):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            new = os.path.join(scratch, "model.onnx")
            feeds = MODELS[name](new, cache)
            os.replace(new, path)
            # The inputs' names may be no names of files.
            content = {f"content_{number}": of for number, of in enumerate(feeds.values())}
            np.savez(os.path.join(scratch, "inputs.npz"), names=np.array(list(feeds)), **content)
            os.replace(os.path.join(scratch, "inputs.npz"), inputs)
    with np.load(inputs) as kept:
        return path, {str(port): kept[f"content_{number}"] for number, port in enumerate(kept["names"])}
