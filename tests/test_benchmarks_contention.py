"""The command that makes the machine busy, binds processes to a core or a quota, and leaves nothing behind."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import joblib
import pytest

from benchmarks import states
from benchmarks.__main__ import _parser, main
from benchmarks.commands import contention
from benchmarks.machine import cpu_times
from benchmarks.report import summarize
from benchmarks.runner import Measurement, Row, SkippedError, compare
from benchmarks.tolerances import FitResult
from benchmarks.worker import ROOT, Worker

QUICK = ["--threads", "1", "--pause", "0", "--at-least", "0", "--repeats", "1", "--scale", "0.01"]
N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _args(*argv):
    return _parser().parse_args(["contention", *QUICK, *argv])


def _table_lines(text):
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# The command ---------------------------------------------------------------------------


@pytest.fixture
def _no_quota(monkeypatch):
    """A system on which no group can be made."""

    def no_quota(pids, n_others):
        return states.quota(pids, n_others, Path("nowhere"))

    monkeypatch.setitem(states.STATES, "quota", no_quota)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_quota")
def test_contention(tmp_path, capsys):
    path = tmp_path / "contention.json"
    argv = ["contention", "--states", "quota", "busy", "--others", "1", "--calls", "predict_row", *QUICK]
    assert main([*argv, "--summary", str(path)]) == 0
    printed, said = capsys.readouterr()
    title = contention.cases(0.01)["predict_row"].title
    assert [line[0].removesuffix(" †") for line in _table_lines(printed)] == 2 * ["call", title]
    assert [line[1:] for line in _table_lines(printed)[::2]] == 2 * [["busy"]]
    assert "- busy: 1 other process computes meanwhile\n" in printed
    assert "- quota: left out, no control group" in printed
    assert "SKIPPED: quota: no control group" in said
    [row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert row["facts"]["state"] == "busy"
    assert list(row["values"]) == ["scikit-learn", "ours", "ours, one thread"]
    assert main(["table", str(path)]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.usefixtures("_no_quota")
def test_contention_is_skipped_where_all_states_are_left_out(capsys):
    assert main(["contention", *QUICK, "--states", "quota"]) == 0
    printed, said = capsys.readouterr()
    assert printed == ""
    assert "SKIPPED: no control group" in said


def test_the_calls_have_their_sizes():
    every = contention.cases(1)
    assert [case.title for case in every.values()] == [
        "predict_proba: 20000×50, layers 100, float64",
        "predict_proba: 10000×784, layers 128-64, float64",
        "predict_proba: 200×784, layers 128-64, float64",
        "predict: 1×784, layers 128-64, float64",
        "fit of iris: 150×4, layers 100, batch 150, float64",
        "fit of digits: 1437×64, layers 100, batch 200, float64",
        "one epoch: 40000×100, layers 256-128, batch 200, float64",
        "one epoch: 60000×784, layers 128-64, batch 64, float32",
        "one epoch: 20000×3072, layers 128, batch 256, float32",
        "search of iris: 10 candidates × 3 folds, float64",
    ]
    assert all(case.problem.epochs == 1 for case in every.values() if case.title.startswith("one epoch"))
    assert {case.method for case in every.values()} == contention.TOLERANCES.keys()


class Here:
    """A worker that is this process, where others would take seconds to start."""

    def __init__(self, folder):
        self.pid = os.getpid()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def call(self, function, *args):
        return function(*args)


ONE_OF_EACH_METHOD = ["predict_proba", "predict_row", "iris", "search"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("calls", "worker"),
    [(ONE_OF_EACH_METHOD, Here), pytest.param(list(contention.cases(0.01)), Worker, marks=pytest.mark.slow)],
    ids=["few", "all"],
)
def test_results_that_differ_are_noticed(calls, worker, monkeypatch):
    class Wrong(worker):
        """A worker whose results of ours are others, of all calls."""

        def call(self, function, *args):
            measured = super().call(function, *args)
            if function is not contention.measure or args[1] != contention.OURS:
                return measured
            result = measured.result
            is_fit = isinstance(result, FitResult)
            return replace(measured, result=replace(result, loss=result.loss + 1) if is_fit else result + 1)

    monkeypatch.setattr(contention, "Worker", Wrong)
    rows = contention.run(_args("--states", "idle", "--calls", *calls))
    assert [row.facts["call"] for row in rows] == [contention.cases(0.01)[name].title for name in calls]
    assert {row.facts["method"] for row in rows} == contention.TOLERANCES.keys()
    assert all(ratio.mismatches for row in rows for ratio in row.ratios.values())
    assert all(" iterations" not in line for row in rows for ratio in row.ratios.values() for line in ratio.mismatches)


def _tables(seconds, left_out=None):
    """The tables of a call that takes scikit-learn, ours and one thread some seconds, in each state."""
    rows = []
    for state, times in seconds.items():
        names = contention.SKLEARN, contention.OURS, contention.ONE_THREAD
        measurements = {name: [Measurement(s, None)] for name, s in zip(names, times, strict=True)}
        facts = {"call": "a call", "state": state, "meaning": "as it is", "left_out": left_out or {}}
        rows.append(Row("", facts, measurements, compare(contention.COLUMNS, measurements, {}), 0.0))
    head = {"repeats": 1, "unit": "seconds", "machine": {"load_average": None}}
    return contention.tables(summarize(head, rows))


def test_marks():
    slower, costly = _table_lines(_tables({"idle": (2.0, 1.0, 0.8), "busy": (0.99, 1.0, 0.79)}))[1::2]
    assert slower == ["a call", "2.00 (2.00–2.00)", "**slower: 0.99 (0.99–0.99)**"]
    assert costly == ["a call", "0.80 (0.80–0.80)", "**threads cost: 0.79 (0.79–0.79)**"]


def test_a_state_that_is_left_out_is_said_above_the_tables():
    printed = _tables({"idle": (1.0, 1.0, 1.0)}, {"quota": "no group can be made"})
    assert printed.startswith("- idle: as it is\n- quota: left out, no group can be made\n")
    assert _table_lines(printed)[0] == ["call", "idle"]


# Other processes -----------------------------------------------------------------------


@pytest.fixture
def others(monkeypatch):
    """The other processes that have been started."""
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__(command, **options)
            if states.LOOP in command:
                started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return started


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_other_processes_run_during_the_measurement_only(error, others, monkeypatch):
    running = []

    def measure_row(title, facts, calls, *rest, **options):
        running.append([process.poll() is None for process in others])
        if error is not None:
            raise error
        return Row(title, facts, {}, {})

    monkeypatch.setattr(contention, "measure_row", measure_row)
    args = _args("--states", "idle", "busy", "--calls", "iris", "--others", "2")
    if error is None:
        contention.run(args)
        assert running == [[], [True, True]]
    else:
        args.states = ["busy"]
        with pytest.raises(error):
            contention.run(args)
        assert running == [[True, True]]
    assert all(process.returncode is not None for process in others)  # waited for as well


def test_other_processes_are_two_for_each_core_unless_told(others, monkeypatch):
    monkeypatch.setattr(contention, "measure_row", lambda title, facts, *rest, **options: Row(title, facts, {}, {}))
    [row] = contention.run(_args("--states", "busy", "--calls", "iris"))
    assert len(others) == 2 * joblib.cpu_count()
    assert row.facts["meaning"].startswith(f"{len(others)} other processes")


def test_other_processes_end_with_a_parent_that_is_killed():
    code = "import time; from benchmarks.states import other_processes as others\n"
    code += "with others(2):\n    print('started', flush=True)\n    time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline().strip() == b"started"
        parent.kill()
        assert parent.stdout.read() == b""  # which ends when the last process that has it ends


@pytest.mark.skipif(cpu_times() is None, reason="needs Linux's /proc")
def test_other_processes_are_no_load_of_other_programs():
    with states.other_processes(1):
        start, used = cpu_times(), time.process_time()
        while cpu_times().own - start.own < time.process_time() - used + 0.2:  # more than this process alone
            time.sleep(0.05)


# One core and a quota ------------------------------------------------------------------


@pytest.mark.skipif(N_CORES == 1, reason="needs two cores that a process can be bound to")
def test_one_core_is_that_of_the_worker():
    before = os.sched_getaffinity(0)
    with Worker(ROOT) as worker, states.one_core([worker.pid], 0):
        assert worker.call(os.sched_getaffinity, 0) == {max(before)}
        assert worker.call(joblib.cpu_count) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.slow
@pytest.mark.skipif(N_CORES == 1, reason="needs two cores that a process can be bound to")
def test_all_calls_are_made_on_one_core(monkeypatch):
    cores = {}

    def measure_row(title, facts, calls, *rest, **options):
        cores.update({name: call.func.__self__.call(os.sched_getaffinity, 0) for name, call in calls.items()})
        return Row(title, facts, {}, {})

    monkeypatch.setattr(contention, "measure_row", measure_row)
    [row] = contention.run(_args("--states", "one core", "--calls", "iris"))
    assert list(cores.values()) == 3 * [{max(os.sched_getaffinity(0))}]
    assert row.facts["cores"] == 1


def test_one_core_is_left_out_where_there_is_no_other(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    with pytest.raises(SkippedError, match="one core only"), states.one_core([], 0):
        pass
    monkeypatch.delattr(os, "sched_setaffinity")
    with pytest.raises(SkippedError, match="cannot bind"), states.one_core([], 0):
        pass


def test_a_quota_holds_for_the_worker_and_its_group_is_removed():
    with Worker(ROOT) as worker:
        try:
            with states.quota([worker.pid], 0) as meaning:
                group = f"benchmarks-{os.getpid()}"
                assert group in worker.call(Path.read_text, Path("/proc/self/cgroup"))
                assert group not in Path("/proc/self/cgroup").read_text()
        except SkippedError as reason:
            pytest.skip(str(reason))
        assert "quota" in meaning
        assert group not in worker.call(Path.read_text, Path("/proc/self/cgroup"))
        assert not any(found.folder.exists() for found in states._possible_groups(Path("/proc/self")))


def _proc(tmp_path, kind, options, own):
    """What /proc says of groups in a folder that is not the kernel's."""
    home = tmp_path / "groups" / "home"
    home.mkdir(parents=True)
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "mounts").write_text(f"proc /proc proc rw 0 0\nnone {home.parent} {kind} {options} 0 0\n")
    (proc / "cgroup").write_text(f"{own}\n")
    return proc, home


