from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from compile_world import LABELS, clueless, documents, knowing, world
from conftest import HashEncoder
from scripted_server import Call, Reply, ScriptedServer

import irr.build
import irr.directory
from irr.build import LMChoice, build_program, open_program
from irr.compile import main
from irr.compile.compiler import _Compiler
from irr.compile.examples import Example, Split, read_examples
from irr.compile.guard import Candidate, best_of, difference
from irr.compile.priors import priors_from_examples, without
from irr.compile.settings import CompileSettings
from irr.compile.tune import Tuned, choose
from irr.demos import NearestDemos
from irr.directory import read_manifest
from irr.labels import LabelSet
from irr.ledger import Ledger
from irr.types import Document, Label
from irr.writer import prediction_to_json

Serve = Callable[..., ScriptedServer]


@pytest.fixture(autouse=True)
def _encoder(hash_encoder: HashEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (irr.build, irr.directory):
        monkeypatch.setattr(module, "load_encoder", lambda *args, **options: hash_encoder)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    labels, train, dev = (tmp_path / f"{name}.jsonl" for name in ("labels", "train", "dev"))
    labels.write_text("".join(json.dumps({"id": x.id, "name": x.name}) + "\n" for x in LABELS))
    for path, rows in ((train, documents(12)), (dev, documents(10, seed=1, start=100))):
        lines = [json.dumps({"id": d.id, "text": d.text, "labels": d.gold}) for d in rows]
        path.write_text("\n".join(lines) + "\n")
    return ["--labels", str(labels), "--train", str(train), "--dev", str(dev)]


def compile_with(
    files: list[str], server: ScriptedServer, output: Path, optimizer: str, *more: str
) -> int:
    lms = ["--lm", "student", "--teacher", "teacher", "--api-base", server.url]
    small = ["--trials", "2", "--demos", "2", "--candidates", "25"]
    what = ["--output", str(output), "--optimizer", optimizer]
    return main([*files, *lms, *small, *what, *more])


def predicted(folder: Path, server: ScriptedServer) -> list[str]:
    program = open_program(folder, lm=LMChoice(None, server.url, timeout=5))
    rows = documents(5, seed=2, start=200)
    return [prediction_to_json(p) for p in program.predict_many(rows, trace=True)]


@pytest.mark.parametrize("optimizer", ["left-to-right", "end-to-end", "knn", "mipro", "gepa"])
def test_each_optimizer_raises_the_score(
    files: list[str],
    serve: Serve,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    optimizer: str,
) -> None:
    if optimizer == "mipro":
        pytest.importorskip("optuna", reason="MIPROv2 needs optuna")
    server = serve(world(hint=optimizer in ("gepa", "mipro")))
    assert compile_with(files, server, tmp_path / "p", optimizer) == 0
    captured = capsys.readouterr()
    rows = [line for line in captured.out.splitlines() if " to " in line]
    given = next(row for row in rows if row.startswith("given"))
    best = next(row for row in rows if "(returned)" in row)
    assert not best.startswith("given"), captured.out + captured.err
    card = (tmp_path / "p" / "CARD.md").read_text()
    made = Counter(call.body["model"] for call in server.calls)
    assert f"| student | {made['student']:,} | 0 |" in card
    assert f"| teacher | {made['teacher']:,} | 0 |" in card
    assert float(given.split()[1]) < float(best.split("(returned)")[1].split()[0])
    first = predicted(tmp_path / "p", server)
    assert first == predicted(tmp_path / "p", server)


def test_left_to_right_uses_the_teacher_for_demonstrations_only(
    files: list[str], serve: Serve, tmp_path: Path
) -> None:
    server = serve(world())
    assert compile_with(files, server, tmp_path / "p", "left-to-right") == 0
    dev_texts = {document.text for document in documents(10, seed=1, start=100)}
    asked = {call.text for call in server.calls if call.body["model"] == "teacher"}
    assert asked
    assert not asked & dev_texts
    shown = json.loads((tmp_path / "p" / "demos.json").read_text())
    assert shown["infer"]
    assert shown["rank"]


def worse(call: Call) -> str:
    return clueless(call)


@pytest.mark.parametrize(
    "script",
    [world(teacher=worse), lambda call: "the moon is made of cheese " * 9, lambda call: "[]"],
    ids=["a worse teacher", "nonsense", "empty lists"],
)
@pytest.mark.parametrize("optimizer", ["left-to-right", "knn"])
def test_the_given_program_comes_back_when_nothing_helps(
    files: list[str],
    serve: Serve,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    optimizer: str,
    script: Callable[[Call], Reply | str],
) -> None:
    server = serve(script)
    assert compile_with(files, server, tmp_path / "p", optimizer) == 0
    card = (tmp_path / "p" / "CARD.md").read_text()
    out = capsys.readouterr().out
    if "given (returned)" in out:
        assert "The given program is returned: " in card
    else:  # labelled demonstrations alone taught the student
        assert "over the given program" in card


def test_a_second_run_pays_nothing_and_writes_the_same_bytes(
    files: list[str], serve: Serve, tmp_path: Path
) -> None:
    server = serve(world())
    assert compile_with(files, server, tmp_path / "p", "left-to-right") == 0
    first = {p.name: p.read_bytes() for p in (tmp_path / "p").rglob("*.*") if p.name != "CARD.md"}
    made = len(server.calls)
    assert compile_with(files, server, tmp_path / "p", "left-to-right") == 0
    again = {p.name: p.read_bytes() for p in (tmp_path / "p").rglob("*.*") if p.name != "CARD.md"}
    assert len(server.calls) == made
    assert again == first


@pytest.mark.parametrize("limit", [1, 25, 60])
def test_a_budget_stops_it_and_the_best_so_far_is_written(
    files: list[str], serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    server = serve(world())
    status = compile_with(files, server, tmp_path / "p", "left-to-right", "--max-calls", str(limit))
    assert status == 8
    assert len(server.calls) == limit
    assert f"the budget of {limit} calls is spent" in capsys.readouterr().err
    assert read_manifest(tmp_path / "p")["stages"]["infer"]["lm"] == "openai/student"
    assert compile_with(files, server, tmp_path / "p", "left-to-right") == 0


def test_a_wrong_key_is_an_error_and_writes_nothing(
    files: list[str], serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(lambda call: Reply("no", status=401))
    assert compile_with(files, server, tmp_path / "p", "left-to-right") == 6
    assert "key was refused" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_an_endpoint_that_dies_leaves_the_best_so_far(
    files: list[str], serve: Serve, tmp_path: Path, no_waiting: list[float]
) -> None:
    script = world()
    server = serve(lambda call: script(call) if call.number < 80 else Reply("gone", status=404))
    assert compile_with(files, server, tmp_path / "p", "left-to-right") == 8
    assert "stopped early" in (tmp_path / "p" / "CARD.md").read_text()


def test_a_dry_run_asks_nothing(
    files: list[str], serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(world())
    prices = tmp_path / "prices.json"
    prices.write_text('{"student": {"input": 1, "output": 2}}')
    arguments = ["--dry-run", "--prices", str(prices)]
    assert compile_with(files, server, tmp_path / "p", "left-to-right", *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("student")
    assert "$" in lines[1]
    assert lines[2].startswith("teacher")
    assert lines[2].endswith("unknown")
    assert server.calls == []


def test_without_an_lm_only_retrieval_is_tuned(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "--output", str(tmp_path / "p")]) == 0
    assert "gain on held-out folds" in capsys.readouterr().err
    assert read_manifest(tmp_path / "p")["stages"]["infer"]["lm"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--optimizer", "magic"], "unknown optimizer 'magic'"),
        (["--metric", "RP@5,RP@10"], "takes one metric"),
        (["--metric", "XX@5"], "unknown metric"),
        (["--max-cost", "1", "--lm", "x", "--api-base", "http://h"], "needs the price of 'x'"),
        (["--prices", "nowhere.json"], "no prices"),
    ],
)
def test_bad_options(
    files: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert main([*files, "--output", str(tmp_path / "p"), *more]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_text_on_both_sides_is_refused(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files[5] = files[3]
    assert main([*files, "--output", str(tmp_path / "p")]) == 2
    assert "12 texts are in --train and in --dev" in capsys.readouterr().err


def test_priors_are_counted_without_the_example_that_they_score() -> None:
    split = [example_of(("bake bread",)), example_of(("bake bread", "sell music"))]
    priors = priors_from_examples(split, len(LABELS))
    bread, music = LABELS.position_of("bake bread"), LABELS.position_of("sell music")
    assert (priors[bread], priors[music]) == (1.0, 0.5)
    rest = without(priors, split[1], 2)
    assert (rest[bread], rest[music]) == (1.0, 0.0)


def example_of(gold: tuple[str, ...]) -> Example:
    (example,) = read_examples([Document("x", "text", gold)], LABELS, {})
    return example


@pytest.mark.parametrize("what", ["train", "texts"])
def test_priors_can_be_counted_here(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    options = ["--priors", "train"] if what == "train" else ["--prior-texts", files[3]]
    assert main([*files, "--output", str(tmp_path / "p"), *options]) == 0
    manifest = read_manifest(tmp_path / "p")
    assert "priors.npy" in manifest["files"]
    assert main([*files, "--output", str(tmp_path / "p"), *options, "--prior-texts", files[3]]) == (
        2 if what == "train" else 0
    )


def test_folds_choose_only_what_is_clearly_better() -> None:
    draw = np.random.default_rng(0)
    given = draw.random(60)
    clearly = np.clip(given + 0.2 + 0.02 * draw.standard_normal(60), 0, 2)
    noise = given + 0.2 * draw.standard_normal(60)
    assert choose(np.stack([given, noise, clearly]), folds=5, seed=0).best == 2
    assert choose(np.stack([given, noise]), folds=5, seed=0).best == 0
    assert choose(np.stack([given, given]), folds=5, seed=0) == Tuned(0, 0.0, 0.0, 0.0)


def clear(gains: list[float], tried: int, cost: int = 9) -> bool:
    program = None
    given = Candidate("given", program, (0.0,) * len(gains), 0, 0, 5)  # type: ignore[arg-type]
    other = Candidate("other", program, tuple(gains), 0, 0, cost, tried)  # type: ignore[arg-type]
    return best_of([given, other]) is other


def test_a_gain_must_be_clearer_the_more_programs_were_tried() -> None:
    gains = [0.5] * 6 + [-0.2] * 4
    assert clear(gains, tried=1)
    assert not clear(gains, tried=40)
    assert clear([1.0] * 10, tried=40)
    assert not clear([0.1, -0.1] * 5, tried=1)
    assert clear([0.0] * 10, tried=40, cost=4)  # as good, and its prompts are shorter
    assert not clear([0.0] * 10, tried=40)


def test_rows_without_an_answer_are_no_gain() -> None:
    given = Candidate("given", None, (None, None, 0.5, 0.5), 0, 0, 5)  # type: ignore[arg-type]
    other = Candidate("other", None, (1.0, 1.0, 0.5, 0.5), 0, 0, 9)  # type: ignore[arg-type]
    assert difference(other, given) == (0.0, 0.0, 0.0)
    assert best_of([given, other]) is given
    assert given.failed == 2
    assert given.score.mean == 0.5


def test_a_glitch_while_the_given_program_is_scored_is_no_gain(
    files: list[str], serve: Serve, tmp_path: Path, no_waiting: list[float]
) -> None:
    server = serve(lambda call: Reply(status=502) if call.number < 30 else knowing(call))
    assert compile_with(files, server, tmp_path / "p", "end-to-end") == 0
    assert "The given program is returned" in (tmp_path / "p" / "CARD.md").read_text()


@pytest.mark.parametrize("limit", [75, 95])
def test_a_stop_keeps_the_best_that_a_search_had_found(
    files: list[str], serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    server = serve(world())
    options = ["--max-calls", str(limit)]
    assert compile_with(files, server, tmp_path / "p", "end-to-end", *options) == 8
    assert "end-to-end (returned)" in capsys.readouterr().out
    made = json.loads((tmp_path / "p" / "demos.json").read_text())
    assert made["infer"]
    # A later stop that finds less leaves it there.
    assert compile_with(files, serve(world()), tmp_path / "p", "knn", "--max-calls", "3") == 8
    assert json.loads((tmp_path / "p" / "demos.json").read_text()) == made


@pytest.mark.parametrize("optimizer", ["mipro", "gepa"])
def test_an_optimizer_that_fails_leaves_the_given_program(
    files: list[str], serve: Serve, tmp_path: Path, optimizer: str
) -> None:
    script = world(teacher=lambda call: Reply("no", status=400))  # type: ignore[arg-type,return-value]
    other = Reply("no", status=400)
    server = serve(lambda call: other if call.stage == "other" else script(call))
    assert compile_with(files, server, tmp_path / "p", optimizer) in (0, 8)
    assert f"Returned: {optimizer}" not in (tmp_path / "p" / "CARD.md").read_text()


def test_no_address_is_in_the_card(files: list[str], serve: Serve, tmp_path: Path) -> None:
    script = world()
    gone = Reply("gone", status=401)
    server = serve(lambda call: script(call) if call.number < 60 else gone)
    assert compile_with(files, server, tmp_path / "p", "left-to-right") == 8
    card = (tmp_path / "p" / "CARD.md").read_text()
    assert "stopped early: the key was refused by the LM's server" in card
    assert "127.0.0.1" not in card


def test_texts_that_stand_twice_are_used_once() -> None:
    rows = [Document(str(n), text, ("bake bread",)) for n, text in enumerate(["a b", "A  b ", "c"])]
    examples = read_examples(rows, LABELS, {})
    assert [example.document.id for example in examples] == ["0", "2"]


def test_seeds_change_the_search(files: list[str], serve: Serve, tmp_path: Path) -> None:
    asked = []
    for seed in ("0", "0", "1"):
        server = serve(world())
        output = tmp_path / f"p{len(asked)}"
        assert compile_with(files, server, output, "end-to-end", "--seed", seed) == 0
        asked.append(sorted(json.dumps(call.body) for call in server.calls))
    assert asked[0] == asked[1] != asked[2]


def test_knn_shows_no_text_its_own_answer_when_it_is_measured(hash_encoder: HashEncoder) -> None:
    demos = [{"text": text, "guesses": []} for text in ("a b", "a c", "d")]
    nearest = NearestDemos(demos, 2, hash_encoder.encode)
    assert [demo["text"] for demo in nearest("a b")] == ["a c", "a b"]
    assert "a b" not in [demo["text"] for demo in nearest.without_same()("a b")]


def test_fusion_is_tuned_on_the_prompts_that_the_program_sends(serve: Serve) -> None:
    above = [Label("nose", "Diseases of the nose"), Label("skin", "Diseases of the skin")]
    colds = [Label(f"c {x.id}", "Cold", description="It runs.", parents=(x.id,)) for x in above]
    labels = LabelSet([*above, *colds])
    server = serve(lambda call: '["cold"]' if call.stage == "infer" else "[1]")
    program = build_program(labels, lm=LMChoice("student", server.url, timeout=5))
    texts = ["A cold.", "Of the skin. " * 900]  # the second is shown in passages
    rows = [Document(str(n), text, ("nose",)) for n, text in enumerate(texts)]
    examples = read_examples(rows, labels, {})
    settings = CompileSettings(optimizer="none")
    compiler = _Compiler(program, Split(examples, []), settings, Ledger(), None, lambda _: None)
    compiler._orders(program, compiler._rank_examples(program, examples))
    tuned_on = [call.body for call in server.calls if call.stage == "rank"]
    assert len(list(program.predict_many(rows))) == 2
    sent = [call.body for call in server.calls if call.stage == "rank"][2:]
    assert "Cold (in: Diseases of the nose) (It runs.)" in str(sent[0])
    assert sorted(map(str, tuned_on)) == sorted(map(str, sent))
