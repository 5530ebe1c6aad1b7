"""Transformers with weights of a seed, as exporters of PyTorch write them: sizes are read by Shape and Gather, and put together for Reshape.

`encoder` is like BERT, `decoder` like GPT-2 with a cache. Attention is in its parts, Gelu is by Erf, and both models have a mask of padding; the decoder compares positions for its causal mask, as newer exports do.
"""
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 17, 8
POSITIONS = 2048


class Writer:
    """The nodes and constants of a graph on its way."""

    def __init__(self, seed, width, heads):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], []
        self.width, self.heads = width, heads

    def op(self, kind, *inputs, output=None, **attributes):
        name = output or f"{kind}_{len(self.nodes)}_output"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind}_{len(self.nodes)}", **attributes))
        return name

    def constant(self, array):
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values):
        return self.constant(np.array(values, np.int64))

    def scalar(self, value):
        return self.constant(np.float32(value))

    def weight(self, *shape):
        return self.constant(self.rng.standard_normal(shape, np.float32) * np.float32(0.02))

    def size(self, value, axis):
        """A size as a list of one, by the chain that exporters write."""
        index = self.constant(np.int64(axis))
        return self.op("Unsqueeze", self.op("Gather", self.op("Shape", value), index, axis=0), self.integers(0))

    def norm(self, value):
        scale = 1 + self.rng.standard_normal(self.width, np.float32) * np.float32(0.1)
        return self.op("LayerNormalization", value, self.constant(scale), self.weight(self.width), axis=-1, epsilon=1e-5)

    def linear(self, value, inner, outer):
        return self.op("Add", self.op("MatMul", value, self.weight(inner, outer)), self.weight(outer))

    def feed_forward(self, value):
        hidden = self.linear(value, self.width, 4 * self.width)
        erf = self.op("Erf", self.op("Div", hidden, self.scalar(np.sqrt(2))))
        gelu = self.op("Mul", self.op("Mul", hidden, self.op("Add", erf, self.scalar(1))), self.scalar(0.5))
        return self.linear(gelu, 4 * self.width, self.width)

    def apart(self, value):
        """Puts the heads on an axis of their own."""
        sizes = [self.size(value, 0), self.size(value, 1), self.integers(self.heads), self.integers(self.width // self.heads)]
        return self.op("Transpose", self.op("Reshape", value, self.op("Concat", *sizes, axis=0)), perm=[0, 2, 1, 3])

    def attention(self, value, masked, cache=lambda key, of: (key, of)):
        query, key, of = (self.apart(self.linear(value, self.width, self.width)) for _ in range(3))
        key, of = cache(key, of)
        scores = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 1, 3, 2]))
        scores = masked(self.op("Div", scores, self.scalar(np.sqrt(self.width // self.heads))), query, key)
        mixed = self.op("Transpose", self.op("MatMul", self.op("Softmax", scores, axis=-1), of), perm=[0, 2, 1, 3])
        sizes = [self.size(mixed, 0), self.size(mixed, 1), self.integers(self.width)]
        return self.linear(self.op("Reshape", mixed, self.op("Concat", *sizes, axis=0)), self.width, self.width)

    def padding(self, mask):
        """What is added to scores: nothing where the mask is 1."""
        mask = self.op("Cast", self.op("Unsqueeze", mask, self.integers(1, 2)), to=TensorProto.FLOAT)
        return self.op("Mul", self.op("Sub", self.scalar(1), mask), self.scalar(-10000))

    def save(self, name, inputs, outputs, path):
        info = lambda ports: [helper.make_tensor_value_info(port, *what) for port, what in ports.items()]
        graph = helper.make_graph(self.nodes, name, info(inputs), info(outputs), self.constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), path)


def embedding(writer, ids, positions, vocabulary):
    words = writer.op("Gather", writer.weight(vocabulary, writer.width), ids)
    return writer.op("Add", words, writer.op("Gather", writer.weight(POSITIONS, writer.width), positions))


def encoder(path, seed, layers, width, heads, vocabulary):
    writer = Writer(seed, width, heads)
    ids, mask = "input_ids", "attention_mask"
    ranks = writer.constant(np.arange(POSITIONS, dtype=np.int64)[None])
    positions = writer.op("Slice", ranks, writer.integers(0), writer.size(ids, 1), writer.integers(1))
    value = writer.norm(embedding(writer, ids, positions, vocabulary))
    bias = writer.padding(mask)
    masked = lambda scores, query, key: writer.op("Add", scores, bias)
    for _ in range(layers):
        value = writer.norm(writer.op("Add", writer.attention(value, masked), value))
        value = writer.norm(writer.op("Add", writer.feed_forward(value), value))
    writer.op("Identity", value, output="last_hidden_state")
    tokens = (TensorProto.INT64, ["batch", "sequence"])
    writer.save("encoder", {ids: tokens, mask: tokens}, {"last_hidden_state": (TensorProto.FLOAT, ["batch", "sequence", width])}, path)


def decoder(path, seed, layers, width, heads, vocabulary):
    writer = Writer(seed, width, heads)
    ids, mask, positions = "input_ids", "attention_mask", "position_ids"
    tokens = (TensorProto.INT64, ["batch", "sequence"])
    inputs = {ids: tokens, mask: (TensorProto.INT64, ["batch", "total"]), positions: tokens}
    outputs = {"logits": (TensorProto.FLOAT, ["batch", "sequence", vocabulary])}
    value = embedding(writer, ids, positions, vocabulary)
    zero, one = (writer.constant(np.int64(value)) for value in (0, 1))
    total = writer.op("Gather", writer.op("Shape", mask), one, axis=0)
    seen = writer.op("LessOrEqual", writer.op("Range", zero, total, one), writer.op("Unsqueeze", positions, writer.integers(1, 3)))
    bias = writer.op("Where", seen, writer.padding(mask), writer.scalar(-10000))
    masked = lambda scores, query, key: writer.op("Add", scores, writer.op("Slice", bias, writer.integers(0), writer.size(key, 2), writer.integers(3)))

    for layer in range(layers):
        def cache(*values):
            joined = []
            for name, value in zip(("key", "value"), values):
                past, present = f"past_key_values.{layer}.{name}", f"present.{layer}.{name}"
                shape = lambda size: (TensorProto.FLOAT, ["batch", heads, size, width // heads])
                inputs[past], outputs[present] = shape("past"), shape("past + sequence")
                joined.append(writer.op("Concat", past, value, output=present, axis=2))
            return joined

        value = writer.op("Add", writer.attention(writer.norm(value), masked, cache), value)
        value = writer.op("Add", writer.feed_forward(writer.norm(value)), value)
    writer.op("MatMul", writer.norm(value), writer.weight(width, vocabulary), output="logits")
    writer.save("decoder", inputs, outputs, path)
