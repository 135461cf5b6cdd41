"""The estimate of a run: calls, tokens, cost and time of all documents, each with its range.

In: documents and a program. Out: a `RunEstimate`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irr.dryrun.census import Census, Known
from irr.dryrun.regression import Floats, Range, exactly, projected
from irr.dryrun.trial import Pace, Trial, time_retrieval
from irr.program import InferRetrieveRank
from irr.types import Document, Usage

if TYPE_CHECKING:
    from irr.ledger import Ledger, Price

__all__ = ["RunEstimate", "estimate_run"]

# English has about four characters to a token.
_CHARS_PER_TOKEN = 4
_NOTHING = exactly(0.0)


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """What a run will take, its sample included.

    Attributes:
        documents: how many there are; `empty` of them have no text and cost no call.
        characters: of all texts.
        calls: LM calls that are answered.
        input_tokens: as the LM's server counts them; with no sample, from characters.
        output_tokens: None is unknown.
        cost: in dollars; None where a price is missing, that of the models in `unpriced`. Its
            `high` is infinite where output tokens are unknown.
        seconds: None is unknown.
        limited_by: what bounds the time: "requests in flight", "this machine", "" for unknown.
        in_flight: the most requests at once that the time is reckoned with.
        sampled: documents that went through the program; `failed` of them had no answer.
        kept: calls of the sample that were answered by replies kept from an earlier run.
        prices: a line for each price that was used.
    """

    documents: int
    empty: int
    characters: int
    calls: Range
    input_tokens: Range
    output_tokens: Range | None
    cost: Range | None
    seconds: Range | None
    limited_by: str
    in_flight: int
    sampled: int = 0
    failed: int = 0
    kept: int = 0
    prices: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()


class _Use(NamedTuple):
    """What all documents use of one model."""

    calls: Range
    input_tokens: Range
    output_tokens: Range | None


def estimate_run(
    documents: Iterable[Document],
    program: InferRetrieveRank,
    *,
    sample: int = 20,
    ledger: Ledger | None = None,
    top_k: int = 10,
    start_seconds: float = 0.0,
    seed: int = 0,
) -> RunEstimate:
    """Estimate a run over `documents`, which are read once and not held.

    Args:
        sample: documents that go through the program. With 0 nothing is asked: calls follow from
            the lengths, input tokens from characters, output tokens and time are unknown.
        ledger: the one that the program was built with: it keeps replies and knows prices.
        top_k: as for the run.
        start_seconds: what the run takes before its first document.
        seed: of the draw.

    Raises:
        LMError: no document of the sample was answered, or no request can succeed.
        IrrError: whatever reading the documents raises.
    """
    census = Census(program, sample, seed)
    for document in documents:
        census.add(document)
    models = _models(program)
    if not models:
        seconds = None
        if sample > 0:
            pace = time_retrieval(program, census, top_k)
            seconds = pace.wall.times(census.totals.documents).plus(start_seconds)
        return _estimate(census, program, {}, ledger, seconds, "this machine")
    if sample < 1:
        return _estimate(census, program, _use_by_characters(program, census), ledger, None, "")
    trial = Trial(program, census, top_k, ledger)
    use = _use_by_sample(program, census, trial, top_k)
    seconds, limit = None, ""
    if trial.latencies and trial.sent:
        calls = sum(part.calls.value for part in use.values())
        pace = time_retrieval(program, census, top_k)
        seconds, limit = _time(program, census, trial, pace, calls)
        seconds = seconds.plus(start_seconds)
    return _estimate(census, program, use, ledger, seconds, limit, trial)


def _models(program: InferRetrieveRank) -> dict[str, str]:
    """The model of each stage that has an LM."""
    stages = {"infer": program.infer, "rank": program.rank}
    return {
        name: str(stage.predict.lm.model).removeprefix("openai/")
        for name, stage in stages.items()
        if stage is not None
    }


def _use_by_sample(
    program: InferRetrieveRank, census: Census, trial: Trial, top_k: int
) -> dict[str, _Use]:
    """By model: use of one, or where Infer and Rank have different ones, of each."""
    models = _models(program)
    if len(set(models.values())) == 1:
        return {model: _fitted(census, trial, trial.usages, 1, 1) for model in models.values()}
    # The replies are kept: asked again, they are free.
    alone = program.variant(rank=None).predict_many(trial.documents, top_k=top_k)
    infer = [prediction.usage for prediction in alone]
    rank = [_less(both, first) for both, first in zip(trial.usages, infer, strict=True)]
    return {
        models["infer"]: _fitted(census, trial, infer, 1, 0),
        models["rank"]: _fitted(census, trial, rank, 0, 1),
    }


def _less(usage: Usage, other: Usage) -> Usage:
    return Usage(
        usage.calls - other.calls,
        usage.input_tokens - other.input_tokens,
        usage.output_tokens - other.output_tokens,
    )


def _fitted(census: Census, trial: Trial, usages: Sequence[Usage], infer: int, rank: int) -> _Use:
    """The total use from that of the sample; `infer` and `rank` are 1 where the stage counts."""
    known = np.array(trial.known).reshape(-1, len(Known._fields))
    # A document's chunks are answered one by one: errors grow with their number.
    weights = 1 / np.maximum(known[:, 1], 1)

    def terms(rows: Floats) -> Floats:
        read = infer * rows[..., 2] + rank * rows[..., 3]
        return np.stack([rows[..., 0], infer * rows[..., 1], read], axis=-1)

    columns, rest = terms(known), terms(np.array(census.totals) - known.sum(axis=0))

    def total(name: str, count: int) -> Range:
        used = np.array([getattr(usage, name) for usage in usages], dtype=np.float64)
        return projected(columns[:, :count], used, weights, rest[:count])

    # Only the prompt grows with the text, the reply does not.
    return _Use(total("calls", 2), total("input_tokens", 3), total("output_tokens", 2))


def _use_by_characters(program: InferRetrieveRank, census: Census) -> dict[str, _Use]:
    """By model: use from lengths alone, the prompts as they would be."""
    models, totals = _models(program), census.totals
    use: dict[str, _Use] = {}
    if program.infer is not None:
        fixed = totals.chunks * _prompt_chars(program.infer, {"text": ""})
        use[models["infer"]] = _reckoned(totals.chunks, fixed + totals.infer_chars)
    if program.rank is not None:
        count = min(program.retriever.settings.candidates, len(program.labels))
        windows = -(-count // program.rank.window)
        # The picks of several windows are shown once more, together.
        rounds = windows + (windows > 1)
        shown = _some_candidates(program, min(count, program.rank.window))
        chars = _prompt_chars(program.rank, {"text": "", "candidates": shown})
        calls = totals.documents * rounds
        rank = _reckoned(calls, calls * chars + rounds * totals.rank_chars)
        infer = use.get(models["rank"], _Use(_NOTHING, _NOTHING, None))
        use[models["rank"]] = _Use(
            infer.calls + rank.calls, infer.input_tokens + rank.input_tokens, None
        )
    return use


def _reckoned(calls: float, characters: float) -> _Use:
    return _Use(exactly(calls), exactly(characters / _CHARS_PER_TOKEN), None)


def _prompt_chars(stage: Any, inputs: dict[str, Any]) -> int:
    from irr.adapter import ListAdapter

    predict = stage.predict
    messages = ListAdapter().format(predict.signature, predict.demos, inputs)
    return sum(len(str(message["content"])) for message in messages)


def _some_candidates(program: InferRetrieveRank, count: int) -> list[str]:
    """As many labels, spread over the label set, as a prompt shows them."""
    from irr.rank import show_candidates

    step = len(program.labels) / max(count, 1)
    labels = [program.labels.distinct(int(number * step)) for number in range(count)]
    return show_candidates(labels)


def _time(
    program: InferRetrieveRank, census: Census, trial: Trial, pace: Pace, calls: float
) -> tuple[Range, str]:
    """Seconds of the run, and whether requests in flight bound them or this machine.

    This machine's seconds are those of Retrieve and the CPU time of calls, one after the other;
    at best, all CPU time is spread over all cores.
    """
    totals = census.totals
    latency = float(np.mean(trial.latencies)) / trial.sent
    error = 2 * float(np.std(trial.latencies)) / math.sqrt(len(trial.latencies))
    per_call = trial.short.cpu / trial.short.calls if trial.short.calls else 0.0
    passages = sum(known.passages for known in trial.long.known)
    beyond = max(0.0, trial.long.cpu - per_call * trial.long.calls)
    asking = calls * per_call + (totals.passages * beyond / passages if passages else 0.0)
    machine = Range(
        totals.documents * pace.wall.value + asking,
        min(
            totals.documents * pace.wall.low + asking,
            (totals.documents * pace.cpu + asking) / _cores(),
        ),
        totals.documents * pace.wall.high + asking,
    )
    turns = calls / program.in_flight
    network = turns * latency
    # The first and the last documents have their requests in flight one after the other.
    edges = trial.stages * latency
    seconds = Range(
        max(network, machine.value) + edges,
        max(turns * max(0.0, latency - error), machine.low) + edges / 2,
        turns * (latency + error) + machine.high + edges,
    )
    return seconds, "requests in flight" if network >= machine.value else "this machine"


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _estimate(
    census: Census,
    program: InferRetrieveRank,
    use: dict[str, _Use],
    ledger: Ledger | None,
    seconds: Range | None,
    limited_by: str,
    trial: Trial | None = None,
) -> RunEstimate:
    prices = {model: _price(ledger, model) for model in use}
    costs = [_cost(use[model], price) for model, price in prices.items() if price is not None]
    outputs = [part.output_tokens for part in use.values() if part.output_tokens is not None]
    unpriced = tuple(model for model, price in prices.items() if price is None)
    return RunEstimate(
        documents=census.documents,
        empty=census.empty,
        characters=census.characters,
        calls=sum((part.calls for part in use.values()), _NOTHING),
        input_tokens=sum((part.input_tokens for part in use.values()), _NOTHING),
        output_tokens=sum(outputs, _NOTHING) if len(outputs) == len(use) else None,
        cost=None if unpriced else sum(costs, _NOTHING),
        seconds=seconds,
        limited_by=limited_by if seconds is not None else "",
        in_flight=program.in_flight,
        sampled=0 if trial is None else len(trial.documents) + trial.failed,
        failed=0 if trial is None else trial.failed,
        kept=0 if trial is None else trial.kept,
        prices=tuple(_line(model, price) for model, price in prices.items() if price is not None),
        unpriced=unpriced,
    )


def _cost(use: _Use, price: Price) -> Range:
    cost = use.input_tokens.times(price.input / 1e6)
    if use.output_tokens is None:
        return Range(cost.value, cost.low, math.inf)
    return cost + use.output_tokens.times(price.output / 1e6)


def _price(ledger: Ledger | None, model: str) -> Price | None:
    roles = {} if ledger is None else ledger.models()
    found = [ledger.price_of(role) for role, name in roles.items() if ledger and name == model]
    return found[0] if found else None


def _line(model: str, price: Price) -> str:
    from irr.prices import KnownPrice

    if isinstance(price, KnownPrice):
        return str(price)
    return f"{model}: ${price.input:g} in, ${price.output:g} out per million tokens"