@pytest.mark.parametrize(
    ("kind", "options", "own", "places"),
    [
        ("cgroup", "rw,cpu,cpuacct", "4:cpu,cpuacct:/home", ["home"]),
        ("cgroup2", "rw", "0::/home", ["home", "."]),
        ("cgroup2", "rw", "0::/of/the/host", ["."]),
        ("cgroup", "rw,memory", "4:memory:/home", []),
    ],
    ids=["version 1", "version 2", "container", "no cpu"],
)
def test_groups_are_looked_for_below_our_own(kind, options, own, places, tmp_path):
    proc, home = _proc(tmp_path, kind, options, own)
    parents = [group.folder.parent for group in states._possible_groups(proc)]
    assert [parent.resolve() for parent in parents] == [(home.parent / place).resolve() for place in places]
    with pytest.raises(SkippedError, match="no control group"), states.quota([], 0, proc):
        pass  # the kernel has no quota in these folders
    assert [path.name for path in home.parent.rglob("*")] == ["home"]


def test_the_quota_of_a_group_is_half_the_cores(tmp_path, monkeypatch):
    proc, home = _proc(tmp_path, "cgroup", "rw,cpu", "4:cpu:/home")
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    mkdir = Path.mkdir

    def make_as_the_kernel(folder):
        mkdir(folder)
        (folder / "cpu.cfs_quota_us").touch()
        (folder / "cgroup.procs").touch()

    monkeypatch.setattr(Path, "mkdir", make_as_the_kernel)
    monkeypatch.setattr(states.Group, "remove", lambda group: None)
    with states.quota([42], 0, proc) as meaning:
        [group] = home.iterdir()
        assert (group / "cpu.cfs_quota_us").read_text() == "150000"
        assert (group / "cgroup.procs").read_text() == "42"
    assert meaning.endswith("1.5 cores")
