from __future__ import annotations

import doctest
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from conftest import HashEncoder
from scripted_server import Call, Reply, ScriptedServer

import irr.build
import irr.dryrun.census
import irr.dryrun.show
import irr.dryrun.trial
from irr.build import LMChoice, build_program
from irr.chunks import split_text
from irr.dryrun import Range, RunEstimate, estimate_run, print_estimate
from irr.dryrun.census import Census
from irr.dryrun.regression import exactly, projected
from irr.errors import LMError
from irr.infer import CHUNK_CHARS, MOST_CHUNKS
from irr.labels import LabelSet
from irr.ledger import Ledger, Price
from irr.prices import KnownPrice
from irr.program import InferRetrieveRank
from irr.selection import Selection
from irr.types import Document, Label

Serve = Callable[..., ScriptedServer]
Build = Callable[..., InferRetrieveRank]

LABELS = LabelSet([Label("1", "use databases"), Label("2", "bake bread"), Label("3", "speak")])
PRICES = {"tiny": Price(1.0, 10.0), "large": Price(100.0, 1000.0)}


class FirstWordEncoder(HashEncoder):
    """Only the first word counts, and each once: quick for the many phrases of long texts."""

    def encode(self, texts: Sequence[str], *, progress: object = None, **_: object) -> np.ndarray:
        words = [(text.split() or [""])[0] for text in texts]
        rows = dict(zip(distinct := sorted(set(words)), super().encode(distinct), strict=True))
        return np.array([rows[word] for word in words], np.float32).reshape(-1, self.dimensions)


