"""`irr batch`: rounds of requests and answers, then a run of predict that asks nothing.

The batch service is a function that hands each line of a file of requests to a scripted server on
a socket, and writes down what it answers in the form of OpenAI's output and error files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Call, Reply, Script, ScriptedServer
from tiny_model import make_tiny_model

from irr.batch import main
from irr.batch.asked import Asked, requests_of
from irr.batch.requests import RequestFiles
from irr.chunks import split_text
from irr.errors import OutputError
from irr.infer import CHUNK_CHARS
from irr.ledger import Ledger
from irr.predict import main as predict_main
from irr.runs import replies_of

Serve = Callable[[Script], ScriptedServer]
LABELS = ["bake bread", "speak German", "repair bicycles", "use databases", "sell ships"]
ENDINGS = ["", ".partial", ".retry", ".run.json", ".lock"]
ENDINGS += [".replies", ".replies-wal", ".replies-shm", ".requests"]
LONG = 200 * "Bake bread at night. " + 230 * "Sell ships by day. "
TEXTS = ["Bake bread.", "", "Bake bread.", "odd: sell ships", "Über \u2028 数据库", LONG]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    write_documents(TEXTS)
    return tmp_path


def write_documents(texts: list[str]) -> None:
    rows = [{"id": f"é{number}", "text": text} for number, text in enumerate(texts)]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def options(server: ScriptedServer, *more: str) -> list[str]:
    known = ["--labels", "labels.txt", "--input", "in.jsonl", "--output", "out.jsonl"]
    return [*known, "--lm", "tiny", "--api-base", server.url, *more]


def good(call: Call) -> str:
    return '{"guesses": ["bake bread"]}' if call.stage == "infer" else '{"ranking": [2, 1]}'


def never(call: Call) -> str:
    pytest.fail("the server was asked")


def lines(path: str = "requests.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().split("\n")[:-1]]


def answer(line: dict[str, Any], server: ScriptedServer) -> dict[str, Any]:
    """What OpenAI's Batch API would write down of the server's answer."""
    headers = {"Content-Type": "application/json"}
    body = json.dumps(line["body"]).encode()
    request = urllib.request.Request(server.url + line["url"][3:], body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            status, said = reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        status, said = error.code, json.load(error)
    response = {"status_code": status, "request_id": "r", "body": said}
    return {"id": "b", "custom_id": line["custom_id"], "response": response, "error": None}


def send(server: ScriptedServer, name: str = "answers.jsonl") -> None:
    """Have all requests answered, the last first."""
    answers = [answer(line, server) for line in lines()]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in reversed(answers)))


def read(*files: str) -> int:
    return main(["read", *(files or ["answers.jsonl"]), "--output", "out.jsonl"])


def rounds(server: ScriptedServer, *more: str) -> list[int]:
    """Write, send and read until nothing is missing; how many requests each round had."""
    sent = []
    for _ in range(12):
        assert main(["write", *options(server, "--requests", "requests.jsonl", *more)]) == 0
        if not Path("requests.jsonl").exists():
            return sent
        sent.append(len(lines()))
        send(server)
        read()
    raise AssertionError(f"there is no end of it: {sent}")


def write(server: ScriptedServer, *more: str) -> list[dict[str, Any]]:
    assert main(["write", *options(server, "--requests", "requests.jsonl", *more)]) == 0
    return lines() if Path("requests.jsonl").exists() else []


def totals() -> dict[str, tuple[int, int]]:
    """Calls and failed calls of each role in the ledger's file."""
    ledger = Ledger(replies_of("out.jsonl"))
    try:
        return {role: (each.calls, each.failed) for role, each in ledger.totals().items()}
    finally:
        ledger.close()


