"""Asks Intel's OpenCL for processors whether it knows this one; prints what it is to compile for where it does not.

It computes wrongly on a processor that is newer than it is, and says so in a warning when it starts.
Prints nothing where it knows the processor or is not there.
"""

import ctypes
import subprocess
import sys

WARNING = b"Unknown host CPU"
# The driver's names for sets of instructions, and flags that Linux lists for a processor that has them.
TARGETS = [
    ("skx", {"avx2", "fma", "bmi1", "bmi2", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}),
    ("core-avx2", {"avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe"}),
    ("corei7-avx", {"avx", "popcnt"}),
    ("corei7", {"sse4_2", "popcnt"}),
]


def start():
    """Starts the drivers that OCL_ICD_VENDORS names; they write their warnings."""
    ctypes.CDLL("libOpenCL.so.1").clGetPlatformIDs(0, None, ctypes.byref(ctypes.c_uint()))


def flags():
    with open("/proc/cpuinfo") as file:
        lines = (line.partition(":") for line in file)
        return set(next((value.split() for name, _, value in lines if name.strip() == "flags"), []))


def main():
    # In another process, since it may crash.
    started = subprocess.run([sys.executable, __file__, "start"], capture_output=True)
    if WARNING in started.stderr + started.stdout:
        offered = flags()
        print(next((target for target, needed in TARGETS if needed <= offered), ""))


if __name__ == "__main__":
    start() if sys.argv[1:] == ["start"] else main()
