#!/usr/bin/env python3
"""Times examples/image_pipeline one photograph after the other and as a stream: `pipeline.py IMAGE_PIPELINE OUT [ARGUMENT...]`.

ROUNDS times both pass over the same photographs, by turns first; figures are medians of the rounds, ratios those of the rounds' ratios. One
process does all passes, so that nothing is compiled or warmed up in a timed one. Beside the ratio stand the bounds that no pipeline of these
stages passes:

    apart    the slowest stage alone, had each stage hardware of its own. A stage's time alone is how long its device worked in the passes
             one by one, in which nothing else of the pipeline runs; decoding is timed where it is done.
    shared   all devices of this machine share its cores: cores over the CPU time that a photograph takes in all stages, also one by one. Threads that
             watch for work while they have none count in it, so the true bound may lie higher.

Each round says how much of the machine other processes took meanwhile; nothing is left out because of it. Further arguments go to the example,
such as `--features opencl:0`. Writes OUT.json and OUT.md.
"""
import json
import os
import statistics
import subprocess
import sys
import time

ROUNDS = 5
ROLES = {"resize": "cpu:0", "features": "wgpu:0", "classifier": "fpga:0"}


def busy_machine():
    """Busy time of the machine, steal included, in seconds."""
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def seconds_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Example:
    def __init__(self, program, arguments):
        self.process = subprocess.Popen([program, "--on-request", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, which):
        """A pass over all photographs, with its CPU seconds and those of other processes."""
        began, machine, own = time.time(), busy_machine(), seconds_of(self.process.pid)
        try:
            self.process.stdin.write(which + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            sys.exit("the example has ended")
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the example has failed")
        found = json.loads(line)
        found["cpu_seconds"] = seconds_of(self.process.pid) - own
        taken = max(0.0, busy_machine() - machine - found["cpu_seconds"])
        found["foreign_cpu_percent"] = 100 * taken / ((time.time() - began) * os.cpu_count())
        found["per_second"] = found["photographs"] / found["seconds"]
        return found

    def close(self):
        self.process.stdin.close()
        if self.process.wait() != 0:
            sys.exit("the example has failed")


def main():
    program, out, *arguments = sys.argv[1:]
    roles = dict(ROLES)
    for role in roles:
        for option, value in zip(arguments, arguments[1:]):
            if option == f"--{role}":
                roles[role] = value
    example = Example(program, arguments)
    # The memory of all runs that will be under way.
    example.run("stream")
    rounds = []
    for number in range(ROUNDS):
        order = ["sequential", "stream"] if number % 2 == 0 else ["stream", "sequential"]
        found = {which: example.run(which) for which in order}
        rounds.append(found)
        print(f"round {number + 1}: " + ", ".join(f"{which} {found[which]['per_second']:.2f} per second (foreign CPU {found[which]['foreign_cpu_percent']:.0f} %)" for which in order), flush=True)
    example.close()

    of = lambda which, value: [value(found[which]) for found in rounds]
    median = lambda which, value: statistics.median(of(which, value))
    # Milliseconds that a photograph takes of each stage alone. A device that has two roles is one stage.
    stages = {"decode on the host": median("sequential", lambda one: 1e3 * one["decoding_seconds"] / one["photographs"])}
    for device in dict.fromkeys(roles.values()):
        times = of("sequential", lambda one: one["busy_seconds"].get(device))
        if None in times:
            print(f"{device} does not tell how long it worked: its stage is missing below")
            continue
        name = " and ".join(role for role in roles if roles[role] == device) + f" on {device}"
        stages[name] = statistics.median(1e3 * one / found["sequential"]["photographs"] for one, found in zip(times, rounds))
    whole = median("sequential", lambda one: 1e3 / one["per_second"])
    cpu = median("sequential", lambda one: one["cpu_seconds"] / one["photographs"])
    sequential, stream = (median(which, lambda one: one["per_second"]) for which in ("sequential", "stream"))
    ratios = [found["stream"]["per_second"] / found["sequential"]["per_second"] for found in rounds]
    ratio, cores = statistics.median(ratios), os.cpu_count()
    apart, shared = 1e3 / max(stages.values()), cores / cpu
    foreign = [found[which]["foreign_cpu_percent"] for found in rounds for which in found]
    spread = lambda values: f"{min(values):.2f} to {max(values):.2f}"

    lines = ["| stage alone | ms per photograph | bound, photographs per second |", "|---|---|---|"]
    lines += [f"| {name} | {time:.2f} | {1e3 / time:.2f} |" if time else f"| {name} | 0 | - |" for name, time in stages.items()]
    lines += [f"| handing over and waiting, one by one | {whole - sum(stages.values()):.2f} | |", ""]
    lines += ["| | photographs per second | over one by one |", "|---|---|---|"]
    lines += [f"| one by one, median of {ROUNDS} rounds | {sequential:.2f} ({spread(of('sequential', lambda one: one['per_second']))}) | 1 |"]
    lines += [f"| pipelined, median of {ROUNDS} rounds | {stream:.2f} ({spread(of('stream', lambda one: one['per_second']))}) | {ratio:.2f} ({spread(ratios)}) |"]
    lines += [f"| bound with each stage on hardware of its own | {apart:.2f} | {apart / sequential:.2f} |"]
    lines += [f"| bound with all stages on {cores} cores, {cpu:.2f} s of them per photograph | {shared:.2f} | {shared / sequential:.2f} |", ""]
    lines += [f"Foreign CPU: median {statistics.median(foreign):.0f} %, {min(foreign):.0f} to {max(foreign):.0f} % of the machine."]
    last = rounds[-1]["stream"]
    lines += [f"{edge['from']} -> {edge['to']}: {edge['zero_copy_bytes']} bytes in place, {edge['staged_bytes']} copied" + (f" ({edge['reason']})" if edge["reason"] else "") + "." for edge in last["edges"]]
    print("\n" + "\n".join(lines))
    summary = {"sequential_per_s": sequential, "stream_per_s": stream, "ratio": ratio, "stages_ms": stages, "bound_apart_per_s": apart, "bound_shared_per_s": shared, "cores": cores, "cpu_s_per_photograph": cpu}
    with open(out + ".json", "w") as file:
        json.dump({"roles": roles, **summary, "rounds": rounds}, file, indent=1)
    with open(out + ".md", "w") as file:
        file.write("\n".join(lines) + "\n")


main()
