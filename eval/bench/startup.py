"""CPU seconds and wall seconds of a whole `irr predict` process, and of the first embedding.

In:  a label set. The cache is a temporary folder of the benchmark's own.
Out: the best of five runs of
     - `python -m irr.predict --help`;
     - one text without an LM, vectors cached;
     - one text with an LM, vectors cached, until its first request reaches a server on this
       machine (CPU of the process so far; answering is left out);
     - one text without an LM where the encoder has been exported but the labels are not embedded;
     - the same with nothing cached at all.
     CPU seconds are those of all threads (wait4, or /proc/PID/stat for the LM case). Targets are
     for CPU seconds; those of embedding are for wall seconds, as its work is shared by the cores.

    python eval/bench/startup.py --labels DIR/labels.jsonl [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from irr.errors import ConfigurationError, IrrError

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "eval"), str(ROOT / "tests")]
from reporting import emit, parser, run, show_machine  # noqa: E402
from scripted_server import Call, ScriptedServer  # noqa: E402

TEXT = "You maintain PostgreSQL databases and write Python services for our bakery."
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Taken:
    """CPU and wall seconds of one process."""

    cpu: float
    wall: float


def timed(arguments: Sequence[str], cache: Path) -> Taken:
    """Runs `python -m ARGUMENTS` to its end."""
    process, started = start(arguments, cache)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    check(process, arguments)
    return Taken(usage.ru_utime + usage.ru_stime, wall)


def timed_to_first_call(arguments: Sequence[str], cache: Path) -> Taken:
    """The same until its first request reaches the LM."""
    arrived: list[Taken] = []

    def answer(call: Call) -> str:
        if not arrived:
            arrived.append(Taken(cpu_so_far(process.pid), time.perf_counter() - started))
        return '{"guesses": ["SQL"]}' if call.stage == "infer" else '{"ranking": [1]}'

    with ScriptedServer(answer) as server:
        asked = [*arguments, "--lm", "scripted", "--api-base", server.url]
        process, started = start(asked, cache)
        process.wait()
        check(process, arguments)
    if not arrived:
        raise IrrError("the LM was never asked")
    return arrived[0]


def start(arguments: Sequence[str], cache: Path) -> tuple[subprocess.Popen[bytes], float]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"IRR_CACHE": str(cache), "PYTHONPATH": path}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    return process, started


def check(process: subprocess.Popen[bytes], arguments: Sequence[str]) -> None:
    if process.returncode:
        assert process.stderr is not None
        said = process.stderr.read().decode(errors="replace").strip().splitlines() or ["nothing"]
        command = " ".join(arguments)
        raise IrrError(f"python -m {command} ended with {process.returncode}: {said[-1]}")


def cpu_so_far(pid: int) -> float:
    """User and system seconds of a running process, all its threads, to 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def best(measure: Callable[[], Taken], repeats: int) -> Taken:
    """The least CPU and the least wall time of the repeats."""
    runs = [measure() for _ in range(repeats)]
    return Taken(min(r.cpu for r in runs), min(r.wall for r in runs))


def bench(options: argparse.Namespace) -> int:
    if options.repeats < 1:
        raise ConfigurationError("--repeats must be 1 or more")
    header = show_machine(options)
    with tempfile.TemporaryDirectory() as folder:
        cases = measure(options.labels, Path(folder), options.repeats)
    rows = [
        [
            name,
            f"{taken.cpu:.2f}",
            f"{taken.wall:.2f}",
            f"{target:g} {kind}",
            "met" if getattr(taken, kind) <= target else "missed",
        ]
        for name, (taken, kind, target) in cases.items()
    ]
    found = {
        name: {"cpu": taken.cpu, "wall": taken.wall, "target": target, "target_is": kind}
        for name, (taken, kind, target) in cases.items()
    }
    result = {"machine": header, "seconds": found, "repeats": options.repeats}
    emit(result, [(["", "CPU s", "wall s", "target", ""], rows)], options)
    if not options.json:
        print(f"\nbest of {options.repeats}")
    return 0


def measure(labels: str, folder: Path, repeats: int) -> dict[str, tuple[Taken, str, float]]:
    """Each case: what it took, which of CPU and wall its target is for, and the target."""
    cache = folder / "cache"
    predict = ["irr.predict", TEXT, "--labels", labels]
    timed(predict, cache)  # Exports the encoder, embeds the labels, compiles the modules.

    def embedding() -> Taken:
        shutil.rmtree(cache / "indexes")
        return timed(predict, cache)

    def everything() -> Taken:
        shutil.rmtree(cache)
        return timed(predict, cache)

    help_ = best(lambda: timed(["irr.predict", "--help"], cache), repeats)
    return {
        "--help": (help_, "cpu", 0.3),
        "one text, no LM": (best(lambda: timed(predict, cache), repeats), "cpu", 1.0),
        "one text, to the first LM call": (
            best(lambda: timed_to_first_call(predict, cache), repeats),
            "cpu",
            2.5,
        ),
        "labels not embedded yet": (best(embedding, repeats), "wall", 10.0),
        "nothing cached": (best(everything, repeats), "wall", 10.0),
    }


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__)
    made.add_argument("--labels", required=True, metavar="FILE", help="the label set")
    made.add_argument("--repeats", type=int, default=5, help="runs of each case (default 5)")
    return run(bench, made.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
