"""The commands against a real vLLM server, whose model is tiny and knows nothing.

Run by hand, since vLLM is large and must be built for the machine: IRR_VLLM names its executable,
which may lie in an environment of its own. Looks at forms, counts and errors, never at quality.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import string
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from compile_world import LABELS, NAMES, documents
from tiny_model import make_tiny_model

from irr.errors import LMError
from irr.prompts import read_prompts
from irr.vllm import prefix_cache_hits, start_vllm

VLLM = shutil.which(os.environ.get("IRR_VLLM", ""))
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(VLLM is None, reason="IRR_VLLM names no vllm executable"),
]

ROOT = Path(__file__).parents[1]
MODEL = "tiny"
CONTEXT = 4_096
FLAGS = [
    *("--served-model-name", MODEL, "--dtype", "bfloat16", "--enforce-eager"),
    *("--max-model-len", str(CONTEXT)),
]
REPLIES = "vllm:request_success_total"
PROMPT_TOKENS = "vllm:prompt_tokens_total"
REPLY_TOKENS = "vllm:generation_tokens_total"
LOOKED_UP = "vllm:prefix_cache_queries_total"
FOUND = "vllm:prefix_cache_hits_total"


@dataclass
class Server:
    """A running server. `metrics` are its counters, summed over their labels."""

    address: str

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def metrics(self) -> Counter[str]:
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=30) as reply:
            lines = reply.read().decode().splitlines()
        totals: Counter[str] = Counter()
        for line in lines:
            if match := re.fullmatch(r"([\w:]+_total)(?:\{.*\})? (\S+)", line):
                totals[match[1]] += round(float(match[2]))
        return totals

    def since(self, before: Counter[str], replies: int) -> Counter[str]:
        """What the counters gained; they may lag a moment behind the last of so many replies."""
        for _ in range(50):
            gained = self.metrics()
            gained.subtract(before)
            if gained[REPLIES] >= replies:
                break
            time.sleep(0.1)
        return gained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = read_prompts()
    texts = [*NAMES, prompts.infer.instructions, prompts.rank.instructions]
    return make_tiny_model(tmp_path_factory.mktemp("model"), texts)


@pytest.fixture(scope="module")
def _settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this machine's vLLM needs to be told; nothing is downloaded or reported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CACHE_ROOT", str(tmp_path_factory.mktemp("vllm")))
        patch.setenv("IRR_VLLM_ARGS", shlex.join(FLAGS))
        yield


@pytest.fixture(scope="module")
def server(model: Path, _settings: None) -> Iterator[Server]:
    """Our own way to start vLLM; ended after the last test, without anything left of it."""
    begun = time.monotonic()
    with start_vllm(str(model), progress=sys.stdout) as running:
        say(f"vLLM was ready after {time.monotonic() - begun:.0f} s")
        assert running.model == MODEL
        group = group_of(f"--port {running.port} ")
        say("its processes: " + "; ".join(line[:40] for line in members(group)))
        yield Server(running.url.removesuffix("/v1"))
        begun = time.monotonic()
    say(f"vLLM had ended after {time.monotonic() - begun:.1f} s")
    assert members(group) == []
    assert not running.log.exists()


def group_of(mark: str) -> str:
    """The process group of the vLLM that has `mark` in its command line."""
    (row,) = (row for row in processes() if mark in row[1] and "guard.py" not in row[1])
    return row[0]


def members(group: str) -> list[str]:
    """The commands of the processes of a group."""
    return [command for own, command in processes() if own == group]


def processes() -> list[tuple[str, str]]:
    """(process group, command) of every process of this machine."""
    columns = ["ps", "-axwwo", "pgid=,command="]
    told = subprocess.run(columns, capture_output=True, text=True).stdout.splitlines()
    return [(group, command) for group, _, command in (x.strip().partition(" ") for x in told)]


def say(line: str) -> None:
    """Shown with -s."""
    sys.stdout.write(f"\n  {line}")
    sys.stdout.flush()


def irr(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", f"irr.{command}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    say(f"irr {command} took {time.monotonic() - begun:.1f} s, exit status {done.returncode}")
    return done


def ask(server: Server, *arguments: object, model: str = MODEL) -> list[object]:
    return ["--lm", model, "--api-base", server.url, "--in-flight", "8", *arguments]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def notes_of(rows: list[dict[str, Any]]) -> list[str]:
    return [note for row in rows for note in row.get("notes", [])]


def disorder(count: int, length: int) -> str:
    """Letters in disorder: hardly more than one to a token of this model's."""
    draw = random.Random(count)
    return "".join(draw.choice(string.ascii_letters) for _ in range(length))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write(tmp_path / "labels.jsonl", [{"id": x.id, "name": x.name} for x in LABELS])


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Twenty short documents."""
    draw = random.Random(0)
    rows = []
    for number in range(20):
        wanted = " and to ".join(draw.sample(NAMES, draw.randint(1, 3)))
        rows.append({"id": f"d{number}", "text": f"Wanted: somebody to {wanted}."})
    return write(tmp_path / "texts.jsonl", rows)


@pytest.fixture
def gold(tmp_path: Path) -> list[object]:
    """Six documents to learn from and four to score on."""
    arguments: list[object] = []
    for name, found in (("train", documents(6)), ("dev", documents(4, seed=1, start=100))):
        rows = [{"id": d.id, "text": d.text, "labels": d.gold} for d in found]
        arguments += [f"--{name}", write(tmp_path / f"{name}.jsonl", rows)]
    return arguments


def check_rows(rows: list[dict[str, Any]], ids: list[str]) -> None:
    """Every document has its row, in order, with labels of the label set and counted calls."""
    names = {label.id: label.name for label in LABELS}
    assert [row["id"] for row in rows] == ids
    for row in rows:
        assert row["status"] == "ok", row
        found = [label["id"] for label in row["labels"]]
        assert len(found) == len(set(found)) == 10
        assert all(names[label["id"]] == label["label"] for label in row["labels"])
        assert row["usage"]["calls"] >= 2
        assert row["usage"]["input_tokens"] > 100
        assert row["usage"]["output_tokens"] > 5


def check_counts(rows: list[dict[str, Any]], gained: Counter[str]) -> None:
    """What the rows say was used is what the server says it did."""
    used: Counter[str] = Counter()
    for row in rows:
        used.update(row["usage"])
    assert used["calls"] == gained[REPLIES]
    assert used["input_tokens"] == gained[PROMPT_TOKENS]
    assert used["output_tokens"] == gained[REPLY_TOKENS]
    say(f"{len(rows)} documents: {dict(used)}; notes: {dict(Counter(notes_of(rows)))}")


def calls_of(rows: list[dict[str, Any]]) -> int:
    return sum(row["usage"]["calls"] for row in rows)


def test_predict_gets_replies_in_the_form_it_asks_for(
    server: Server, labels: Path, texts: Path
) -> None:
    before = server.metrics()
    done = irr("predict", "--input", texts, "--labels", labels, "--trace", *ask(server))
    assert done.returncode == 0, done.stderr
    rows = read(done.stdout)
    check_rows(rows, [f"d{number}" for number in range(20)])
    for row in rows:
        trace = row["trace"]
        picks, shown = trace["picks"], len(trace["candidates"])
        assert shown == len(LABELS)
        assert sorted(trace["ranking"]) == list(range(1, shown + 1))
        assert trace["ranking"][: len(picks)] == picks
        assert [label["picked"] for label in row["labels"]] == [n < len(picks) for n in range(10)]
    # Without the schema this model could not write a bracket where one belongs.
    unread = [row["id"] for row in rows if any("LM's" in note for note in row.get("notes", []))]
    assert len(unread) <= len(rows) // 10, notes_of(rows)
    assert len({tuple(row["trace"]["picks"]) for row in rows}) > 1
    assert any(row["guesses"] for row in rows)
    check_counts(rows, server.since(before, calls_of(rows)))


def test_compile_runs_to_its_end_and_its_program_predicts(
    server: Server, labels: Path, gold: list[object], texts: Path, tmp_path: Path
) -> None:
    before = server.metrics()
    search = ["--optimizer", "left-to-right", "--trials", "1", "--demos", "1"]
    output = tmp_path / "program"
    done = irr("compile", "--labels", labels, *gold, *search, "--output", output, *ask(server))
    assert done.returncode == 0, done.stderr
    card = (output / "CARD.md").read_text()
    number = r"([\d,]+)"
    cells = rf"^\| student \| {number} \| \d+ \| {number} \| {number} \| {number} \|"
    row = re.search(cells, card, re.M)
    assert row is not None, card
    calls, kept, asked, answered = (int(cell.replace(",", "")) for cell in row.groups())
    gained = server.since(before, calls)
    assert (calls, asked, answered) == tuple(
        gained[name] for name in (REPLIES, PROMPT_TOKENS, REPLY_TOKENS)
    )
    assert calls > 20
    say(f"{calls} calls, {kept} kept; tokens {asked} and {answered}; {done.stderr.strip()}")

    before = server.metrics()
    done = irr("predict", "--input", texts, "--program", output, *ask(server))
    assert done.returncode == 0, done.stderr
    rows = read(done.stdout)
    check_rows(rows, [f"d{number}" for number in range(20)])
    check_counts(rows, server.since(before, calls_of(rows)))


@pytest.mark.parametrize("command", ["predict", "compile"])
def test_a_model_that_the_server_does_not_have_is_one_line(
    server: Server, labels: Path, gold: list[object], texts: Path, tmp_path: Path, command: str
) -> None:
    files = {
        "predict": ["--input", texts],
        "compile": [*gold, "--output", tmp_path / "program"],
    }[command]
    done = irr(command, "--labels", labels, *files, *ask(server, model="missing"))
    say(done.stderr.strip())
    assert done.returncode == 6
    errors = [line for line in done.stderr.splitlines() if line.startswith("irr: error:")]
    assert len(errors) == 1
    assert "no model 'missing'" in errors[0]
    assert "404" in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "program").exists()


def test_the_prompts_of_many_documents_share_their_beginning(
    server: Server, labels: Path, texts: Path
) -> None:
    before, hits_before = server.metrics(), prefix_cache_hits(server.url)
    done = irr("predict", "--input", texts, "--labels", labels, *ask(server))
    assert done.returncode == 0, done.stderr
    gained = server.since(before, calls_of(read(done.stdout)))
    assert gained[LOOKED_UP] > 0
    assert gained[FOUND] > 0
    total = server.metrics()
    hits = prefix_cache_hits(server.url)
    assert hits == (total[FOUND], total[LOOKED_UP])
    assert hits[0] - hits_before[0] == gained[FOUND]
    say(
        f"prefix cache: {gained[FOUND]} of {gained[LOOKED_UP]} tokens now, "
        f"{total[FOUND]} of {total[LOOKED_UP]} since the start"
    )


def test_a_question_that_is_asked_again_is_found_in_the_prefix_cache(server: Server) -> None:
    asked = " and to ".join([*NAMES, *NAMES])
    body = {"model": MODEL, "messages": [{"role": "user", "content": asked}], "max_tokens": 1}
    counts = [prefix_cache_hits(server.url)]
    for _ in range(2):
        before = server.metrics()
        request = urllib.request.Request(
            f"{server.url}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            tokens = json.load(reply)["usage"]["prompt_tokens"]
        server.since(before, 1)
        counts.append(prefix_cache_hits(server.url))
    (_, start), (hits, once), (hits_again, twice) = counts
    say(f"a prompt of {tokens} tokens: {hits_again - hits} found when it was asked again")
    assert once - start == twice - once == tokens
    assert 0 < hits_again - hits < tokens


def test_texts_longer_than_the_context_are_read_in_parts(
    server: Server, labels: Path, tmp_path: Path
) -> None:
    draw = random.Random(0)
    words = " ".join(draw.choice(NAMES) for _ in range(4_000))
    rows = [
        {"id": "words", "text": words[:40_000]},
        {"id": "signs", "text": disorder(0, 12_000)},
        {"id": "short", "text": "Wanted: somebody to bake bread."},
    ]
    before = server.metrics()
    path = write(tmp_path / "long.jsonl", rows)
    done = irr("predict", "--input", path, "--labels", labels, *ask(server))
    assert done.returncode == 0, done.stderr
    found = read(done.stdout)
    check_rows(found, ["words", "signs", "short"])
    check_counts(found, server.since(before, calls_of(found)))
    told = {row["id"]: " ".join(row.get("notes", [])) for row in found}
    assert "smaller chunks" in told["signs"]
    assert "Rank saw the start of the text" in told["signs"]
    assert "too long" not in told["short"]
    assert found[0]["usage"]["calls"] > 5


def test_a_prompt_that_cannot_be_shortened_is_an_error_of_its_row(
    server: Server, labels: Path, texts: Path, tmp_path: Path
) -> None:
    examples = [
        {"id": str(number), "text": f"{name} " * 200, "labels": [name]}
        for number, name in enumerate(NAMES[:8])
    ]
    path = write(tmp_path / "examples.jsonl", examples)
    done = irr("predict", "--input", texts, "--labels", labels, "--examples", path, *ask(server))
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr
    rows = read(done.stdout)
    assert len(rows) == 20
    for row in rows:
        assert row["status"] == "error"
        assert "prompt is too long" in row["error"]["message"]
        assert str(CONTEXT) in row["error"]["message"]
    say(json.dumps(rows[0]))


def test_a_second_attempt_does_not_ask_for_more_than_the_context(
    server: Server, labels: Path, tmp_path: Path
) -> None:
    rows = [{"id": str(n), "text": disorder(n, 100 + n)} for n in range(80)]
    path = write(tmp_path / "many.jsonl", rows)
    room = CONTEXT // 4 + 76
    done = irr("predict", "--input", path, "--labels", labels, "--max-tokens", room, *ask(server))
    found = read(done.stdout)
    failed = [row for row in found if row["status"] == "error"]
    say(f"{len(failed)} of {len(found)} failed: {failed[0]['error'] if failed else None}")
    assert any(row["usage"]["calls"] > 2 for row in found if row["status"] == "ok")
    assert not failed
    assert done.returncode == 0, done.stderr


def test_a_prompt_that_leaves_no_room_for_the_reply_is_shortened(
    server: Server, labels: Path, tmp_path: Path
) -> None:
    rows = [{"id": str(n), "text": disorder(n, 3_500 + 16 * n)} for n in range(30)]
    path = write(tmp_path / "full.jsonl", rows)
    done = irr("predict", "--input", path, "--labels", labels, *ask(server))
    assert done.returncode == 0, done.stderr
    notes = Counter(notes_of(read(done.stdout)))
    say(f"{len(rows)} documents: {dict(notes)}")
    assert not [note for note in notes if "cut off" in note]


@pytest.mark.parametrize(
    ("name", "flags", "told"),
    [
        ("irr-tests/none", [], "the Hugging Face hub cannot be reached"),
        (None, ["--max-model-len", "99999"], "lower it in IRR_VLLM_ARGS"),
        (None, ["--no-such-flag"], "unrecognized arguments: --no-such-flag: mend IRR_VLLM_ARGS"),
    ],
)
def test_a_start_that_fails_is_told_in_words_that_this_vllm_uses(
    model: Path, _settings: None, name: str | None, flags: list[str], told: str
) -> None:
    with pytest.raises(LMError) as caught:
        start_vllm(name or str(model), args=flags)
    say(str(caught.value))
    assert told in str(caught.value)
