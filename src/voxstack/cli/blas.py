"""Which of its kernels OpenBLAS is to use, said before NumPy is imported."""

import platform
import sys
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "OPENBLAS_CORETYPE"

_KERNELS = "SkylakeX"
_NEEDED = {"avx2", "fma", "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


def choose_kernels(environment: MutableMapping[str, str], processors: Path = Path("/proc/cpuinfo")) -> None:
    """Have OpenBLAS use AVX-512 where every processor surely has it, also where OpenBLAS does not know the processor.

    OpenBLAS goes by a list of processors; on one that is newer than itself it falls back to slower kernels. It does not
    check what it is told, so that a processor without these instructions would end the process. Those of other makers
    than Intel are left to OpenBLAS, whose kernels for them may be faster.

    Parameters
    ----------
    environment
        What the process and its workers inherit; a choice that is there already stands.
    processors
        What Linux says of the processors.
    """
    if VARIABLE in environment or sys.platform != "linux" or platform.machine() != "x86_64":
        return
    try:
        told = processors.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    pairs = [tuple(map(str.strip, line.split(":", 1))) for line in told.splitlines() if ":" in line]
    vendors = {value for key, value in pairs if key == "vendor_id"}
    flags = [set(value.split()) for key, value in pairs if key == "flags"]
    if vendors == {"GenuineIntel"} and flags and all(one >= _NEEDED for one in flags):
        environment[VARIABLE] = _KERNELS
