"""States of the machine, in which the same calls are measured.

A state is a context, ``state(pids, n_others)``, around the calls. It puts the measured
processes, which have not imported numpy and PyTorch yet, into the state, and gives what
it did in words.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import joblib

from .runner import SkippedError

State = Callable[[Sequence[int], int], AbstractContextManager[str]]

#: What the other processes do. They end by themselves if this one is killed.
LOOP = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""

#: Microseconds in which a group may use its quota once.
PERIOD = 100_000


@contextmanager
def idle(pids: Sequence[int], n_others: int) -> Iterator[str]:
    """Leave the machine as it is."""
    yield "the machine as it is"


# Other processes -----------------------------------------------------------------------


@contextmanager
def busy(pids: Sequence[int], n_others: int) -> Iterator[str]:
    """Let other processes compute meanwhile."""
    with other_processes(n_others):
        yield f"{n_others} other {'process computes' if n_others == 1 else 'processes compute'} meanwhile"


@contextmanager
def other_processes(n_others: int) -> Iterator[None]:
    """Keep processes computing, and end them whatever happens.

    Parameters
    ----------
    n_others : int
    """
    command = [sys.executable, "-c", LOOP, str(os.getpid())]
    with ExitStack() as stack:
        for _ in range(n_others):
            # Ctrl-C reaches them as well, and their tracebacks would say nothing.
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)  # called before the context waits for it
        yield


# One core ------------------------------------------------------------------------------


@contextmanager
def one_core(pids: Sequence[int], n_others: int) -> Iterator[str]:
    """Bind the processes to one core.

    Raises
    ------
    SkippedError
        Where the system cannot do so, or has no other core.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise SkippedError("the system cannot bind a process to a core")
    cores = os.sched_getaffinity(0)
    if len(cores) == 1:
        raise SkippedError("there is one core only")
    for pid in pids:
        os.sched_setaffinity(pid, {max(cores)})  # the first core often serves the devices
    yield f"the measured processes are bound to core {max(cores)}"


# Quota ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """A control group of Linux that can be made.

    Attributes
    ----------
    home : Path
        Folder of the group that this process is in.
    folder : Path
        Of the new one.
    limit : str
        Name of the file that has its quota.
    text : str
        What to write there; ``{}`` stands for the microseconds of a period.
    """

    home: Path
    folder: Path
    limit: str
    text: str

    def make(self, n_cores: float) -> None:
        """Make it, with a quota of some cores."""
        self.folder.mkdir()
        try:
            file = self.folder / self.limit
            if not file.exists():  # a new file in a folder that is none of the kernel's is not a quota
                raise OSError(f"{file} does not exist")
            file.write_text(self.text.format(round(n_cores * PERIOD)))
        except OSError:
            self.folder.rmdir()
            raise

    def remove(self) -> None:
        """Move its processes back, and remove it."""
        for pid in (self.folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):  # it has ended
                (self.home / "cgroup.procs").write_text(pid)
        self.folder.rmdir()


@contextmanager
def quota(pids: Sequence[int], n_others: int, proc: Path = Path("/proc/self")) -> Iterator[str]:
    """Let all processes together have the time of half the cores.

    Parameters
    ----------
    pids : sequence of int
    n_others : int
    proc : Path, default=/proc/self
        Where the system says which groups it has.

    Raises
    ------
    SkippedError
        Where no control group with a quota can be made.
    """
    n_cores, reasons = joblib.cpu_count() / 2, []
    for group in _possible_groups(proc):
        try:
            group.make(n_cores)
        except OSError as error:
            reasons.append(str(error))
            continue
        try:
            _move(pids, group)
            yield f"the measured processes are in a control group with a quota of {n_cores:g} core{'s' if n_cores != 1 else ''}"
        finally:
            group.remove()
        return
    raise SkippedError(f"no control group with a quota can be made: {'; '.join(reasons) or 'the system has none'}")


def _move(pids: Sequence[int], group: Group) -> None:
    try:
        for pid in pids:
            (group.folder / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise SkippedError(f"processes cannot be moved to a control group: {error}") from error


def _possible_groups(proc: Path) -> Iterator[Group]:
    """Where groups may be made: below that of this process, in version 2 beside it as well."""
    try:
        mounts = [line.split() for line in (proc / "mounts").read_text().splitlines()]
        lines = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
    except OSError:
        return
    own = {name: path for _, names, path in lines for name in names.split(",")}
    name = f"benchmarks-{os.getpid()}"
    for _, point, kind, options, *_ in mounts:
        if kind == "cgroup" and "cpu" in options.split(","):
            home = _folder(Path(point), own.get("cpu", "/"))
            yield Group(home, home / name, "cpu.cfs_quota_us", "{}")
        elif kind == "cgroup2":
            home = _folder(Path(point), own.get("", "/"))
            # A group that has processes has no groups with quotas below it, unless it is the first of all.
            for parent in [home] if home == Path(point) else [home, home.parent]:
                yield Group(home, parent / name, "cpu.max", f"{{}} {PERIOD}")


def _folder(point: Path, path: str) -> Path:
    """The folder of a group; in a container it may be where the groups are mounted."""
    folder = point / path.lstrip("/")
    return folder if folder.is_dir() else point


STATES: dict[str, State] = {"idle": idle, "busy": busy, "one core": one_core, "quota": quota}