@pytest.fixture
def program_with(monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.setattr(irr.build, "load_encoder", lambda *args, **options: FirstWordEncoder())
    monkeypatch.setattr(irr.dryrun.trial, "_SECONDS", 0.2)

    def build(server: ScriptedServer | None = None, **options: object) -> InferRetrieveRank:
        ledger = options.pop("ledger", None)
        if server is None:
            return build_program(LABELS, **options)  # type: ignore[arg-type]
        choice = LMChoice("tiny", server.url, timeout=5, in_flight=32, **options)  # type: ignore[arg-type]
        return build_program(LABELS, lm=choice, ledger=ledger)  # type: ignore[arg-type]

    return build


def good(call: Call) -> str:
    """A guess that is no longer for a longer text, and a pick."""
    if call.stage == "infer":
        return json.dumps({"guesses": [call.text.split()[0]]})
    return json.dumps({"ranking": [1]})


def texts(*lengths: int) -> list[Document]:
    """Documents of so many characters, no two words the same."""
    return [
        Document(
            str(n), "".join(f"w{n:03}.{word:05} " for word in range(length // 11 + 1))[:length]
        )
        for n, length in enumerate(lengths)
    ]


def mixed(count: int) -> list[Document]:
    """Short texts, and every twentieth of several chunks."""
    return texts(*(25_000 if n % 20 == 3 else 40 + 13 * (n % 50) for n in range(count)))


# --- regression -----------------------------------------------------------------------------


def test_a_linear_use_is_projected_exactly() -> None:
    columns = np.array([[1, 1, 100], [1, 1, 300], [1, 5, 9_000], [1, 2, 700], [1, 3, 20]], float)
    used = columns @ [7, 11, 0.25]
    rest = np.array([90, 130, 50_000.0])
    total = projected(columns, used, 1 / columns[:, 1], rest)
    expected = used.sum() + 90 * 7 + 130 * 11 + 50_000 * 0.25
    assert [total.value, total.low, total.high] == pytest.approx([expected] * 3)


def test_a_term_that_never_varies_leaves_the_mean() -> None:
    columns = np.array([[1.0, 1.0]] * 4)
    total = projected(columns, np.array([1.0, 2, 3, 2]), np.ones(4), np.array([100.0, 100]))
    assert total.value == pytest.approx(8 + 100 * 2)


def test_nothing_is_uncertain_where_all_were_measured() -> None:
    total = projected(np.ones((3, 1)), np.array([1.0, 5, 2]), np.ones(3), np.zeros(1))
    assert total == exactly(8.0)


def test_a_single_document_says_half_or_double() -> None:
    total = projected(np.ones((1, 1)), np.array([4.0]), np.ones(1), np.array([10.0]))
    assert [total.value, total.low, total.high] == pytest.approx([44, 24, 84])


def test_nineteen_of_twenty_intervals_hold_the_total() -> None:
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        lengths = draw.lognormal(6, 1, size=1_000)
        columns = np.stack([np.ones(1_000), lengths], axis=1)
        used = 50 + 0.25 * lengths + draw.normal(0, 20, size=1_000)
        sample, rest = columns[:20], columns[20:].sum(axis=0)
        total = projected(sample, used[:20], np.ones(20), rest)
        held += total.low <= used.sum() <= total.high
    assert 0.92 <= held / 500 <= 0.98


# --- census ---------------------------------------------------------------------------------


def test_the_census_knows_the_chunks_that_infer_asks_about(
    program_with: Build, serve: Serve
) -> None:
    census = Census(program_with(serve(good)), 4, 0)
    documents = [*texts(50, CHUNK_CHARS, CHUNK_CHARS + 1, 60_000, 900_000), Document("e", " \n")]
    for document in documents:
        census.add(document)
    chunks = [split_text(row.text, CHUNK_CHARS)[:MOST_CHUNKS] for row in documents[:-1]]
    assert census.totals.chunks == sum(map(len, chunks)) < 5 + 2 + 8 + 900_000 / CHUNK_CHARS
    assert census.totals.infer_chars == sum(len(chunk) for row in chunks for chunk in row)
    assert (census.documents, census.empty, census.totals.documents) == (6, 1, 5)


def test_few_documents_are_all_in_the_sample(program_with: Build) -> None:
    census = Census(program_with(), 9, 0)
    for document in texts(500, 30, 70, 30, 2_000):
        census.add(document)
    assert [len(document.text) for document in census.choose()] == [30, 30, 70, 500, 2_000]


@pytest.mark.parametrize("seed", range(5))
def test_the_few_documents_that_are_most_of_the_text_are_tried(
    program_with: Build, seed: int
) -> None:
    census = Census(program_with(), 20, seed)
    for document in texts(*[100_000 if n % 250 == 9 else 100 for n in range(1_000)]):
        census.add(document)
    lengths = [len(document.text) for document in census.choose()]
    assert len(lengths) == 20
    assert lengths[-1] == 100_000


def test_what_is_held_is_bounded(program_with: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(irr.dryrun.census, "_HELD_CHARS", 10_000)
    census = Census(program_with(), 20, 0)
    for document in texts(*[999] * 500):
        census.add(document)
    assert sum(len(document.text) for document in census.drawn()) == 10 * 999
    assert 10 <= len(census.choose()) <= 6 + 10


# --- estimate -------------------------------------------------------------------------------


def test_the_estimate_is_what_the_run_uses(program_with: Build, serve: Serve) -> None:
    documents = mixed(200)
    ledger = Ledger(prices=PRICES)
    tried = serve(good)
    estimate = estimate_run(documents, program_with(tried, ledger=ledger), ledger=ledger)
    assert len(tried.calls) < 120
    server = serve(good)
    assert all(row.status == "ok" for row in program_with(server).predict_many(documents))
    assert estimate.calls.value == pytest.approx(len(server.calls))
    assert estimate.input_tokens.value == pytest.approx(server.input_tokens, rel=0.02)
    assert estimate.output_tokens is not None
    assert estimate.output_tokens.value == pytest.approx(server.output_tokens, rel=0.05)
    assert estimate.cost is not None
    cost = PRICES["tiny"].of(server.input_tokens, server.output_tokens)
    assert estimate.cost.value == pytest.approx(cost, rel=0.03)
    assert (estimate.documents, estimate.sampled, estimate.failed) == (200, 20, 0)


def test_the_run_does_not_pay_for_the_sample_again(program_with: Build, serve: Serve) -> None:
    documents, ledger, server = mixed(60), Ledger(), serve(good)
    program = program_with(server, ledger=ledger)
    estimate = estimate_run(documents, program, ledger=ledger)
    assert all(row.status == "ok" for row in program.predict_many(documents))
    assert len(server.calls) == pytest.approx(estimate.calls.value)


def test_replies_of_an_earlier_run_are_told_and_leave_the_time_unknown(
    program_with: Build, serve: Serve
) -> None:
    documents, ledger, server = texts(*range(50, 60)), Ledger(), serve(good)
    program = program_with(server, ledger=ledger)
    assert all(row.status == "ok" for row in program.predict_many(documents))
    estimate = estimate_run(documents, program, ledger=ledger)
    assert len(server.calls) == 20
    assert estimate.kept == 20
    assert estimate.calls.value == 20
    assert estimate.seconds is None


def test_stages_with_their_own_lms_are_priced_one_by_one(program_with: Build, serve: Serve) -> None:
    documents, ledger = mixed(100), Ledger(prices=PRICES)
    program = program_with(serve(good), ledger=ledger, rank="large")
    estimate = estimate_run(documents, program, ledger=ledger)
    server = serve(good)
    list(program_with(server, rank="large").predict_many(documents))
    spent = {"tiny": 0.0, "large": 0.0}
    for call in server.calls:
        prompt = sum(len(message["content"]) for message in call.messages) // 4
        spent[call.body["model"]] += PRICES[call.body["model"]].of(prompt, len(good(call)) // 4)
    assert estimate.cost is not None
    assert estimate.cost.value == pytest.approx(sum(spent.values()), rel=0.03)
    assert len(estimate.prices) == 2


def test_a_missing_price_is_named(program_with: Build, serve: Serve) -> None:
    ledger = Ledger(prices={"large": Price(1, 1)})
    program = program_with(serve(good), ledger=ledger)
    estimate = estimate_run(texts(50, 60), program, ledger=ledger)
    assert (estimate.cost, estimate.unpriced) == (None, ("tiny",))


def test_the_sample_goes_a_few_at_a_time(program_with: Build, serve: Serve) -> None:
    server = serve(lambda call: Reply(good(call), delay=0.01))
    estimate_run(texts(*range(50, 90)), program_with(server), sample=40)
    assert len(server.calls) == 80
    assert server.most_in_flight <= 8


def test_the_time_is_that_of_the_requests(program_with: Build, serve: Serve) -> None:
    server = serve(lambda call: Reply(good(call), delay=0.2))
    program = program_with(server).variant(in_flight=1)
    estimate = estimate_run(texts(*range(50, 170)), program, sample=8)
    assert estimate.limited_by == "requests in flight"
    assert estimate.seconds is not None
    assert estimate.seconds.value >= 240 * 0.2
    assert estimate.seconds.low <= estimate.seconds.value <= estimate.seconds.high


def test_documents_that_fail_are_counted_and_left_out(program_with: Build, serve: Serve) -> None:
    def script(call: Call) -> Reply | str:
        return Reply(status=400) if "w003." in call.text else good(call)

    estimate = estimate_run(texts(*[70] * 10), program_with(serve(script)), sample=10)
    assert (estimate.sampled, estimate.failed) == (10, 1)
    assert estimate.calls.value == pytest.approx(20)


def test_a_sample_that_fails_altogether_is_an_error(program_with: Build, serve: Serve) -> None:
    program = program_with(serve(lambda call: Reply(status=400)))
    with pytest.raises(LMError, match=r"none of 2 documents was answered: .*HTTP 400"):
        estimate_run(texts(50, 60), program)


def test_texts_that_are_blank_cost_nothing(program_with: Build, serve: Serve) -> None:
    server = serve(good)
    blank = [Document(f"b{number}", " " * number) for number in range(5)]
    estimate = estimate_run([*texts(50), *blank], program_with(server))
    assert (estimate.documents, estimate.empty, estimate.characters) == (6, 5, 60)
    assert estimate.calls == exactly(2.0)
    assert len(server.calls) == 2


def test_without_any_document_nothing_is_asked(program_with: Build, serve: Serve) -> None:
    estimate = estimate_run([], program_with(serve(good), ledger=(ledger := Ledger())))
    assert estimate.calls == exactly(0.0)
    ledger.close()


def test_documents_are_streamed(program_with: Build) -> None:
    def stream() -> Iterator[Document]:
        yield from texts(30, 40)

    assert estimate_run(stream(), program_with()).documents == 2


def test_without_a_sample_nothing_is_asked(program_with: Build, serve: Serve) -> None:
    documents, ledger = mixed(100), Ledger(prices=PRICES)
    server = serve(good)
    program = program_with(server, ledger=ledger)
    estimate = estimate_run(documents, program, sample=0, ledger=ledger)
    assert not server.calls
    list(program.predict_many(documents))
    assert estimate.calls == exactly(len(server.calls))
    assert estimate.input_tokens.value == pytest.approx(server.input_tokens, rel=0.02)
    assert (estimate.output_tokens, estimate.seconds) == (None, None)
    assert estimate.cost is not None
    assert estimate.cost.value == pytest.approx(server.input_tokens / 1e6, rel=0.02)
    assert estimate.cost.high == float("inf")


def test_documents_of_the_sample_keep_their_selections(program_with: Build, serve: Serve) -> None:
    server = serve(good)
    own = Selection(exclude=(LABELS[0].id,))
    rows = [replace(document, selection=own) for document in texts(*range(50, 80))]
    estimate_run(rows, program_with(server), sample=5)
    shown = [call.candidates for call in server.calls if call.stage == "rank"]
    assert len(shown) == 5
    assert not any(LABELS[0].name in names for names in shown)


def test_without_an_lm_only_time_is_spent(program_with: Build) -> None:
    estimate = estimate_run(texts(*range(50, 250)), program_with(), start_seconds=1_000)
    assert (estimate.calls, estimate.cost) == (exactly(0.0), exactly(0.0))
    assert estimate.seconds is not None
    assert estimate.seconds.value > 1_000


# --- what a person sees ---------------------------------------------------------------------

ESTIMATE = RunEstimate(
    documents=1_000_000,
    empty=12,
    characters=1_234_567_890,
    calls=Range(2_012_000, 2_010_000, 2_013_000),
    input_tokens=Range(911_000_000.4, 890_000_000, 932_000_000),
    output_tokens=Range(41_000_000, 39_500_000, 42_500_000),
    cost=Range(161.25, 157.2, 165.3),
    seconds=Range(7_860, 7_000, 9_700),
    limited_by="requests in flight",
    in_flight=256,
    sampled=20,
    failed=1,
    kept=4,
    prices=(str(KnownPrice(0.15, 0.6, model="gpt-4o-mini", source="genai-prices 0.2.3")),),
)


def printed(estimate: RunEstimate) -> str:
    stream = io.StringIO()
    print_estimate(estimate, stream)
    return stream.getvalue()


def test_an_estimate_reads_as_a_table() -> None:
    assert printed(ESTIMATE) == (
        "documents          1,000,000  12 of them without text\n"
        "characters     1,234,567,890\n"
        "LM calls           2,012,000\n"
        "input tokens     911,000,000  890,000,000 to 932,000,000\n"
        "output tokens     41,000,000  39,500,000 to 42,500,000\n"
        "cost                 $161.25  $157.20 to $165.30\n"
        "time              2 h 11 min  1 h 57 min to 2 h 42 min\n"
        "measured on 20 documents, 1 of them failed\n"
        "4 calls of these were answered in an earlier run and cost nothing\n"
        "the time is that of 256 requests in flight, the limit, if the server takes as many\n"
        "price of gpt-4o-mini: $0.15 in, $0.60 out per million tokens (genai-prices 0.2.3)\n"
    )


def test_what_is_unknown_is_said() -> None:
    text = printed(
        replace(
            ESTIMATE,
            output_tokens=None,
            cost=None,
            seconds=None,
            limited_by="",
            sampled=0,
            kept=0,
            prices=(),
            unpriced=("own",),
        )
    )
    assert text.splitlines()[4:] == [
        "output tokens        unknown",
        "cost                 unknown",
        "time                 unknown",
        "nothing was asked: tokens are reckoned as four characters each",
        "no price is known of own: give it with --prices FILE",
    ]


def test_durations_are_told_in_two_units() -> None:
    assert doctest.testmod(irr.dryrun.show).failed == 0
