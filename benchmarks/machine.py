"""The machine: what it is, and how busy other programs keep it."""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import torch
from threadpoolctl import threadpool_info

#: Cores that other programs may keep busy. A fixed number, not one for each core: a library
#: that computes on all cores waits for the slowest, however many there are.
MAX_LOAD = 0.25

#: How many times longer than its shortest round the longest one of an implementation may take.
MAX_SPREAD = 1.3

#: Variables that keep libraries from the kernels that they would choose for the processor.
_KERNEL_VARIABLES = (
    "OPENBLAS_CORETYPE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
)

_PACKAGES = ("sktorch-mlp", "numpy", "scipy", "scikit-learn", "torch", "skorch")


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, as they are before the first timing."""
    return {
        "versions": {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}},
        "machine": {
            "system": platform.system(),
            "cpu": _cpu_name(),
            "cores": joblib.cpu_count(),
            "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "device": device if torch.device(device).type != "cuda" else torch.cuda.get_device_name(device),
            "torch_threads": torch.get_num_threads(),
            "blas_threads": [
                {key: library.get(key) for key in ("internal_api", "version", "architecture", "num_threads")}
                for library in threadpool_info()
                if library["user_api"] == "blas"
            ],
            "kernel_variables": kernel_variables(),
        },
    }


def kernel_variables() -> dict[str, str]:
    """Variables of the environment that choose kernels. With one of them ratios are not those that users have."""
    return {name: os.environ[name] for name in _KERNEL_VARIABLES if name in os.environ}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


# Load ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CpuTimes:
    """Seconds until now.

    Attributes
    ----------
    clock : float
    cores : float
        That the cores which this process may use have been busy, or taken by the host of a
        virtual machine.
    own : float
        That this process and those it started have used.
    """

    clock: float
    cores: float
    own: float


def cpu_times() -> CpuTimes | None:
    """Read them from Linux's /proc; None on another system."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        own = _own_ticks()
    except OSError:
        return None
    names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    fields = [line.split() for line in lines]
    # user nice system idle iowait irq softirq steal
    busy = sum(int(core[column]) for core in fields if core[0] in names for column in (1, 2, 3, 6, 7, 8))
    ticks = os.sysconf("SC_CLK_TCK")
    return CpuTimes(time.perf_counter(), busy / ticks, own / ticks)


def _own_ticks() -> int:
    """CPU time of this process, of those it started and, in turn, of theirs."""
    used, children = {}, defaultdict(list)
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = file.read_text().rpartition(")")[2].split()  # after the name, which may have spaces
            pid, parent = int(file.parent.name), int(fields[1])
            used[pid] = sum(map(int, fields[11:15]))  # user, system, and both of children that have ended
            children[parent].append(pid)
    total, pids = 0, [os.getpid()]
    while pids:
        pid = pids.pop()
        total += used[pid]
        pids += children[pid]
    return total


def cores_used_by_others(start: CpuTimes | None, end: CpuTimes | None) -> float | None:
    """How many cores other programs kept busy on average; None where that is not known.

    Parameters
    ----------
    start, end : CpuTimes or None
    """
    if start is None or end is None or end.cores == start.cores:  # a sandbox may not count at all
        return None
    others = (end.cores - start.cores) - (end.own - start.own)
    return max(others, 0.0) / (end.clock - start.clock)
