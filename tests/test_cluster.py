"""A run on a Ray cluster gives the rows of a run on one machine, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from conftest import HashEncoder
from scripted_server import Call, Reply, ScriptedServer

import irr.build
from irr.build import LMChoice, build_program
from irr.cluster import ClusterError, ClusterSettings, Spent, predict_on_ray, remove_parts
from irr.cluster.merge import Merging, prediction_of
from irr.cluster.parts import Parts
from irr.cluster.session import Control, check_address, ray_session, share_cpus
from irr.cluster.slices import Done, Failure, Slice, WorkerError, cut
from irr.cluster.worker import Setup
from irr.documents import read_documents
from irr.errors import ConfigurationError, IrrError, OutputError
from irr.journal import Journal
from irr.ledger import Budget, Counts, Ledger
from irr.pipeline import Stop
from irr.program import InferRetrieveRank
from irr.runs import RunSettings, TooManyFailedError, open_journal, replies_of, run_to_file
from irr.selection import Selection
from irr.types import Document, Prediction, ScoredLabel, Usage
from irr.writer import prediction_to_json

Serve = Callable[..., ScriptedServer]
ROOT = Path(__file__).parents[1]
NAMES = ["bake bread", "speak German", "repair bicycles", "use databases", "prune trees"]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'irr[ray]'"
)


class DeadlyEncoder(HashEncoder):
    """Kills its process, once, where a text tells it to by the name of a file."""

    def encode(self, texts: Sequence[str], *, progress: object = None, **_: object) -> np.ndarray:
        for text in texts:
            for word in text.split():
                if word.startswith("/") and not Path(word).exists():
                    with contextlib.suppress(FileNotFoundError):
                        Path(word).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(texts, progress=progress)


def make(
    labels: str, lm: LMChoice | str = "none", *, ledger: Ledger | None, threads: int = 1
) -> InferRetrieveRank:
    """A `MakeProgram`, once the first two arguments are settled."""
    with mock.patch.object(irr.build, "load_encoder", lambda *args, **options: DeadlyEncoder()):
        return build_program(labels, lm=lm, ledger=ledger)


def good(call: Call) -> str | Reply:
    if "refuse" in call.text:
        return Reply(status=400, content="no")
    return '{"guesses": ["bake bread"]}' if call.stage == "infer" else '{"ranking": [2, 1]}'


def write(path: Path, texts: Sequence[str]) -> Path:
    rows = [{"id": f"é{number}", "text": text} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(count: int) -> list[str]:
    return [f"{NAMES[number % 5]} {number}" for number in range(count)]


@pytest.fixture
def labels(tmp_path: Path) -> str:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(NAMES))
    return str(path)


@pytest.fixture(scope="module")
def ray(warm_cache: Path) -> Iterator[None]:
    """Ray with two CPUs; its processes have the test run's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IRR_CACHE", str(warm_cache))
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        with ray_session(ClusterSettings(workers=2)):
            yield


def on_one(
    program: Callable[..., InferRetrieveRank], source: Path, output: Path, **changes: object
) -> bytes:
    """The rows of a run on one machine."""
    settings = replace(RunSettings(max_error_rate=1.0), **changes)  # type: ignore[arg-type]
    with contextlib.closing(Ledger(replies_of(output))) as ledger:
        made = program(ledger=ledger)
        with open_journal(made, output, settings) as journal:
            run_to_file(made, read_documents(source), journal, settings, add=lambda _: None)
    return output.read_bytes()


def on_ray(
    program: Callable[..., InferRetrieveRank],
    source: Path | str,
    output: Path,
    *,
    rows: int = 5,
    stop: Stop | None = None,
    spent: Spent | None = None,
    add: Callable[[Prediction], None] = lambda _: None,
    **changes: object,
) -> bytes:
    """The rows of a run on two workers; none where it is not finished."""
    settings = replace(RunSettings(max_error_rate=1.0), **changes)  # type: ignore[arg-type]
    made = program(ledger=None)
    cluster = ClusterSettings(workers=2, rows=rows)
    with open_journal(made, output, settings) as journal:
        predict_on_ray(
            made, program, source, journal, settings, cluster, add=add, stop=stop, spent=spent
        )
    if not journal.finished:
        return b""
    remove_parts(output)
    return output.read_bytes()


# What needs no cluster.


