from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from conftest import HashEncoder
from scripted_server import Call, Reply, ScriptedServer

import irr.build
from irr.build import LMChoice, build_program, read_priors
from irr.errors import ConfigurationError, InputError, LMError
from irr.labels import LabelSet
from irr.program import RANK_TEXT_CHARS, InferRetrieveRank
from irr.retrieve import RetrieveSettings
from irr.types import Document, Label, Usage

Serve = Callable[..., ScriptedServer]

LABELS = LabelSet(
    [
        Label("1", "use databases"),
        Label("2", "bake bread"),
        Label("3", "speak German"),
        Label("4", "speak Spanish"),
        Label("5", "repair bicycles"),
    ]
)


@pytest.fixture
def program_with(
    hash_encoder: HashEncoder, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., InferRetrieveRank]:
    monkeypatch.setattr(irr.build, "load_encoder", lambda *args, **options: hash_encoder)

    def build(server: ScriptedServer | None = None, **options: object) -> InferRetrieveRank:
        if server is not None:
            options.setdefault("lm", LMChoice("tiny", server.url, timeout=5, in_flight=8))
        return build_program(LABELS, **options)  # type: ignore[arg-type]

    return build


Build = Callable[..., InferRetrieveRank]


def good(call: Call) -> str:
    if call.stage == "infer":
        return json.dumps({"guesses": ["speak Spanish"]})
    return json.dumps({"ranking": [call.candidates.index("speak German") + 1]})


def test_without_an_lm_the_texts_phrases_decide(program_with: Build) -> None:
    prediction = program_with().predict("You bake bread, and speak German.", top_k=2)
    assert [(label.id, label.label) for label in prediction.labels] == [
        ("2", "bake bread"),
        ("3", "speak German"),
    ]
    assert [label.evidence for label in prediction.labels] == ["bake bread", "speak German"]
    assert [label.picked for label in prediction.labels] == [None, None]
    assert prediction.status == "ok"
    assert prediction.usage == Usage()


def test_with_an_lm_all_three_stages_run(program_with: Build, serve: Serve) -> None:
    server = serve(good)
    prediction = program_with(server).predict("We bake bread.", trace=True)
    assert [call.stage for call in server.calls] == ["infer", "rank"]
    assert prediction.guesses == ("speak Spanish",)
    assert prediction.labels[0].label == "speak German"
    assert [label.picked for label in prediction.labels] == [True, False, False, False, False]
    assert prediction.usage == Usage(2, server.input_tokens, server.output_tokens)
    spanish = next(label for label in prediction.labels if label.id == "4")
    assert spanish.evidence == "speak Spanish"
    assert prediction.trace is not None
    assert prediction.trace["guesses"] == ["speak Spanish"]
    assert len(prediction.trace["candidates"]) == 5
    assert len(prediction.trace["picks"]) == 1


def test_different_lms_for_the_stages(program_with: Build, serve: Serve) -> None:
    first, second = serve(good), serve(good)
    choice = LMChoice("a", first.url, rank="b", rank_api_base=second.url, timeout=5)
    program_with(lm=choice).predict("We bake.")
    assert [(call.stage, call.body["model"]) for call in first.calls] == [("infer", "a")]
    assert [(call.stage, call.body["model"]) for call in second.calls] == [("rank", "b")]


@pytest.mark.parametrize(("absent", "left"), [("infer", "rank"), ("rank", "infer")])
def test_a_stage_can_go_without_its_lm(
    program_with: Build, serve: Serve, absent: str, left: str
) -> None:
    server = serve(good)
    choice = LMChoice("tiny", server.url, timeout=5, **{absent: "none"})
    prediction = program_with(lm=choice).predict("We bake bread.")
    assert [call.stage for call in server.calls] == [left]
    assert len(prediction.labels) == 5


def test_one_prediction_a_document_in_order(program_with: Build, serve: Serve) -> None:
    draw = random.Random(0)

    def script(call: Call) -> Reply:
        return Reply(good(call), delay=draw.uniform(0, 0.02))

    server = serve(script)
    documents = [Document(f"d{number}", f"text {number} bake bread") for number in range(100)]
    predictions = list(program_with(server).predict_many(documents))
    assert [prediction.id for prediction in predictions] == [d.id for d in documents]
    assert {prediction.status for prediction in predictions} == {"ok"}
    assert len(server.calls) == 200
    assert sum(p.usage.input_tokens for p in predictions) == server.input_tokens
    assert 2 <= server.most_in_flight <= 8


def test_documents_are_read_only_as_they_are_needed(program_with: Build, serve: Serve) -> None:
    server = serve(good)
    read = []

    def documents() -> Iterator[Document]:
        for number in range(1000):
            read.append(number)
            yield Document(str(number), "bake bread")

    for build in (program_with(), program_with(server)):
        read.clear()
        predictions = build.predict_many(documents())
        assert next(predictions).id == "0"
        predictions.close()
        time.sleep(0.1)
        assert len(read) <= 256


