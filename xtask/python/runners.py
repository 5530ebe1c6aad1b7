"""Those who run models in turns, for the benchmarks: `hetero run --on-request`, and ONNX Runtime in this process."""
import os
import subprocess
import sys
import time

import onnxruntime


def jiffies():
    """Busy time of the machine, steal included, and of this process, in seconds."""
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:2])


def seconds_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Hetero:
    """A process of hetero; `inputs` has the file of each input, and `errors` may be a file for what the process says of a failure."""

    def __init__(self, name, hetero, model, inputs, threads, errors=None):
        self.name = name
        command = [hetero, "run", "--device", "cpu:0", model, "--threads", str(threads), "--on-request"]
        for port, path in inputs.items():
            command += ["--input", f"{port}={path}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)

    def block(self, count):
        """The milliseconds of as many runs; no more are asked for at once than pipes have room for."""
        times = []
        while len(times) < count:
            some = min(4096, count - len(times))
            try:
                self.process.stdin.write("\n" * some)
                self.process.stdin.flush()
                times += [float(self.process.stdout.readline()) / 1e3 for _ in range(some)]
            except (BrokenPipeError, ValueError):
                raise RuntimeError("hetero has ended") from None
        return times

    def close(self):
        self.process.stdin.close()
        if self.process.wait() != 0:
            sys.exit("hetero failed")


class Library:
    def block(self, count):
        times = []
        for _ in range(count):
            start = time.perf_counter()
            self.run()
            times.append((time.perf_counter() - start) * 1e3)
        return times


class OnnxRuntime(Library):
    name = "onnxruntime"

    def __init__(self, model, feeds, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.feeds = feeds

    def run(self):
        return self.session.run(None, self.feeds)