def test_slices_end_by_rows_and_by_characters() -> None:
    documents = [Document(str(n), "x" * length) for n, length in enumerate([1, 1, 9, 1, 1, 1, 1])]
    found = [(s.number, s.first, s.rows) for s in cut(documents, 1, rows=3, characters=10)]
    assert found == [(0, 1, 2), (1, 3, 3), (2, 6, 1)]


def test_an_input_that_cannot_be_read_further_ends_after_whole_slices() -> None:
    def documents() -> Iterator[Document]:
        yield from (Document(str(n), "x") for n in range(5))
        raise OutputError("unreadable")

    slices = cut(documents(), 0, rows=2)
    assert [s.documents and s.documents[-1].id for s in (next(slices), next(slices))] == ["1", "3"]
    with pytest.raises(OutputError, match="unreadable"):
        next(slices)


def test_a_slice_survives_its_way() -> None:
    chosen = [Selection(("A", "re:b"), ("é",)), Selection(exclude=("C",), trusted=False), None]
    documents = [Document(f"é\u2028{n}", 'a "b"\n', selection=s) for n, s in enumerate(chosen)]
    each = Slice(3, 7, 3, tuple(documents))
    assert Slice.from_json(each.to_json()) == each


def test_what_became_of_a_slice_survives_its_way() -> None:
    failure = Failure.of(ConfigurationError("no"))
    done = Done(3, 7, 2, False, failure, {"student": Counts(2, 0, 1, 30, 4, None)})
    assert Done.from_json(done.to_json()) == done
    error = failure.exception()
    assert isinstance(error, IrrError)
    assert (str(error), error.exit_status) == ("no", 2)


def test_a_bug_of_a_worker_stays_a_bug() -> None:
    assert not isinstance(Failure.of(KeyError("x")).exception(), IrrError)


def test_a_row_that_was_read_is_written_as_it_was() -> None:
    row = Prediction(
        "é\u2028",
        "error",
        (ScoredLabel("1", "bake bread", 0.1235, "bread", True), ScoredLabel("2", "x", -1.0, "y")),
        ("bread",),
        Usage(2, 30, 4),
        ("a note",),
        ("LMError", "refused"),
        {"guesses": ["bread"], "candidates": [{"id": "1", "score": 0.5}], "picks": [1]},
    )
    line = prediction_to_json(row)
    assert prediction_to_json(prediction_of(line.encode())) == line


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ({"a": 8, "b": 4}, 4, (4, 2)),
        ({"a": 8, "b": 8}, 3, (3, 4)),
        ({"a": 1}, None, (1, 1)),
        ({"a": 5, "b": 0}, None, (2, 2)),
    ],
)
def test_workers_share_the_cpus(
    nodes: dict[str, int], workers: int | None, expected: tuple[int, int]
) -> None:
    assert share_cpus(nodes, workers) == expected


def test_more_workers_than_cpus_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="--workers 3: the cluster has 2 CPUs"):
        share_cpus({"a": 2}, 3)


