"""Long runs from the outside: killed, interrupted, limited, continued, by the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted_server import Call, Reply, ScriptedServer

from irr.runs import ErrorLimit, TooManyFailedError
from irr.types import Prediction

Serve = Callable[..., ScriptedServer]
ROOT = Path(__file__).parents[1]
DOCUMENTS = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("bake bread\nspeak German\nrepair bicycles\n")
    rows = [{"id": f"é{number}", "text": f"bake {number}"} for number in range(DOCUMENTS)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def good(call: Call) -> str:
    return '{"guesses": ["bake bread"]}' if call.stage == "infer" else '{"ranking": [2, 1]}'


def start(folder: Path, server: ScriptedServer, *options: str) -> subprocess.Popen[str]:
    command = [
        *[sys.executable, "-m", "irr.predict", "--labels", "labels.txt", "--input", "in.jsonl"],
        *["--output", "out.jsonl", "--lm", "stub", "--api-base", server.url, *options],
    ]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def predict(
    folder: Path, server: ScriptedServer, *options: str
) -> subprocess.CompletedProcess[str]:
    process = start(folder, server, *options)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def rows(folder: Path, name: str = "out.jsonl") -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come about in a minute")


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_killed_run_goes_on_and_pays_for_nothing_twice(folder: Path, serve: Serve) -> None:
    whole = serve(good)
    assert predict(folder, whole).returncode == 0
    expected = (folder / "out.jsonl").read_bytes()
    (folder / "out.jsonl").unlink()
    (folder / "out.jsonl.run.json").unlink()

    holding = True

    def slow(call: Call) -> Reply | str:
        late = call.text.split()[-1] >= "30" and len(call.text.split()[-1]) == 2
        return Reply(hang=True) if late and holding else good(call)

    server = serve(slow)
    process = start(folder, server, "--in-flight", "16")  # More than hang: the others go on.
    wait_for(lambda: lines(folder / "out.jsonl.partial") == 30)
    process.kill()
    process.communicate()
    answered = sum(slow(call) != Reply(hang=True) for call in server.calls)
    asked = len(server.calls)
    holding = False
    result = predict(folder, server)
    assert result.returncode == 0, result.stderr
    assert "going on after 30 rows" in result.stderr
    assert (folder / "out.jsonl").read_bytes() == expected
    assert len(server.calls) - asked == 2 * DOCUMENTS - answered
    assert not list(folder.glob("*.replies*"))


def test_a_finished_run_asks_nothing(folder: Path, serve: Serve) -> None:
    server = serve(good)
    first = predict(folder, server)
    assert first.returncode == 0, first.stderr
    assert len(server.calls) == 2 * DOCUMENTS
    again = predict(folder, server)
    assert again.returncode == 0
    assert again.stderr == f"irr: out.jsonl is finished: {DOCUMENTS} rows\n"
    assert len(server.calls) == 2 * DOCUMENTS


def test_usage_is_what_the_server_counted(folder: Path, serve: Serve) -> None:
    server = serve(good)
    result = predict(folder, server)
    used = [row["usage"] for row in rows(folder)]
    assert sum(usage["calls"] for usage in used) == len(server.calls)
    assert sum(usage["input_tokens"] for usage in used) == server.input_tokens
    assert sum(usage["output_tokens"] for usage in used) == server.output_tokens
    counted = f"{server.input_tokens:,} tokens in, {server.output_tokens:,} out"
    assert f"{len(server.calls)} LM calls, {counted}" in result.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_the_calls_in_flight(
    folder: Path, serve: Serve, how: signal.Signals
) -> None:
    server = serve(lambda call: Reply(good(call), delay=0.5))
    process = start(folder, server, "--in-flight", "4")
    wait_for(lambda: len(server.calls) >= 4)
    process.send_signal(how)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "irr: stopping once the calls in flight are answered" in err
    assert "Traceback" not in err
    asked = len(server.calls)
    assert asked < 2 * DOCUMENTS
    result = predict(folder, server)
    assert result.returncode == 0, result.stderr
    # Every reply that was on its way is in the ledger or in a row.
    assert len(server.calls) == 2 * DOCUMENTS
    assert [row["id"] for row in rows(folder)] == [f"é{number}" for number in range(DOCUMENTS)]


def test_a_hopeless_run_ends_early_and_can_be_mended(folder: Path, serve: Serve) -> None:
    broken = True

    def script(call: Call) -> Reply | str:
        return Reply("no", status=400) if broken else good(call)

    server = serve(script)
    result = predict(folder, server, "--max-error-rate", "0.005")
    assert result.returncode == 9
    assert "6 of 6 rows failed, more than --max-error-rate 0.5% allows" in result.stderr
    assert "--retry-failed" in result.stderr
    broken = False
    mended = predict(folder, server, "--retry-failed")
    assert mended.returncode == 0, mended.stderr
    assert [row["status"] for row in rows(folder)] == ["ok"] * DOCUMENTS


def test_failed_rows_of_a_finished_run_are_asked_again(folder: Path, serve: Serve) -> None:
    broken = True

    def script(call: Call) -> Reply | str:
        return Reply("no", status=400) if broken and "bake 7" in call.text else good(call)

    server = serve(script)
    result = predict(folder, server)
    assert result.returncode == 7
    assert [row["id"] for row in rows(folder) if row["status"] == "error"] == ["é7"]
    before = rows(folder)
    calls = len(server.calls)
    broken = False
    again = predict(folder, server, "--retry-failed")
    assert again.returncode == 0, again.stderr
    assert len(server.calls) == calls + 2
    after = rows(folder)
    assert [row for row in after if row["id"] != "é7"] == [r for r in before if r["id"] != "é7"]
    assert after[7]["status"] == "ok"


def test_calls_are_bounded_over_all_starts(folder: Path, serve: Serve) -> None:
    server = serve(good)
    for _ in range(2):
        result = predict(folder, server, "--max-calls", "30", "--in-flight", "4")
        assert result.returncode == 6
        assert "the budget of 30 calls is spent" in result.stderr
        assert len(server.calls) == 30
    result = predict(folder, server)
    assert result.returncode == 0, result.stderr
    assert len(server.calls) == 2 * DOCUMENTS
    assert {row["status"] for row in rows(folder)} == {"ok"}


def test_cost_is_bounded_to_the_calls_in_flight(folder: Path, serve: Serve) -> None:
    server = serve(good)
    (folder / "prices.json").write_text('{"stub": {"input": 1000.0, "output": 1000.0}}')
    prices = ["--prices", "prices.json"]
    result = predict(folder, server, *prices, "--max-cost", "5", "--in-flight", "4")
    assert result.returncode == 6
    assert "the budget of $5 is spent" in result.stderr
    spent = (server.input_tokens + server.output_tokens) / 1000
    most = max(len(json.dumps(call.body)) / 4 / 1000 for call in server.calls)
    assert 5 - 4 * most <= spent <= 5 + 4 * most
    assert f"${spent:,.4f}" in result.stderr


def test_an_unknown_price_is_not_invented(folder: Path, serve: Serve) -> None:
    result = predict(folder, serve(good), "--max-cost", "1")
    assert result.returncode == 2
    assert "--max-cost needs the price of 'stub'" in result.stderr


def test_another_run_onto_the_same_file_is_refused(folder: Path, serve: Serve) -> None:
    server = serve(good)
    assert predict(folder, server).returncode == 0
    before = (folder / "out.jsonl").read_bytes()
    refused = predict(folder, server, "--top-k", "1")
    assert refused.returncode == 4
    assert "top-k" in refused.stderr
    assert "--restart" in refused.stderr
    assert (folder / "out.jsonl").read_bytes() == before
    renewed = predict(folder, server, "--top-k", "1", "--restart")
    assert renewed.returncode == 0, renewed.stderr
    assert {len(row["labels"]) for row in rows(folder)} == {1}


def test_two_runs_at_once_are_refused(folder: Path, serve: Serve) -> None:
    server = serve(lambda call: Reply(hang=True))
    first = start(folder, server)
    wait_for(lambda: len(server.calls) > 0)
    second = predict(folder, server)
    first.kill()
    first.communicate()
    assert second.returncode == 4
    assert "another run" in second.stderr


def test_a_dry_run_writes_nothing_and_its_replies_are_used(folder: Path, serve: Serve) -> None:
    server = serve(good)
    result = predict(folder, server, "--dry-run", "--sample", "5")
    assert result.returncode == 0, result.stderr
    told = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[:2])
    assert told["documents"] == str(DOCUMENTS)
    assert "LM calls" in result.stdout
    assert len(server.calls) == 10
    assert not (folder / "out.jsonl").exists()
    assert predict(folder, server).returncode == 0
    assert len(server.calls) == 2 * DOCUMENTS


def test_a_finished_run_looks_at_its_input_again(folder: Path, serve: Serve) -> None:
    server = serve(good)
    assert predict(folder, server).returncode == 0
    with (folder / "in.jsonl").open("a") as file:
        file.write('{"id": "new", "text": "bake more"}\n')
    refused = predict(folder, server)
    assert refused.returncode == 4
    assert "--resume-changed" in refused.stderr
    assert len(server.calls) == 2 * DOCUMENTS
    longer = predict(folder, server, "--resume-changed")
    assert longer.returncode == 0, longer.stderr
    assert len(server.calls) == 2 * DOCUMENTS + 2
    assert [row["id"] for row in rows(folder)][-2:] == [f"é{DOCUMENTS - 1}", "new"]


def test_an_interrupt_while_the_server_fails_makes_no_failed_rows(
    folder: Path, serve: Serve
) -> None:
    broken = True
    server = serve(lambda call: Reply("no", status=500, delay=0.2) if broken else good(call))
    process = start(folder, server)
    wait_for(lambda: len(server.calls) >= 4)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    broken = False
    result = predict(folder, server)
    assert result.returncode == 0, result.stderr
    assert {row["status"] for row in rows(folder)} == {"ok"}


def test_a_server_that_does_not_count_tokens_is_held_against_the_budget(
    folder: Path, serve: Serve
) -> None:
    def script(call: Call) -> Reply:
        message = {"role": "assistant", "content": good(call)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return Reply(raw=json.dumps({"choices": [choice], "usage": None}).encode())

    server = serve(script)
    (folder / "prices.json").write_text('{"stub": {"input": 1000.0, "output": 1000.0}}')
    options = ["--prices", "prices.json", "--max-cost", "5", "--in-flight", "1"]
    result = predict(folder, server, *options)
    assert result.returncode == 6
    assert "the budget of $5 is spent" in result.stderr
    assert len(server.calls) < 40


def test_a_web_page_is_told_at_once(folder: Path, serve: Serve) -> None:
    server = serve(lambda call: Reply(raw=b"<!doctype html><html></html>"))
    result = predict(folder, server)
    assert result.returncode == 6
    assert "answered with a web page" in result.stderr
    assert not (folder / "out.jsonl.partial").exists()


def test_attempts_that_reach_nobody_are_no_calls(folder: Path, serve: Serve) -> None:
    server = serve(good)
    server.__exit__()
    result = predict(folder, server, "--max-calls", "100")
    assert result.returncode == 6
    assert "LM calls" not in result.stderr
    again = predict(folder, serve(good), "--max-calls", str(2 * DOCUMENTS))
    assert again.returncode == 0, again.stderr


def test_an_output_among_the_inputs_is_refused(folder: Path, serve: Serve) -> None:
    inside = folder / "docs"
    inside.mkdir()
    (inside / "a.jsonl").write_text('{"text": "bake"}\n')
    options = ["--input", "docs", "--output", "docs/out.jsonl"]
    result = predict(folder, serve(good), *options)
    assert result.returncode == 2
    assert "lies in the folder of --input" in result.stderr


def test_a_dry_run_without_a_sample_asks_nothing(folder: Path, serve: Serve) -> None:
    server = serve(good)
    result = predict(folder, server, "--dry-run", "--sample", "0")
    assert result.returncode == 0, result.stderr
    assert "unknown" in result.stdout
    assert server.calls == []
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "labels.txt"]


@pytest.mark.parametrize(
    ("rate", "rows_", "failed", "ends"),
    [(0.01, 1000, 10, False), (0.01, 11, 11, True), (1.0, 50, 50, False), (0.0, 5, 1, True)],
)
def test_when_a_run_is_hopeless(rate: float, rows_: int, failed: int, ends: bool) -> None:
    limit = ErrorLimit(rate)
    statuses = ["ok"] * (rows_ - failed) + ["error"] * failed
    ended = False
    for number, status in enumerate(statuses):
        try:
            limit.add(Prediction(str(number), status, error=("LMError", "no")))
        except TooManyFailedError:
            ended = True
    assert ended == ends


def test_failures_of_earlier_starts_count() -> None:
    limit = ErrorLimit(0.01, rows=500, failed=10)
    with pytest.raises(TooManyFailedError, match="11 of 501 rows failed"):
        limit.add(Prediction("x", "error", error=("LMError", "no")))
