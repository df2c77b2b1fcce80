"""Every kernel plan on random layers, against plain loops (kernels_fuzz.c), under sanitizers and on another processor."""

import shutil
import subprocess
from pathlib import Path

import pytest

from resprout.deploy.runtime import build

FUZZ = Path(__file__).parent / "kernels_fuzz.c"


def fuzz(folder, command, sets, layers, *flags, emulator=()):
    """Run `layers` random layers in the kernels of `sets`, compiled by `command`."""
    sets = {isa: build.SETS[isa] for isa in sets}
    there = [f"-DRS_HAS_{isa.upper()}" for isa in sets]
    wanted = [job for job in build.jobs(sets) if job[0].startswith(("kernels", "shapes"))]
    objects = []
    for name, (source, *own) in [*wanted, ("fuzz.o", [str(FUZZ), *there])]:
        options = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{build.SOURCES}", *flags, *own]
        subprocess.run([command, *options, "-c", build.SOURCES / source, "-o", folder / name], check=True)
        objects.append(folder / name)
    subprocess.run([command, *flags, *objects, "-o", folder / "fuzz", "-lm"], check=True)
    done = subprocess.run([*emulator, folder / "fuzz", "0", str(layers)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("0 fails")


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
@pytest.mark.parametrize(
    ("sets", "layers", "optimise"),
    [(["portable"], 40, "-O0"), pytest.param(list(build.SETS), 300, "-O1", marks=pytest.mark.slow)],
    ids=["portable", "all"],
)
def test_every_plan_under_sanitizers(tmp_path, sets, layers, optimise):
    flags = (optimise, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    fuzz(tmp_path, "gcc", sets, layers, *flags)


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")),
    reason="needs Debian's gcc-aarch64-linux-gnu and qemu-user",
)
def test_every_plan_with_neon_under_qemu(tmp_path):
    fuzz(tmp_path, "aarch64-linux-gnu-gcc", ["portable"], 30, "-O1", "-static", emulator=["qemu-aarch64"])
