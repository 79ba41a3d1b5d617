"""The command line chooses OpenBLAS's AVX-512 kernels where they surely run, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from voxstack.cli.blas import VARIABLE, choose_kernels

AVX512 = "fpu sse2 avx2 fma avx512f avx512cd avx512bw avx512dq avx512vl"


def chosen(folder: Path, *processors: tuple[str, str], **environment: str) -> str | None:
    blocks = (f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n" for vendor, flags in processors)
    (folder / "cpuinfo").write_text("\n".join(blocks))
    choose_kernels(environment, folder / "cpuinfo")
    return environment.get(VARIABLE)


@pytest.fixture(autouse=True)
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def test_intel_with_all_instructions(tmp_path: Path) -> None:
    assert chosen(tmp_path, ("GenuineIntel", AVX512), ("GenuineIntel", AVX512)) == "SkylakeX"


@pytest.mark.parametrize("lacking", ["avx512vl", "avx512f", "fma"])
def test_one_processor_that_lacks_an_instruction(tmp_path: Path, lacking: str) -> None:
    less = AVX512.replace(lacking, "")
    assert chosen(tmp_path, ("GenuineIntel", AVX512), ("GenuineIntel", less)) is None


def test_other_makers_systems_and_choices_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(tmp_path, ("AuthenticAMD", AVX512)) is None
    assert chosen(tmp_path) is None
    assert chosen(tmp_path, ("GenuineIntel", AVX512), **{VARIABLE: "Haswell"}) == "Haswell"
    choose_kernels(environment := {}, tmp_path / "nothing")
    assert environment == {}
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert chosen(tmp_path, ("GenuineIntel", AVX512)) is None


def test_it_is_chosen_before_numpy_is_there() -> None:
    code = (
        "import sys, voxstack.cli, voxstack.cli.blas as blas\n"
        "blas.choose_kernels = lambda environment: print('numpy' in sys.modules)\n"
        "voxstack.cli.choose_kernels = blas.choose_kernels\n"
        "sys.argv = ['voxstack', '--version']\n"
        "voxstack.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.stdout.splitlines()[0] == "False", done
