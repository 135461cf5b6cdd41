"""The WorkRB adapter: a small task made here, ranked as the program ranks."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

workrb = pytest.importorskip("workrb", reason="the adapter's extra, irr[workrb], is not installed")

from workrb.tasks.abstract.base import LabelType, Language  # noqa: E402
from workrb.tasks.abstract.ranking_base import (  # noqa: E402
    RankingDataset,
    RankingTask,
    RankingTaskGroup,
)
from workrb.types import ModelInputType  # noqa: E402

from irr.errors import ConfigurationError, LMError  # noqa: E402
from irr.index import open_index  # noqa: E402
from irr.labels import LabelSet  # noqa: E402
from irr.metrics import METRICS  # noqa: E402
from irr.program import InferRetrieveRank  # noqa: E402
from irr.rank import Ranked  # noqa: E402
from irr.retrieve import Retriever, RetrieveSettings  # noqa: E402
from irr.types import Document, Label  # noqa: E402
from irr.workrb import IrrModel, _falling  # noqa: E402

TARGETS = [
    "use SQL",
    "Java (computer programming)",
    "manage budgets",
    "work in teams",
    "use spreadsheets software",
    "project management",
]
QUERIES = [
    "We use SQL and Java (computer programming)",
    "You manage budgets, and work in teams",
    "project management with spreadsheets software",
]
GOLD = [[0, 1], [2, 3], [4, 5]]


class SmallTask(RankingTask):  # type: ignore[misc]
    """Three sentences, six skills."""

    name = "small"
    description = "made here"
    task_group = RankingTaskGroup.SKILL_EXTRACTION
    label_type = LabelType.MULTI_LABEL
    supported_query_languages = (Language.EN,)
    supported_target_languages = (Language.EN,)
    query_input_type = ModelInputType.SKILL_SENTENCE
    target_input_type = ModelInputType.SKILL_NAME

    def __init__(self) -> None:
        super().__init__(languages=["en"], split="val")

    @property
    def supported_languages(self) -> list[Language]:
        return [Language.EN]

    def load_dataset(self, dataset_id: str, split: object) -> RankingDataset:
        return RankingDataset(QUERIES, GOLD, TARGETS, dataset_id)


class Rank:
    """Stands in for Rank: the candidates from the last to the first, or no answer."""

    def __init__(self, answers: bool = True) -> None:
        self.answers = answers
        self.seen: list[int] = []
        lm = types.SimpleNamespace(engine=types.SimpleNamespace(aclose=self.aclose))
        self.predict = types.SimpleNamespace(lm=lm)

    async def aclose(self) -> None:
        pass

    async def ask(self, text: str, candidates: list[Label]) -> Ranked:
        if not self.answers:
            raise LMError("the server is gone")
        self.seen.append(len(candidates))
        return Ranked(list(range(len(candidates)))[::-1], picked=1, notes=[])


def program(encoder: Any, targets: list[str] | None = None, **stages: Any) -> InferRetrieveRank:
    labels = LabelSet(Label(f"id-{text}", text) for text in targets or TARGETS)
    settings = RetrieveSettings(candidates=stages.pop("candidates", 100))
    retriever = Retriever(encoder, open_index(labels, encoder), settings)
    return InferRetrieveRank(labels, retriever, **stages)


def ranking(matrix: Any) -> list[list[str]]:
    """The targets as WorkRB sorts them."""
    return [[TARGETS[i] for i in row] for row in np.argsort(-matrix.float().numpy(), axis=1)]


def expected(program: InferRetrieveRank, queries: list[str] = QUERIES) -> list[list[str]]:
    documents = [Document(str(i), text) for i, text in enumerate(queries)]
    found = program.predict_many(documents, top_k=100)
    return [[label.label for label in prediction.labels] for prediction in found]


def scores(model: IrrModel, queries: list[str] = QUERIES, targets: list[str] = TARGETS) -> Any:
    return model.compute_rankings(
        queries=queries,
        targets=targets,
        query_input_type=ModelInputType.SKILL_SENTENCE,
        target_input_type=ModelInputType.SKILL_NAME,
    )


def test_rankings_are_those_of_the_program(hash_encoder: Any) -> None:
    own = program(hash_encoder)
    matrix = scores(IrrModel(own))
    assert tuple(matrix.shape) == (3, 6) and str(matrix.dtype) == "torch.float32"
    assert ranking(matrix) == expected(own)


def test_the_benchmark_runs(hash_encoder: Any, tmp_path: Path) -> None:
    own = program(hash_encoder)
    results = workrb.evaluate(
        IrrModel(own, name="mine"),
        [SmallTask()],
        output_folder=str(tmp_path),
        metrics={"small": ["rp@2", "mrr"]},
    )
    (found,) = results.task_results["small"].datasetid_results.values()
    gold = [{TARGETS[i] for i in indices} for indices in GOLD]
    rows = zip(expected(own), gold, strict=True)
    values = [METRICS["RP"](names, wanted, 2) for names, wanted in rows]
    assert found.metrics_dict["rp@2"] == pytest.approx(sum(v or 0.0 for v in values) / 3)


def test_targets_are_the_label_set(hash_encoder: Any) -> None:
    model = IrrModel(program(hash_encoder, ["something", "else"]))
    assert ranking(scores(model)) == expected(program(hash_encoder))


def test_targets_in_another_order(hash_encoder: Any) -> None:
    own = program(hash_encoder, TARGETS[::-1])
    assert ranking(scores(IrrModel(own))) == expected(own)


def test_the_program_keeps_its_own_labels(hash_encoder: Any) -> None:
    labels = LabelSet(
        Label(text, text, ("COBOL",) if text == "work in teams" else ()) for text in TARGETS
    )
    own = program(hash_encoder).variant(
        labels=labels, retriever=Retriever(hash_encoder, open_index(labels, hash_encoder))
    )
    (first, *_), *_ = ranking(scores(IrrModel(own), ["COBOL"]))
    assert first == "work in teams"


def test_few_candidates_still_rank_every_target(hash_encoder: Any) -> None:
    few, all_ = program(hash_encoder, candidates=2), program(hash_encoder)
    assert ranking(scores(IrrModel(few))) == expected(all_)


def test_rank_orders_its_candidates_and_the_rest_follows(hash_encoder: Any) -> None:
    rank = Rank()
    with_rank = program(hash_encoder, candidates=2, rank=rank)
    found = ranking(scores(IrrModel(with_rank)))
    assert rank.seen == [2, 2, 2]
    for names, without in zip(found, expected(program(hash_encoder)), strict=True):
        assert names == [without[1], without[0], *without[2:]]


def test_a_query_without_an_answer_is_an_error(hash_encoder: Any) -> None:
    model = IrrModel(program(hash_encoder, rank=Rank(answers=False)))
    with pytest.raises(LMError, match="query 1 was not answered: the server is gone"):
        scores(model)


def test_a_blank_query_ranks_in_the_order_of_the_targets(hash_encoder: Any) -> None:
    assert ranking(scores(IrrModel(program(hash_encoder)), [" "])) == [TARGETS]


def test_repeated_targets(hash_encoder: Any) -> None:
    matrix = scores(IrrModel(program(hash_encoder)), ["use SQL"], ["use SQL", "Java", "use SQL"])
    assert np.argsort(-matrix.numpy(), axis=1).tolist() == [[0, 2, 1]]


def test_classification_scores_the_classes_as_targets(hash_encoder: Any) -> None:
    model = IrrModel(program(hash_encoder))
    matrix = model.compute_classification(QUERIES, TARGETS, ModelInputType.SKILL_SENTENCE)
    assert matrix.equal(scores(model))
    assert model.classification_label_space is None


def test_ties_fall_in_float32() -> None:
    falling = _falling(np.array([0.5] * 20_000 + [0.4999995])).astype(np.float32)
    assert (np.diff(falling) < 0).all()
    kept = np.array([2.0, 0.5, -0.25])
    np.testing.assert_allclose(_falling(kept), kept, rtol=0, atol=1e-12)


def test_what_the_model_says_of_itself(hash_encoder: Any) -> None:
    model = IrrModel(program(hash_encoder, rank=Rank()), name="irr-rank")
    assert model.name == "irr-rank"
    assert model.description == "irr: Retrieve, Rank; encoder hash"
    assert "2401.12178" in model.citation


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, hash_encoder: Any) -> None:
    import irr.workrb

    monkeypatch.setattr(irr.workrb, "ModelInterface", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'irr\[workrb\]'"):
        IrrModel(program(hash_encoder))