@pytest.mark.parametrize("with_lm", [False, True])
def test_a_live_stream_is_answered_as_it_comes(
    program_with: Build, serve: Serve, with_lm: bool
) -> None:
    program = program_with(serve(good)) if with_lm else program_with()
    answered = threading.Semaphore(0)

    def conversation() -> Iterator[Document]:
        for number in range(5):
            yield Document(str(number), "bake bread")
            assert answered.acquire(timeout=20), "no answer before the next document"

    rows = []
    for prediction in program.predict_many(conversation()):
        rows.append(prediction.id)
        answered.release()
    assert rows == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("with_lm", [False, True])
def test_an_error_of_the_source_comes_after_what_was_read(
    program_with: Build, serve: Serve, with_lm: bool
) -> None:
    def broken() -> Iterator[Document]:
        yield Document("0", "bake bread")
        raise ZeroDivisionError

    rows = []
    program = program_with(serve(good)) if with_lm else program_with()
    with pytest.raises(ZeroDivisionError):
        rows.extend(program.predict_many(broken()))
    assert [row.id for row in rows] == ["0"]


def test_in_a_notebook_the_error_says_what_to_write(program_with: Build, serve: Serve) -> None:
    program = program_with(serve(good))

    async def cell() -> None:
        program.predict("x")

    with pytest.raises(ConfigurationError, match=r"await program\.apredict"):
        asyncio.run(cell())


def test_what_cannot_be_sent_is_an_error_row(program_with: Build, serve: Serve) -> None:
    documents = [Document("1", "\ud800"), Document("2", "bake")]
    rows = list(program_with(serve(good)).predict_many(documents))
    assert [row.status for row in rows] == ["error", "ok"]


def test_settings_out_of_range(program_with: Build, serve: Serve) -> None:
    with pytest.raises(ConfigurationError, match="in_flight is at least 1"):
        program_with(lm=LMChoice("tiny", "http://127.0.0.1:9/v1", in_flight=0))
    with pytest.raises(ConfigurationError, match="a window holds at least 1"):
        program_with(serve(good), window=0)
    with pytest.raises(ConfigurationError, match="top_k is at least 1"):
        program_with().predict("x", top_k=-1)


def test_a_document_without_an_answer_is_an_error_row(
    program_with: Build, serve: Serve, no_waiting: list[float]
) -> None:
    def script(call: Call) -> Reply | str:
        return Reply("broken", status=500) if "poison" in call.text else good(call)

    texts = ["bake bread", "poison", "speak German"]
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    first, failed, last = program_with(serve(script)).predict_many(documents)
    assert (first.status, failed.status, last.status) == ("ok", "error", "ok")
    assert failed.id == "1"
    assert failed.labels == ()
    assert failed.error is not None
    assert failed.error[0] == "LMError"
    assert "HTTP 500: broken" in failed.error[1]


def test_a_wrong_key_stops_the_run(program_with: Build, serve: Serve) -> None:
    server = serve(lambda call: Reply("no", status=401))
    with pytest.raises(LMError, match="key was refused"):
        list(program_with(server).predict_many([Document("1", "x")] * 300))
    assert len(server.calls) <= 64


def test_what_was_begun_before_a_fatal_error_is_not_lost(program_with: Build, serve: Serve) -> None:
    def script(call: Call) -> Reply | str:
        if "revoked" in call.text:
            return Reply("no", status=401)
        return Reply(good(call), delay=0.05)

    texts = ["bake", "revoked", "speak", "repair"]
    predictions = program_with(serve(script)).predict_many(
        Document(str(number), text) for number, text in enumerate(texts)
    )
    rows = []
    with pytest.raises(LMError, match="key was refused"):
        rows.extend(predictions)
    assert [(row.id, row.status) for row in rows] == [
        ("0", "ok"),
        ("1", "error"),
        ("2", "ok"),
        ("3", "ok"),
    ]


def test_unusable_replies_fall_back_to_retrieval_and_say_so(
    program_with: Build, serve: Serve
) -> None:
    prediction = program_with(serve(lambda call: "?")).predict("You bake bread.", top_k=1)
    assert prediction.status == "ok"
    assert prediction.labels[0].label == "bake bread"
    assert prediction.labels[0].picked is None
    assert len(prediction.notes) == 2


def test_labels_that_rank_did_not_pick_may_be_left_out(program_with: Build, serve: Serve) -> None:
    replies = {"infer": '{"guesses": ["bake bread"]}', "rank": '{"ranking": [2]}'}
    program = program_with(serve(lambda call: replies[call.stage])).variant(picked_only=True)
    prediction = program.predict("You bake bread.")
    assert [label.picked for label in prediction.labels] == [True]


def test_where_rank_gave_no_answer_nothing_is_left_out(program_with: Build, serve: Serve) -> None:
    program = program_with(serve(lambda call: "?")).variant(picked_only=True)
    assert program.predict("You bake bread.", top_k=2).labels[0].label == "bake bread"


def half_read(call: Call) -> str:
    """Rank's windows are of two: of three of them the one with "bake bread" has no answer."""
    if call.stage == "infer":
        return '{"guesses": ["bake bread"]}'
    return "I cannot say." if "bake bread" in call.candidates else '{"ranking": [1]}'