def test_after_the_rounds_predict_asks_nothing_and_gives_the_same_bytes(
    folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(call: Call) -> Reply | str:
        first = call.body["temperature"] == 0
        if "odd" in call.text and first:
            return "what?" * 99 if call.stage == "infer" else Reply("[", finish_reason="length")
        return good(call)

    server = serve(script)
    assert predict_main(options(server, "--window", "2")) == 0
    expected = Path("out.jsonl").read_bytes()
    asked = len(server.calls)
    for left in folder.glob("out.jsonl*"):
        left.unlink()

    sent = rounds(server, "--window", "2")
    said = capsys.readouterr().err
    assert sent[0] == 3 + len(split_text(LONG, CHUNK_CHARS)) == 5
    assert len(sent) > 3  # Guesses, windows of Rank, Rank of what they picked; again of the odd.
    assert sum(sent) == len(server.calls) - asked == asked
    assert "irr: all replies are there: run 'irr predict' with the same options\n" in said
    assert not requests_of("out.jsonl").exists()
    silent = serve(never)
    assert predict_main(options(silent, "--window", "2")) == 0
    assert Path("out.jsonl").read_bytes() == expected
    assert silent.calls == []


def test_documents_of_a_batch_have_their_own_labels(folder: Path, serve: Serve) -> None:
    rows = [{"text": text, "exclude": [LABELS[number]]} for number, text in enumerate(TEXTS[::2])]
    rows.append({"text": "refused", "exclude": ["no label"]})
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = serve(good)
    while write(server):
        send(server)
        read()
    shown = [set(call.candidates) for call in server.calls if call.stage == "rank"]
    assert sorted(map(sorted, shown)) == sorted(sorted(set(LABELS) - {name}) for name in LABELS[:3])
    silent = serve(never)
    assert predict_main(options(silent, "--max-error-rate", "1")) == 7
    found = lines("out.jsonl")
    for number, row in enumerate(found[:3]):
        assert {label["label"] for label in row["labels"]} == set(LABELS) - {LABELS[number]}
    assert found[3]["error"]["class"] == "ConfigurationError"


def test_the_lines_are_openais_and_need_no_key(
    folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    same = ["--labels", "labels.txt", "--input", "in.jsonl", "--output", "out.jsonl"]
    same += ["--lm", "openai/gpt-4o-mini"]
    write_documents(["Bake bread.", "Speak German."])
    assert main(["write", *same, "--requests", "requests.jsonl"]) == 0
    assert capsys.readouterr().err == (
        "irr: 2 requests in requests.jsonl: send them, read the answers with 'irr batch read "
        "ANSWERS --output out.jsonl', and run this command again\n"
    )
    first, second = lines()
    assert set(first) == {"custom_id", "method", "url", "body"}
    assert (first["method"], first["url"]) == ("POST", "/v1/chat/completions")
    assert first["custom_id"] != second["custom_id"]
    assert len(first["custom_id"]) == 32
    assert set(first["body"]) == {
        "model",
        "messages",
        "temperature",
        "response_format",
        "max_completion_tokens",
    }
    assert first["body"]["model"] == "gpt-4o-mini"
    server = serve(good)
    for _ in range(2):
        send(server)
        assert read() == 0
        assert main(["write", *same, "--requests", "requests.jsonl"]) == 0
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # A request could not leave.
    assert predict_main(same) == 0
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["usage"]["calls"] for row in rows] == [2, 2]


def test_a_local_vllm_is_not_started(folder: Path, serve: Serve) -> None:
    keys = {line["custom_id"] for line in write(serve(never))}
    known = ["--labels", "labels.txt", "--input", "in.jsonl", "--output", "out.jsonl"]
    assert main(["write", *known, "--requests", "requests.jsonl", "--lm", "vllm/tiny"]) == 0
    assert {line["custom_id"] for line in lines()} == keys
    assert {line["body"]["model"] for line in lines()} == {"tiny"}


def test_an_lm_for_each_stage_has_files_of_its_own(folder: Path, serve: Serve) -> None:
    silent = serve(never)
    both = ["--infer-lm", "large", "--rank-lm", "small"]
    write_documents(["Bake bread.", "Speak German."])
    server = serve(good)
    assert {line["body"]["model"] for line in write(silent, *both)} == {"large"}
    send(server)
    assert read() == 0
    with Path("in.jsonl").open("a") as more:
        more.write('{"id": "new", "text": "Sell ships."}\n')
    write(silent, *both)
    assert not Path("requests.jsonl").exists()
    models = [{line["body"]["model"] for line in lines(f"requests-0000{n}.jsonl")} for n in (1, 2)]
    assert sorted(models, key=str) == [{"large"}, {"small"}]
    for number in (1, 2):
        shutil.copy(f"requests-0000{number}.jsonl", "requests.jsonl")
        send(server, f"answers-{number}.jsonl")
    assert read("answers-1.jsonl", "answers-2.jsonl") == 0
    assert totals() == {"student": (3, 0), "student of rank": (2, 0)}


def test_tokens_and_batch_prices_are_counted_once(
    folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(good)
    write(server)
    send(server)
    Path("prices.json").write_text('{"tiny": {"input": 1000, "output": 1000}}')
    shutil.copy("answers.jsonl", "again.jsonl")
    command = ["read", "answers.jsonl", "again.jsonl", "--output", "out.jsonl"]
    capsys.readouterr()
    assert main([*command, "--prices", "prices.json"]) == 0
    sent = len(server.calls)
    dollars = (server.input_tokens + server.output_tokens) / 1000
    assert capsys.readouterr().err == (
        f"irr: {sent} new replies ({server.input_tokens:,} tokens in, {server.output_tokens:,} "
        f"out, ${dollars:,.4g}), {sent} lines read before, every request has its answer: run 'irr "
        "batch write' again\n"
    )
    assert totals() == {"student": (sent, 0)}
    assert main(command) == 0
    assert totals() == {"student": (sent, 0)}


def test_errors_are_named_counted_once_and_asked_again(
    folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    write_documents(["one", "two", "three", "four"])
    server = serve(good)
    written = write(server)
    rows = [answer(line, server) for line in written]
    expired = {"code": "batch_expired", "message": "the window has passed"}
    rows[0] |= {"response": None, "error": expired}
    rows[1]["response"] |= {"status_code": 500, "body": {"error": {"message": "oops"}}}
    rows[2]["response"]["body"] = {"choices": []}
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    capsys.readouterr()
    assert read() == 7
    assert capsys.readouterr().err.splitlines() == [
        f"irr: answers.jsonl:1: {written[0]['custom_id']}: the batch answered an error: "
        "the window has passed (batch_expired)",
        f"irr: answers.jsonl:2: {written[1]['custom_id']}: the batch answered HTTP 500: oops",
        f"irr: answers.jsonl:3: {written[2]['custom_id']}: the batch answered an error: "
        "no chat completion: it has no choices",
        "irr: 0 new replies (0 tokens in, 0 out), 3 lines with an error, "
        "1 request without an answer",
    ]
    assert read() == 7
    assert totals() == {"student": (3, 3)}
    again = write(server)
    assert sorted(map(json.dumps, again)) == sorted(map(json.dumps, written))


def test_what_is_refused_with_a_schema_is_asked_without_and_then_left_to_predict(
    folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    write_documents(["fine", "plain only", "poison"])

    def script(call: Call) -> Reply | str:
        refused = "poison" in call.text or ("plain" in call.text and "response_format" in call.body)
        return Reply("no", status=400) if refused else good(call)

    server = serve(script)
    sent = rounds(server)
    said = capsys.readouterr().err
    assert sent == [3, 1 + 2, 1, 1]
    assert (
        "irr: 1 document cannot be finished by a batch: 'irr predict' will ask for what was "
        "refused; the first: 'é2': the batch refused the request (HTTP 400): no\n"
    ) in said
    asked = len(server.calls)
    assert predict_main(options(server)) == 7
    rest = server.calls[asked:]
    assert {call.text for call in rest} == {"poison"}
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok", "ok", "error"]


def test_a_text_that_is_too_long_is_halved_in_the_next_round(folder: Path, serve: Serve) -> None:
    write_documents([LONG[:7000]])

    def script(call: Call) -> Reply | str:
        long = call.stage == "infer" and len(call.text) > 4000
        return Reply("over the maximum context length", status=400) if long else good(call)

    server = serve(script)
    assert rounds(server) == [1, len(split_text(LONG[:7000], 3500)), 1]
    asked = len(server.calls)
    assert predict_main(options(server)) == 0
    assert [len(call.text) > 4000 for call in server.calls[asked:]] == [True]
    (row,) = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert row["notes"][0].startswith("Infer read the text in smaller chunks")


def test_lines_that_are_no_answers_are_named_and_the_others_kept(
    folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    write_documents(["one", "two"])
    server = serve(good)
    first, second = write(server)
    strange = {**answer(first, server), "custom_id": "task-7"}
    rows = [json.dumps(answer(first, server)), '{"custom_id"', "[]", '{"custom_id": "x"}']
    rows += ["", json.dumps(strange), json.dumps(answer(second, server))]
    Path("answers.jsonl").write_text("\n".join(rows))
    capsys.readouterr()
    assert read() == 7
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("irr: answers.jsonl:2: no answer of a batch: malformed JSON: ")
    assert said[1] == "irr: answers.jsonl:3: no answer of a batch: it has no custom_id"
    assert said[2] == (
        "irr: answers.jsonl:4: no answer of a batch: it has neither response nor error"
    )
    assert said[3] == (
        "irr: answers.jsonl:6: task-7: no request of out.jsonl.requests has this custom_id: "
        "is the answer of another run?"
    )
    assert "2 new replies" in said[4]
    assert said[4].endswith(
        "1 line of another run, 3 lines that cannot be read, every request has its answer: "
        "run 'irr batch write' again"
    )


def test_only_so_many_problems_are_named(
    folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    write(serve(good))
    Path("answers.jsonl").write_text("[]\n" * 30)
    capsys.readouterr()
    assert read() == 7
    said = capsys.readouterr().err
    assert said.count("\n") == 6
    assert "30 lines that cannot be read" in said


def test_writing_twice_gives_the_same_requests(folder: Path, serve: Serve) -> None:
    server = serve(never)
    once = sorted(map(json.dumps, write(server)))
    assert sorted(map(json.dumps, write(server))) == once
    assert len({line["custom_id"] for line in lines()}) == len(once)


def test_rows_that_are_there_are_not_asked_about(folder: Path, serve: Serve) -> None:
    write_documents(["one", "two", "three"])
    server = serve(lambda call: Reply("no", status=400) if call.text == "two" else good(call))
    assert predict_main(options(server)) == 7
    (line,) = write(serve(never), "--retry-failed")
    assert "two" in line["body"]["messages"][-1]["content"]


def test_a_finished_run_has_no_requests(
    folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_main(options(serve(good))) == 0
    before = sorted(folder.iterdir())
    capsys.readouterr()
    assert write(serve(never)) == []
    assert capsys.readouterr().err == f"irr: out.jsonl is finished: {len(TEXTS)} rows\n"
    assert sorted(folder.iterdir()) == before


def test_a_write_that_breaks_off_leaves_no_file_of_requests(
    folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(never)
    whole = Path("in.jsonl").read_text()
    Path("in.jsonl").write_text(whole + "{\n")
    assert main(["write", *options(server, "--requests", "requests.jsonl")]) == 3
    assert f"in.jsonl:{len(TEXTS) + 1}:" in capsys.readouterr().err
    assert not list(folder.glob("requests*.jsonl"))
    with Asked(requests_of("out.jsonl")) as asked:
        assert asked.round == 0
    Path("in.jsonl").write_text(whole)
    assert len(write(server)) > 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--requests", "in.jsonl"], "--requests is the file of --input"),
        (["--requests", "-"], "--requests -: name a file"),
        (["--requests", "r.jsonl.gz"], "no server takes a packed file"),
        (["--requests", "r.jsonl", "--lm", "none"], "a batch asks an LM"),
        (["--requests", "r.jsonl", "--output", "-"], "--output -: name a file"),
    ],
)
def test_what_cannot_be_written_is_refused(
    folder: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ["--labels", "labels.txt", "--input", "in.jsonl", "--output", "out.jsonl"]
    before = Path("in.jsonl").read_bytes()
    assert main(["write", *known, "--lm", "openai/m", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert Path("in.jsonl").read_bytes() == before


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["out.jsonl", "link.jsonl", "there/out.jsonl"])
def test_requests_do_not_replace_a_file_of_the_run(
    folder: Path, ending: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("link.jsonl").symlink_to("out.jsonl")
    Path("there").symlink_to(".")
    known = ["--labels", "labels.txt", "--input", "in.jsonl", "--output", name, "--lm", "openai/m"]
    before = sorted(folder.iterdir())
    for path in (f"out.jsonl{ending}", f"{folder}/out.jsonl{ending}", f"{name}{ending}"):
        assert main(["write", *known, "--requests", path]) == 2
        assert "--requests" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_parts_of_requests_do_not_replace_a_file_of_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ["--labels", "labels.txt", "--input", "in.jsonl", "--lm", "openai/m"]
    assert main(["write", *known, "--output", "r-00007.jsonl", "--requests", "r.jsonl"]) == 2
    assert "--requests r.jsonl would replace" in capsys.readouterr().err
    assert main(["write", *known, "--output", "out", "--requests", "out.jsonl"]) == 0


@pytest.mark.parametrize("name", ["requests.jsonl", "requests-00001.jsonl"])
def test_a_file_that_is_not_of_an_earlier_round_is_not_replaced(
    folder: Path, serve: Serve, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text("mine\n")
    assert main(["write", *options(serve(never), "--requests", "requests.jsonl")]) == 4
    assert capsys.readouterr().err.endswith(
        f"{name}: is there already, and not from an earlier round of this run: move it away, or "
        "name other --requests\n"
    )
    assert Path(name).read_text() == "mine\n"
    Path(name).unlink()
    assert write(serve(never))


def test_files_of_a_round_that_broke_off_are_replaced(tmp_path: Path) -> None:
    def collect(most: int, count: int) -> list[Path]:
        with Asked(tmp_path / "asked", new=True) as asked:
            files = RequestFiles(
                tmp_path / "r.jsonl",
                older=asked.files(),
                settle=asked.note_file,
                most_requests=most,
            )
            with files:
                for number in range(3):
                    files.write(f"k{number}", "m", body())
                    if number == count:
                        raise KeyboardInterrupt
            asked.note_files(files.paths)
            asked.commit()
        return files.paths

    with pytest.raises(KeyboardInterrupt):
        collect(1, 2)
    assert sorted(tmp_path.glob("r-*.jsonl")) == [tmp_path / f"r-0000{n}.jsonl" for n in (1, 2)]
    assert collect(9, 9) == [tmp_path / "r.jsonl"] == list(tmp_path.glob("r*.jsonl"))


def test_a_finished_run_whose_input_has_grown_has_requests_again(
    folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_main(options(serve(good))) == 0
    write_documents([*TEXTS, "Speak German."])
    silent = options(serve(never), "--requests", "requests.jsonl")
    assert main(["write", *silent]) == 4
    assert "--resume-changed keeps its rows and goes on" in capsys.readouterr().err
    (line,) = write(serve(never), "--resume-changed")
    assert "Speak German." in line["body"]["messages"][-1]["content"]


def test_answers_before_requests_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("answers.jsonl").write_text("")
    assert read() == 2
    assert capsys.readouterr().err == (
        "irr: error: out.jsonl.requests: is not there: 'irr batch write' with the same --output "
        "comes first\n"
    )
    assert not list(folder.glob("out.jsonl*"))


def body(model: str = "m", text: str = "x") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def test_a_single_file_has_the_name_itself(tmp_path: Path) -> None:
    with RequestFiles(tmp_path / "r.jsonl", most_requests=2) as files:
        files.write("a", "m", body())
        files.write("b", "m", body(text="\u2028"))
        assert not list(tmp_path.glob("r*.jsonl"))
    assert files.paths == [tmp_path / "r.jsonl"] == list(tmp_path.iterdir())
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == files.requests == 2


def test_files_are_split_by_number_bytes_and_model(tmp_path: Path) -> None:
    settled: list[int] = []
    with RequestFiles(
        tmp_path / "r.jsonl",
        settle=lambda _: settled.append(len(list(tmp_path.glob("r-*.jsonl")))),
        most_requests=3,
        most_bytes=1000,
    ) as files:
        for number in range(4):
            files.write(f"a{number}", "m", body())
        files.write("b", "other", body("other"))
        files.write("c", "m", body(text="x" * 850))
    held = {
        path.name: [row["custom_id"] for row in map(json.loads, path.read_text().splitlines())]
        for path in tmp_path.iterdir()
    }
    assert held == {
        "r-00001.jsonl": ["a0", "a1", "a2"],
        "r-00002.jsonl": ["a3"],
        "r-00003.jsonl": ["b"],
        "r-00004.jsonl": ["c"],
    }
    assert settled == [0, 1, 2, 3]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())


def test_no_file_is_larger_than_allowed_by_a_single_byte(tmp_path: Path) -> None:
    with RequestFiles(tmp_path / "one.jsonl") as files:
        files.write("a", "m", body(text="é"))
    size = (tmp_path / "one.jsonl").stat().st_size
    for most, parts in ((2 * size, 1), (2 * size - 1, 2)):
        with RequestFiles(tmp_path / f"r{parts}.jsonl", most_bytes=most) as files:
            files.write("a", "m", body(text="é"))
            files.write("b", "m", body(text="é"))
        assert len(files.paths) == parts


def test_of_an_earlier_round_only_its_own_files_are_removed(tmp_path: Path) -> None:
    older = [tmp_path / f"r-0000{number}.jsonl" for number in (1, 2, 3)]
    older.append(tmp_path / "elsewhere.jsonl")
    for path in [*older, tmp_path / "r-00009.jsonl"]:
        path.write_text("older\n")
    with RequestFiles(tmp_path / "r.jsonl", older=older, most_requests=1) as files:
        files.write("a", "m", body())
        files.write("b", "m", body())
    left = {path.name: path.read_text() == "older\n" for path in tmp_path.iterdir()}
    assert left == {
        "r-00001.jsonl": False,
        "r-00002.jsonl": False,
        "elsewhere.jsonl": True,
        "r-00009.jsonl": True,
    }


def test_what_was_not_committed_is_not_there(tmp_path: Path) -> None:
    with Asked(tmp_path / "a", new=True) as asked:
        asked.note("one", "student", plain=False)
        asked.commit()
        asked.note("two", "student", plain=True)
    with Asked(tmp_path / "a", new=True) as asked:
        assert asked.round == 2
        assert asked.find("two") is None
        assert asked.find("one") == ("student", 1, False, False, None)


def test_two_commands_cannot_use_the_same_account(tmp_path: Path) -> None:
    with (
        Asked(tmp_path / "a", new=True),
        pytest.raises(OutputError, match="another run is using it"),
    ):
        Asked(tmp_path / "a")


def test_another_file_is_no_account(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no database\n" * 99)
    with pytest.raises(OutputError, match="not a database"):
        Asked(tmp_path / "a")
    sqlite3.connect(tmp_path / "b").execute("PRAGMA user_version=9")
    with pytest.raises(OutputError, match="version 9; move the file away"):
        Asked(tmp_path / "b")


VLLM = shutil.which(os.environ.get("IRR_VLLM", ""))


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield make_tiny_model(tmp_path_factory.mktemp("model"), LABELS)


@pytest.mark.vllm
@pytest.mark.skipif(VLLM is None, reason="IRR_VLLM names no vllm executable")
def test_vllms_run_batch_takes_the_requests_and_its_answers_are_read(
    folder: Path, tiny: Path, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    silent = serve(never)
    write_documents(["Bake bread.", "We sell ships.", LONG])

    def run_batch() -> None:
        flags = ["--model", str(tiny), "--served-model-name", "tiny", "--dtype", "bfloat16"]
        flags += ["--enforce-eager", "--max-model-len", "4096", "--structured-outputs-config"]
        flags += ['{"backend":"xgrammar","disable_any_whitespace":true}']
        told = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        told["VLLM_CACHE_ROOT"] = str(tmp_path_factory.mktemp("vllm"))
        files = ["-i", "requests.jsonl", "-o", "answers.jsonl"]
        with subprocess.Popen(
            [str(VLLM), "run-batch", *files, *flags],
            env={**os.environ, **told},
            start_new_session=True,
        ) as process:
            try:
                assert process.wait(timeout=1500) == 0
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    statuses: Counter[int] = Counter()
    for _ in range(2):
        assert len(write(silent)) >= 3
        run_batch()
        statuses.update(row["response"]["status_code"] for row in lines("answers.jsonl"))
        read()
    assert statuses[200] >= 4
    calls, failed = totals()["student"]
    assert calls == statuses.total()
    assert failed == calls - statuses[200]