def test_a_merged_part_is_counted_and_removed(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.jsonl")
    plan = parts.begin(10, 5, restart=False)
    for number in (0, 1):
        parts.rows(number).touch()
        parts.replies(number).touch()
    parts.settle(plan, Done(0, 10, 5, True, None, {"student": Counts(calls=3)}))
    assert sorted(path.name[:11] for path in parts.folder.iterdir()) == ["part-000001"] * 2 + [
        "plan.json"
    ]
    again = Parts(tmp_path / "out.jsonl").begin(15, 99, restart=False)
    assert (again.first, again.rows, again.merged, again.end) == (10, 5, 1, 15)
    assert again.totals["student"].calls == 3


def test_a_part_that_was_merged_before_a_kill_is_removed_after_it(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.jsonl")
    plan = parts.begin(0, 5, restart=False)
    parts.settle(plan, Done(0, 0, 5, True))
    parts.rows(0).touch()
    parts.begin(5, 5, restart=False)
    assert not parts.rows(0).exists()


def test_restart_forgets_the_parts(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.jsonl")
    parts.begin(0, 5, restart=False)
    parts.rows(0).touch()
    assert parts.begin(0, 7, restart=True).rows == 7
    assert not parts.rows(0).exists()


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.jsonl")
    parts.folder.mkdir()
    (parts.folder / "diary.txt").touch()
    with pytest.raises(OutputError, match=r"no plan\.json in it"):
        parts.begin(0, 5, restart=True)
    remove_parts(tmp_path / "out.jsonl")
    assert (parts.folder / "diary.txt").exists()


def write_part(parts: Parts, documents: Sequence[Document], number: int, first: int) -> Done:
    with Journal(parts.rows(number), {}) as journal:
        for document in journal.remaining(documents):
            journal.write(Prediction(document.id, "ok", notes=(document.text,)))
    return Done(number, first, len(documents), True)


def test_parts_are_merged_in_order_and_after_the_rows_that_are_there(tmp_path: Path) -> None:
    documents = [Document(str(n), f"text {n}") for n in range(10)]
    output = tmp_path / "out.jsonl"
    with Journal(output, {}) as journal:
        waiting = journal.remaining(documents)
        for _ in range(3):
            journal.write(Prediction(next(waiting).id, "ok", notes=("earlier",)))
    parts = Parts(output)
    plan = parts.begin(0, 4, restart=False)
    done = [write_part(parts, documents[f : f + 4], n, f) for n, f in enumerate((0, 4, 8))]
    shown: list[str] = []
    with Journal(output, {}) as journal:
        merging = Merging(journal, documents, parts, lambda row: shown.append(row.id))
        merging.begin(plan)
        for number in (2, 0, 1, 0):
            merging.take(done[number])
        assert merging.position is None
    notes = [json.loads(line)["notes"] for line in output.read_text().splitlines()]
    assert notes == [["earlier"]] * 3 + [[f"text {n}"] for n in range(3, 10)]
    assert shown == [str(n) for n in range(3, 10)]


def test_a_part_of_other_documents_is_not_merged(tmp_path: Path) -> None:
    documents = [Document(str(n), "x") for n in range(4)]
    parts = Parts(tmp_path / "out.jsonl")
    plan = parts.begin(0, 4, restart=False)
    done = write_part(parts, documents[::-1], 0, 0)
    with (
        Journal(tmp_path / "out.jsonl", {}) as journal,
        pytest.raises(OutputError, match="from 1 on: the input has changed"),
    ):
        merging = Merging(journal, documents, parts, lambda _: None)
        merging.begin(plan)
        merging.take(done)


def test_only_tries_without_progress_count() -> None:
    async def tries() -> list[int]:
        control = Control()
        counted = [await control.begin(0, size) for size in (0, 0, 10, 10, 10)]
        await control.end(0)
        return [*counted, await control.begin(0, 10), await control.busy()]

    assert asyncio.run(tries()) == [1, 2, 1, 2, 3, 1, 1]


def test_keys_do_not_show() -> None:
    setup = Setup(make, {}, RunSettings(), "", 1, "", "", {}, {"OPENAI_API_KEY": "sk-secret"})
    assert "sk-secret" not in repr(setup)


@pytest.mark.parametrize(
    ("source", "changes", "budget", "message"),
    [
        ("-", {}, Budget(), "reads the input twice"),
        ("in.jsonl", {"retry_failed": True}, Budget(), "without --engine ray"),
        ("in.jsonl", {}, Budget(max_calls=5), "hold on one machine only"),
        ("in.jsonl", {}, Budget(max_cost=5.0), "hold on one machine only"),
    ],
)
def test_what_does_not_go_with_a_cluster_is_refused(
    labels: str, tmp_path: Path, source: str, changes: dict[str, bool], budget: Budget, message: str
) -> None:
    program = make(labels, ledger=None)
    settings = replace(RunSettings(), **changes)
    with (
        open_journal(program, tmp_path / "out.jsonl", RunSettings()) as journal,
        pytest.raises(ConfigurationError, match=message),
    ):
        predict_on_ray(
            program,
            functools.partial(make, labels),
            source,
            journal,
            settings,
            add=lambda _: None,
            budget=budget,
        )


def test_an_address_without_a_cluster_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_address(address)
    with pytest.raises(ClusterError, match=f"no Ray cluster to use at {address}"):
        check_address(address)
    with pytest.raises(ConfigurationError, match="on a machine of the cluster"):
        check_address("ray://127.0.0.1:10001")


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ConfigurationError, match=r"pip install 'irr\[ray\]'"),
        ray_session(ClusterSettings()),
    ):
        pass


# With a cluster.


@needs_ray
def test_ray_on_this_machine_listens_on_loopback_only(ray: None) -> None:
    import ray as ray_module

    assert [node["NodeManagerAddress"] for node in ray_module.nodes()] == ["127.0.0.1"]


@needs_ray
def test_rows_are_those_of_one_machine(
    ray: None, tmp_path: Path, labels: str, serve: Serve
) -> None:
    program = functools.partial(make, labels, LMChoice("tiny", serve(good).url, in_flight=4))
    source = write(tmp_path / "in.jsonl", [*texts(22), "refuse this", "  ", "prune trees"])
    expected = on_one(program, source, tmp_path / "one.jsonl", trace=True)
    spent = Spent()
    found = on_ray(program, source, tmp_path / "ray.jsonl", trace=True, spent=spent)
    assert found == expected
    assert [json.loads(row)["status"] for row in found.splitlines()].count("error") == 1
    totals = spent.totals()["student"]
    usage = [json.loads(row)["usage"] for row in found.splitlines()]
    assert totals.calls - totals.failed == sum(row["calls"] for row in usage) == 46
    assert totals.input_tokens == sum(row["input_tokens"] for row in usage)
    assert {path.name for path in tmp_path.glob("ray.jsonl*")} == {
        "ray.jsonl",
        "ray.jsonl.run.json",
    }


@needs_ray
def test_documents_keep_their_selections(ray: None, tmp_path: Path, labels: str) -> None:
    program = functools.partial(make, labels)
    rows = [
        {"text": text, "include": ["*e*"], "exclude": [NAMES[number % 5]]}
        for number, text in enumerate(texts(12))
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = on_ray(program, source, tmp_path / "ray.jsonl")
    assert found == on_one(program, source, tmp_path / "one.jsonl")
    for number, line in enumerate(found.splitlines()):
        named = {label["label"] for label in json.loads(line)["labels"]}
        assert named == {name for name in NAMES if "e" in name} - {NAMES[number % 5]}


@needs_ray
def test_a_folder_of_shards_into_a_packed_file(ray: None, tmp_path: Path, labels: str) -> None:
    program = functools.partial(make, labels)
    shards = tmp_path / "shards"
    shards.mkdir()
    # Without ids: rows are numbered through all shards.
    (shards / "a.jsonl").write_text('{"text": "bake bread"}\n\n{"text": "speak German"}\n' * 4)
    (shards / "b.csv").write_text('text\n"prune\ntrees"\n' + "repair bicycles\n" * 6)
    if importlib.util.find_spec("pyarrow") is not None:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"text": ["use databases"] * 6})
        pyarrow.parquet.write_table(table, shards / "c.parquet")
    expected = on_one(program, shards, tmp_path / "one.jsonl.gz")
    assert on_ray(program, shards, tmp_path / "ray.jsonl.gz") == expected


