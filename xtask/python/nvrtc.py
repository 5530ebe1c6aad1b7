"""Compiles CUDA C sources where there is no GPU: with NVRTC to PTX, then with ptxas to machine code.

    nvrtc.py FOLDER

Every `.cu` file of the folder is compiled for each of ARCHITECTURES. For each file a line says what the kernels need at most: registers
and bytes of shared memory; and a kernel that spills registers to memory is named, as that is slow but not wrong. Fails when a source does
not compile, with the compiler's log, and when there is no source or one without a kernel. Nothing here runs a kernel.

Runs in the environment that holds the packages nvidia-cuda-nvrtc-cu12 and nvidia-cuda-nvcc-cu12; no CUDA header is there, so sources that
include one do not compile.
"""

import ctypes
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor

# Compute capabilities: A100, H100.
ARCHITECTURES = ["80", "90"]
# Seconds that ptxas may take for one source.
LONGEST = 300

NVIDIA = pathlib.Path(sysconfig.get_path("purelib")) / "nvidia"
PTXAS = NVIDIA / "cuda_nvcc" / "bin" / "ptxas"


class Refused(Exception):
    """A source that does not compile; the message is the compiler's log."""


class Nvrtc:
    """The four calls of the run-time compiler that are needed here."""

    def __init__(self):
        self.library = ctypes.CDLL(str(NVIDIA / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            raise Refused(f"{name}: {self.library.nvrtcGetErrorString(code).decode()}")

    def text(self, program, what):
        """The log or the PTX of a program: a size, then so many bytes with a zero at their end."""
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.value.decode()

    def ptx(self, name, source, architecture):
        """The PTX of a source, and the compiler's warnings."""
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source, name.encode(), 0, None, None)
        try:
            options = [f"--gpu-architecture=compute_{architecture}".encode()]
            listed = (ctypes.c_char_p * len(options))(*options)
            code = self.library.nvrtcCompileProgram(program, len(options), listed)
            log = self.text(program, "ProgramLog").strip()
            if code != 0:
                raise Refused(f"{self.library.nvrtcGetErrorString(code).decode()}\n{log}")
            return self.text(program, "PTX"), log
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))


def resources(ptx, architecture):
    """For each kernel of a PTX text its name, registers, bytes of shared memory and bytes spilled, as ptxas reports them."""
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder) / "kernels.ptx"
        text.write_text(ptx)
        command = [str(PTXAS), "--verbose", f"--gpu-name=sm_{architecture}", f"--output-file={folder}/kernels.cubin", str(text)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    report = done.stdout + done.stderr
    if done.returncode != 0:
        raise Refused(f"ptxas\n{report.strip()}")
    kernels = []
    for part in re.split(r"Compiling entry function ", report)[1:]:
        name = re.match(r"'([^']+)'", part)
        registers = re.search(r"Used (\d+) registers", part)
        if not (name and registers):
            raise Refused(f"this report of ptxas is not understood:\n{report.strip()}")
        shared = re.search(r"(\d+) bytes smem", part)
        # A function that is not inlined has lines of its own, so all are added.
        spilled = sum(int(stored) + int(loaded) for stored, loaded in re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part))
        kernels.append((name[1], int(registers[1]), int(shared[1]) if shared else 0, spilled))
    if not kernels:
        raise Refused("this source has no kernel")
    return kernels


def check(nvrtc, path, architecture):
    """One line for a source, or the reason why it was refused."""
    try:
        ptx, warnings = nvrtc.ptx(path.name, path.read_bytes(), architecture)
        kernels = resources(ptx, architecture)
    except Refused as reason:
        return False, f"{path.name} sm_{architecture}: REFUSED: {reason}"
    spilling = [f"{name} spills {spilled} B" for name, _, _, spilled in kernels if spilled]
    parts = [f"{len(kernels)} kernel{'s' if len(kernels) > 1 else ''}"]
    parts.append(f"registers <= {max(registers for _, registers, _, _ in kernels)}")
    parts.append(f"shared <= {max(shared for _, _, shared, _ in kernels)} B")
    lines = [f"{path.name} sm_{architecture}: {', '.join(parts + (spilling or ['no spills']))}"]
    return True, "\n    ".join(lines + warnings.splitlines())


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.split("\n\n")[1])
    paths = sorted(pathlib.Path(sys.argv[1]).rglob("*.cu"))
    if not paths:
        sys.exit(f"there is no .cu file in {sys.argv[1]}")
    nvrtc = Nvrtc()
    # Both compilers leave the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = [pool.submit(check, nvrtc, path, architecture) for path in paths for architecture in ARCHITECTURES]
        results = [task.result() for task in tasks]
    for _, line in results:
        print(line)
    refused = sum(not passed for passed, _ in results)
    print(
        f"NVRTC {nvrtc.version()} and ptxas: {len(paths)} sources for {' and '.join('sm_' + name for name in ARCHITECTURES)}, "
        f"{refused} refused; compiled, not run"
    )
    sys.exit(1 if refused else 0)


if __name__ == "__main__":
    main()