def test_labels_that_rank_could_not_judge_are_not_left_out(
    program_with: Build, serve: Serve
) -> None:
    program = program_with(serve(half_read))
    assert program.rank is not None
    program.rank.window = 2
    everything = program.predict("You bake bread.").labels
    kept = program.variant(picked_only=True).predict("You bake bread.").labels
    judged = {label.label: label.picked for label in everything}
    unread = [label for label, picked in judged.items() if picked is None]
    assert (len(unread), judged["bake bread"]) == (2, None)
    assert set(judged.values()) == {True, False, None}
    assert [label for label in everything if label.picked is not False] == list(kept)


def test_unjudged_labels_at_another_level_are_none_too(program_with: Build, serve: Serve) -> None:
    program = program_with(serve(half_read))
    assert program.rank is not None
    program.rank.window = 2
    labels = program.variant(prefer="ancestor-when-unsure").predict("You bake bread.").labels
    plain = program.predict("You bake bread.").labels
    assert [x.picked for x in labels].count(None) == 2
    assert {x.id: x.picked for x in labels} == {x.id: x.picked for x in plain}


@pytest.mark.parametrize("text", ["", " \n\t ", "\u00a0"])
def test_a_blank_text_has_no_labels_and_costs_nothing(
    program_with: Build, serve: Serve, text: str
) -> None:
    server = serve(good)
    for program in (program_with(), program_with(server)):
        prediction = program.predict(text)
        assert (prediction.status, prediction.labels) == ("ok", ())
        assert prediction.notes == ("the text is empty",)
    assert server.calls == []


def test_within_an_event_loop(program_with: Build, serve: Serve) -> None:
    program = program_with(serve(good))

    async def two() -> list[str]:
        documents = [Document("a", "bake"), Document("b", "speak")]
        return [p.id for p in await asyncio.gather(*map(program.apredict, documents))]

    assert asyncio.run(two()) == ["a", "b"]


def test_rank_sees_the_passages_that_matter(program_with: Build, serve: Serve) -> None:
    server = serve(good)
    filler = "nothing of interest here. " * 600
    program_with(server).predict(filler + "They speak Spanish there. " + filler)
    shown = next(call.text for call in server.calls if call.stage == "rank")
    assert "speak Spanish" in shown
    assert "[…]" in shown
    assert len(shown) <= RANK_TEXT_CHARS + 400


def test_fusion_brings_retrieval_back(program_with: Build, serve: Serve) -> None:
    server = serve(good)
    fused = program_with(server, fusion=100.0).predict("We bake bread.")
    plain = program_with(server, lm=LMChoice("tiny", server.url, rank="none")).predict(
        "We bake bread."
    )
    assert [label.id for label in fused.labels] == [label.id for label in plain.labels]
    assert [label.picked for label in fused.labels].count(True) == 1


def test_examples_become_demonstrations(program_with: Build, serve: Serve) -> None:
    server = serve(good)
    examples = [Document("e", "Our bakery bakes.", gold=("bake bread", "4"))]
    program_with(server, examples=examples).predict("We bake.")
    infer, rank = server.calls
    assert [message["role"] for message in infer.messages] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert infer.messages[1]["content"] == "Text:\nOur bakery bakes."
    assert json.loads(infer.messages[2]["content"]) == {"guesses": ["bake bread", "speak Spanish"]}
    shown = rank.messages[1]["content"].split("Candidates:\n")[1].splitlines()
    numbers = json.loads(rank.messages[2]["content"])["ranking"]
    assert [shown[number - 1].split(". ", 1)[1] for number in numbers] == [
        "bake bread",
        "speak Spanish",
    ]


def test_examples_without_an_lm_are_refused(program_with: Build) -> None:
    with pytest.raises(ConfigurationError, match="--examples are shown to an LM"):
        program_with(examples=[Document("e", "x", gold=("1",))])


def test_an_examples_unknown_label_is_an_error(program_with: Build, serve: Serve) -> None:
    with pytest.raises(InputError, match="fly"):
        program_with(serve(good), examples=[Document("e", "x", gold=("fly planes",))])


def test_priors_are_read_by_name_and_id(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "priors.json"
    path.write_text('{"bake bread ": 0.5, "3": 2, "gone": 1}')
    assert read_priors(path, LABELS) == [0.0, 0.5, 2.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ('{"1": -1}', "no number of at least 0"),
        ('{"1": "x"}', "no number"),
        ('{"1": NaN}', "no number"),
        ('{"gone": 1}', "no entry names a label"),
    ],
)
def test_bad_priors(tmp_path, content: str, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "priors.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_priors(path, LABELS)


def test_fewer_candidates_than_labels(program_with: Build) -> None:
    program = program_with(settings=RetrieveSettings(candidates=2))
    assert len(program.predict("bake bread").labels) == 2


def test_a_missing_package_is_told_before_the_first_call(
    program_with: Build, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("irr.lexical.is_installed", lambda: False)
    server = serve(good)
    with pytest.raises(ConfigurationError, match=r"irr\[lexical\]"):
        program_with(server, settings=RetrieveSettings(lexical_weight=0.1))
    assert server.calls == []