@needs_ray
def test_a_worker_that_is_killed_is_replaced_and_nothing_is_paid_twice(
    ray: None, tmp_path: Path, labels: str, serve: Serve
) -> None:
    server = serve(good)
    program = functools.partial(make, labels, LMChoice("tiny", server.url, in_flight=1))
    deadly = tmp_path / "killed"
    source = write(tmp_path / "in.jsonl", [*texts(13), f"prune {deadly}", *texts(7)])
    found = on_ray(program, source, tmp_path / "ray.jsonl", rows=10)
    assert deadly.exists()
    # Two calls a document, none of them again: the kill comes between those of a document, and
    # two documents are open at once.
    assert len(server.calls) - 2 * 21 in (0, 1)
    assert found == on_one(program, source, tmp_path / "one.jsonl")


@needs_ray
def test_a_slice_that_kills_every_worker_ends_the_run(
    ray: None, tmp_path: Path, labels: str
) -> None:
    program = functools.partial(make, labels)
    # A file that cannot be made: the process is killed each time.
    source = write(tmp_path / "in.jsonl", [f"prune {tmp_path}/no/such/folder"])
    with pytest.raises(WorkerError, match="of the documents 1 to 1 one has ended 5"):
        on_ray(program, source, tmp_path / "ray.jsonl")


@needs_ray
def test_a_wrong_key_is_one_line_and_finished_rows_stay(
    ray: None, tmp_path: Path, labels: str, serve: Serve
) -> None:
    paid = {"calls": 0}

    def script(call: Call) -> str | Reply:
        paid["calls"] += 1
        return Reply(status=401, content="bad key") if paid["calls"] > 20 else good(call)

    server = serve(script)
    program = functools.partial(make, labels, LMChoice("tiny", server.url, in_flight=1))
    source = write(tmp_path / "in.jsonl", texts(20))
    with pytest.raises(WorkerError, match="401") as caught:
        on_ray(program, source, tmp_path / "ray.jsonl")
    assert caught.value.exit_status == 6
    assert "\n" not in str(caught.value)
    server.script = good
    before = len(server.calls)
    assert len(on_ray(program, source, tmp_path / "ray.jsonl").splitlines()) == 20
    assert len(server.calls) - before == 40 - 20


