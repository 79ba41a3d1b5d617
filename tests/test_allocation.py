"""Memory of tasks on worker processes: used again while a task runs, and returned behind it."""

import json
import os
import platform
import subprocess
import sys

import pytest

_COUNTS = """
import json, resource
from contextlib import nullcontext
import numpy as np
from voxstack.run.allocation import reused_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def faults(context):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with context:
        for _ in range(40):
            np.empty((64, 32, 32, 32), np.float32).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(nullcontext())
told = {"without": faults(nullcontext()), "resident": resident()}
with reused_memory:  # of several threads
    told["within"] = faults(reused_memory)
    told["still"] = faults(nullcontext())
told |= {"after": faults(nullcontext()), "kept": resident() - told["resident"]}
print(json.dumps(told))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told how to return memory")
def test_pages_are_used_again_while_tasks_run() -> None:
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}  # as Dask's nanny sets it
    done = subprocess.run([sys.executable, "-c", _COUNTS], capture_output=True, text=True, check=True, env=environment)
    told = json.loads(done.stdout)
    assert max(told["within"], told["still"]) < told["without"] / 4
    assert told["after"] > told["without"] / 2
    assert told["kept"] < 2**20


def test_a_process_that_dask_did_not_start_is_left_alone() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_TRIM_THRESHOLD_"}
    code = "from voxstack.run import allocation; print(allocation._glibc())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "None\n"