@needs_ray
def test_an_unreadable_row_ends_the_run_after_those_before_it(
    ray: None, tmp_path: Path, labels: str
) -> None:
    program = functools.partial(make, labels)
    source = write(tmp_path / "in.jsonl", texts(12))
    whole = source.read_text()
    source.write_text(whole + "{\n")
    shown: list[str] = []
    with pytest.raises(WorkerError, match=r"in\.jsonl:13: malformed JSON") as caught:
        on_ray(program, source, tmp_path / "ray.jsonl", add=lambda row: shown.append(row.id))
    assert caught.value.exit_status == 3
    assert shown == [f"é{number}" for number in range(10)]
    source.write_text(whole)
    found = on_ray(program, source, tmp_path / "ray.jsonl")
    assert found == on_one(program, source, tmp_path / "one.jsonl")


@needs_ray
def test_too_many_failed_rows_end_the_run(
    ray: None, tmp_path: Path, labels: str, serve: Serve
) -> None:
    server = serve(lambda call: Reply(status=400, content="no"))
    program = functools.partial(make, labels, LMChoice("tiny", server.url, in_flight=4))
    source = write(tmp_path / "in.jsonl", texts(40))
    with pytest.raises(TooManyFailedError, match="11 of 11 rows failed"):
        on_ray(program, source, tmp_path / "ray.jsonl", max_error_rate=0.01)


@needs_ray
def test_a_run_that_is_stopped_goes_on_where_it_was(
    ray: None, tmp_path: Path, labels: str, serve: Serve
) -> None:
    server = serve(good)
    program = functools.partial(make, labels, LMChoice("tiny", server.url, in_flight=2))
    source = write(tmp_path / "in.jsonl", texts(200))
    stop = Stop()
    assert (
        on_ray(program, source, tmp_path / "ray.jsonl", stop=stop, add=lambda _: stop.request())
        == b""
    )
    assert len(server.calls) < 400
    found = on_ray(program, source, tmp_path / "ray.jsonl")
    assert len(server.calls) == 400
    assert found == on_one(program, source, tmp_path / "one.jsonl")


@needs_ray
def test_parts_of_another_run_are_refused(
    ray: None, tmp_path: Path, labels: str, serve: Serve
) -> None:
    program = functools.partial(make, labels)
    source = write(tmp_path / "in.jsonl", texts(12))
    output = tmp_path / "ray.jsonl"
    parts = Parts(output)
    parts.begin(0, 5, restart=False)
    with Journal(parts.rows(1), {"labels": "others", "first": 5}) as journal:
        waiting = journal.remaining(list(read_documents(source))[5:])
        journal.write(Prediction(next(waiting).id, "ok"))
    with pytest.raises(WorkerError, match=r"labels.* are not those the file was begun with"):
        on_ray(program, source, output)
    found = on_ray(program, source, output, restart=True)
    assert found == on_one(program, source, tmp_path / "one.jsonl")


@needs_ray
def test_a_driver_that_is_killed_is_begun_again(
    ray: None, tmp_path: Path, labels: str, serve: Serve
) -> None:
    server = serve(good)
    choice = LMChoice("tiny", server.url, in_flight=2)
    program = functools.partial(make, labels, choice)
    source = write(tmp_path / "in.jsonl", texts(300))
    output = tmp_path / "ray.jsonl"
    driver = subprocess.Popen(
        [sys.executable, __file__, labels, server.url, str(source), str(output)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    while len(server.calls) < 100 and driver.poll() is None:
        time.sleep(0.02)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    found = on_ray(program, source, output)
    # Again only what was on its way: two calls in each of two workers.
    assert 600 <= len(server.calls) <= 604
    assert found == on_one(program, source, tmp_path / "one.jsonl")


if __name__ == "__main__":
    labels_file, url, source_file, output_file = sys.argv[1:]
    on_ray(
        functools.partial(make, labels_file, LMChoice("tiny", url, in_flight=2)),
        Path(source_file),
        Path(output_file),
    )
