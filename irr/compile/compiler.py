"""compile_program: everything in its order, and what is known when it must stop early.

1. The given program is scored on dev. 2. Retrieval is tuned on the training guesses. 3. The
optimizer looks for demonstrations or instructions. 4. Fusion is tuned on the training orders.
After each step the program so far is scored on dev; the best of all these is returned, the given
one among them. A spent budget, an interrupt or a dead endpoint ends the work at any point.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import dspy

from irr.compile import search
from irr.compile.examples import Example, Split, same_text
from irr.compile.guard import Candidate, best_of, score_program
from irr.compile.modules import (
    InferStage,
    Pipeline,
    RankStage,
    Shared,
    feedback_of,
    infer_example,
    metric_of,
    rank_example,
)
from irr.compile.priors import Priors, without
from irr.compile.retrieval import RetrievalTuner, changes
from irr.compile.settings import CompileSettings
from irr.compile.tune import (
    FUSION_WEIGHTS,
    Tuned,
    choose,
    fusion_scores,
)
from irr.demos import NearestDemos
from irr.errors import ConfigurationError, LMError
from irr.ledger import BudgetError, Ledger
from irr.lm import as_irr_error
from irr.metrics import METRICS, parse_metrics
from irr.program import InferRetrieveRank
from irr.retrieve import RetrieveSettings

__all__ = ["Compilation", "compile_program"]

Say = Callable[[str], None]

# What ends a run without being an error: then the given program is the best so far.
_ENDS_EARLY = (BudgetError, search.InterruptedRunError)
# A program of which rows got no answer is scored once more; kept replies cost nothing.
_SCORINGS = 2
_EVERY = 25


@dataclass(slots=True)
class Compilation:
    """What compiling came to. `candidates` begin with the given program."""

    candidates: list[Candidate]
    best: Candidate
    retrieval: Tuned | None = None
    fusion: Tuned | None = None
    stopped: str | None = None
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def given(self) -> Candidate:
        return self.candidates[0]


def compile_program(
    program: InferRetrieveRank,
    split: Split,
    settings: CompileSettings,
    *,
    ledger: Ledger,
    teacher: dspy.LM | None = None,
    say: Say = lambda _: None,
) -> Compilation:
    """Compile a program. See the module's docstring.

    Args:
        program: the program to begin with, its LMs set: the students.
        split: what to learn from, and what to score on.
        ledger: keeps the LMs' replies, counts them, and holds the budget.
        teacher: the LM that makes demonstrations; without one the students do.
        say: takes lines of progress.

    Returns:
        The best program found, never one that scores less on dev than the given one.

    Raises:
        LMError: not even the given program could be scored.
    """
    return _Compiler(program, split, settings, ledger, teacher, say).run()


class _Compiler:
    def __init__(
        self,
        program: InferRetrieveRank,
        split: Split,
        settings: CompileSettings,
        ledger: Ledger,
        teacher: dspy.LM | None,
        say: Say,
    ) -> None:
        self.split = split
        self.settings = settings
        self.ledger = ledger
        self.say = say
        ((self.metric_name, self.k),) = parse_metrics(settings.metric)
        self.metric = metric_of(self.metric_name, self.k)
        stages = [stage for stage in (program.infer, program.rank) if stage is not None]
        self.student = stages[0].predict.lm if stages else None
        self.given_teacher = teacher
        self.teacher = teacher or self.student
        self.program = program
        self.result: Compilation | None = None
        self._began = time.monotonic()

    def run(self) -> Compilation:
        self._check_lms()
        unscored = Candidate("given", self.program, (), 0.0, 0.0, 0)
        self.result = result = Compilation([unscored], unscored)
        try:
            self._score("given", self.program)
            self._tune_retrieval()
            if self.student is not None and self.settings.optimizer != "none":
                self._optimize()
            self._tune_fusion()
        except KeyboardInterrupt:
            self.ledger.stop(search.InterruptedRunError())
        except LMError as error:
            self.ledger.stop(error)
            if not result.given.scores and not isinstance(error, _ENDS_EARLY):
                raise  # A wrong key or address: there is nothing to keep.
        if self.ledger.stopped is not None:
            result.stopped = str(self.ledger.stopped)
            result.interrupted = isinstance(self.ledger.stopped, search.InterruptedRunError)
        result.best = best_of(result.candidates)
        return result

    def _check_lms(self) -> None:
        """Refuse what cannot work before the first call."""
        stages = (self.program.infer, self.program.rank)
        lms = {id(stage.predict.lm) for stage in stages if stage is not None}
        kind = self.settings.optimizer
        alone = kind == "knn" and self.given_teacher is None
        if len(lms) > 1 and (alone or kind in ("end-to-end", "mipro", "gepa")):
            advice = "name a teacher" if alone else "use left-to-right or knn"
            raise ConfigurationError(
                f"--optimizer {kind} needs the same LM for Infer and Rank; with different ones "
                f"{advice}"
            )

    def _score(self, name: str, program: InferRetrieveRank, *, tried: int = 1) -> Candidate:
        """Score a program on dev and remember it. Rows without an answer are asked once more.

        Raises:
            LMError: the run was stopped, and not all of its replies are there.
        """
        metric = (self.metric_name, self.k)
        for _ in range(_SCORINGS):
            candidate = score_program(name, program, self.split.dev, metric, tried=tried)
            if not candidate.failed or self.ledger.stopped is not None:
                break
        if candidate.failed and self.ledger.stopped is not None:
            raise self.ledger.stopped
        assert self.result is not None
        if not self.result.given.scores:
            self.result.candidates.clear()
        self.result.candidates.append(candidate)
        score = candidate.score
        if score.mean is None or score.low is None or score.high is None:
            raise LMError(f"no dev document was answered while {name!r} was scored", fatal=True)
        failed = f", {candidate.failed} without an answer" if candidate.failed else ""
        self._tell(
            f"{name}: {self.settings.metric} {100 * score.mean:.1f} "
            f"({100 * score.low:.1f} to {100 * score.high:.1f}){failed}"
        )
        return candidate

    def _tell(self, line: str) -> None:
        self.say(f"{line}{self._spent()}")

    def _spent(self) -> str:
        parts = []
        for role, counts in self.ledger.counts().items():
            parts.append(f"{role} {counts.calls:,} calls")
            if counts.kept:
                parts[-1] += f" ({counts.kept:,} kept)"
            if counts.cost:
                parts[-1] += f" ${counts.cost:,.4f}"
        return f" · {', '.join(parts)}" if parts else ""

    def _best(self) -> InferRetrieveRank:
        assert self.result is not None
        return best_of(self.result.candidates).program

    # Retrieval

    def _tune_retrieval(self) -> None:
        result = self.result
        assert result is not None
        examples = self.split.train
        if self.student is None:  # No LM, no search: every example can tune, the folds guard.
            examples = [*self.split.train, *self.split.dev]
        guesses = self._guesses(self.program, examples)
        retriever = self.program.retriever
        tried = changes(retriever, guesses=self.program.infer is not None)
        self.say(f"retrieval: trying {len(tried)} changes on {len(examples)} examples")
        tuner = RetrievalTuner(
            retriever,
            examples,
            guesses,
            self._retrieval_score,
            priors_for=self._priors_for,
            progress=self._tuning_progress,
        )
        chosen, tuned = tuner.tune(tried, folds=self.settings.folds, seed=self.settings.seed)
        result.retrieval = tuned
        changed = _differing(chosen, retriever.settings) or "the given settings stay"
        self._tell(
            f"retrieval: {changed}; gain on held-out folds {100 * tuned.gain:+.1f} "
            f"({100 * tuned.low:+.1f} to {100 * tuned.high:+.1f})"
        )
        if tuned.best:
            retriever = retriever.with_settings(chosen)
            self._score("retrieval tuned", self.program.variant(retriever=retriever))

    def _priors_for(self, example: Example) -> Priors | None:
        """Priors that were counted on the training examples, without this one of them."""
        priors, train = self.program.retriever.priors, self.split.train
        if not self.settings.priors_from_train or priors is None or example not in train:
            return None
        return without(priors, example, len(train))

    def _tuning_progress(self, done: int, total: int) -> None:
        if done % _EVERY == 0 and done < total:
            self.say(f"retrieval: {done} of {total} examples")

    def _retrieval_score(self, found: Sequence[int], gold: Sequence[int]) -> float:
        """The metric; where Rank follows, half of it, and half how much Rank will be shown."""
        own = METRICS[self.metric_name](found, gold, self.k) or 0.0
        if self.program.rank is None:
            return own
        return (own + len(set(found).intersection(gold)) / len(gold)) / 2

    def _guesses(self, program: InferRetrieveRank, examples: Sequence[Example]) -> list[list[str]]:
        """What a program's Infer guesses for examples: none where it has no LM or no answer."""
        if program.infer is None:
            return [[] for _ in examples]
        infer = program.infer

        async def one(example: Example) -> list[str]:
            try:
                reply = await infer.acall(text=example.document.text)
            except LMError as error:
                if error.fatal:
                    raise
                return []
            return list(reply.guesses)

        return self._gather([one(example) for example in examples], program)

    def _gather(self, tasks: list[Any], program: InferRetrieveRank) -> list[Any]:
        async def together() -> list[Any]:
            try:
                # After a fatal error the others are waited for: what is in flight is paid for.
                return list(await asyncio.gather(*tasks, return_exceptions=True))
            finally:
                await program.aclose()

        results = asyncio.run(together())
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    # The optimizer

    def _optimize(self) -> None:
        kind = self.settings.optimizer
        start = self._best()
        if kind == "left-to-right":
            self._left_to_right(start)
        elif kind == "knn":
            self._knn(start)
        else:
            module, train, dev = self._pipeline(start)
            found = self._search_pipeline(kind, module, train, dev)
            self._score(kind, self._with(start, found), tried=self._tried())

    def _left_to_right(self, start: InferRetrieveRank) -> None:
        program = start
        if start.infer is not None:
            stage = InferStage(_bare(start.infer), Shared(start))
            train = [infer_example(example, start) for example in self.split.train]
            dev = [infer_example(example, start) for example in self.split.dev]
            found = self._random_search(stage, train, dev, "infer", start.infer)
            program = self._score("infer", self._with(start, found), tried=self._tried()).program
        if start.rank is not None:
            stage = RankStage(_bare(start.rank), Shared(program))
            sides = (self.split.train, self.split.dev)
            train, dev = (self._rank_examples(program, examples) for examples in sides)
            found = self._random_search(stage, train, dev, "rank", start.rank)
            name = "infer and rank" if start.infer is not None else "rank"
            self._score(name, self._with(program, found), tried=2 * self._tried())

    def _tried(self) -> int:
        """Programs that a search chooses among: those of its trials, and three plain ones."""
        return self.settings.candidates + 3

    def _rank_examples(
        self, program: InferRetrieveRank, examples: Sequence[Example]
    ) -> list[dspy.Example]:
        guesses = self._guesses(program, examples)
        rows = []
        for example, guessed in zip(examples, guesses, strict=True):
            found = program.retriever.retrieve(example.phrases, guessed)
            rows.append(rank_example(example, program, [c.position for c in found]))
        return rows

    def _pipeline(
        self, start: InferRetrieveRank
    ) -> tuple[Pipeline, list[dspy.Example], list[dspy.Example]]:
        module = Pipeline(_bare(start.infer), _bare(start.rank), Shared(start))
        sides = []
        for examples in (self.split.train, self.split.dev):
            rows = []
            for example in examples:
                pool = [c.position for c in start.retriever.retrieve(example.phrases)]
                # All fields of both stages' demonstrations; the program's input is the text.
                row = {**rank_example(example, start, pool), **infer_example(example, start)}
                rows.append(dspy.Example(**row).with_inputs("text"))
            sides.append(rows)
        return module, sides[0], sides[1]

    def _search_pipeline(
        self, kind: str, module: Pipeline, train: list[dspy.Example], dev: list[dspy.Example]
    ) -> dspy.Module:
        if kind == "end-to-end":
            return self._random_search(module, train, dev, "end-to-end", self.program)
        self.say(f"{kind}: searching")
        options: dict[str, Any] = {"student": self.student, "teacher": self.teacher}
        options["settings"] = self.settings
        try:
            if kind == "mipro":
                found = search.mipro(module, self._watched(self.metric), train, dev, **options)
            else:
                feedback = feedback_of(self.metric_name, self.k, self.program)
                found = search.gepa(module, self._watched(feedback), train, dev, **options)
        except Exception as error:  # DSPy wraps what stopped it in errors of its own.
            if self.ledger.stopped is None:
                ours = as_irr_error(error) or error
                raise LMError(f"{kind} failed: {ours}", fatal=True) from error
        if self.ledger.stopped is not None:
            raise self.ledger.stopped
        return found

    def _watched(self, metric: Any) -> Any:
        """A metric that says now and then how far an optimizer is."""
        scores: list[float] = []

        @functools.wraps(metric)
        def watched(*arguments: Any, **options: Any) -> Any:
            result = metric(*arguments, **options)
            scores.append(float(getattr(result, "score", result)))
            if len(scores) % _EVERY == 0:
                mean = 100 * sum(scores[-_EVERY:]) / _EVERY
                self._tell(f"{len(scores):,} texts tried, {mean:.1f} on average of the last")
            return result

        return watched

    def _random_search(
        self,
        module: dspy.Module,
        train: list[dspy.Example],
        dev: list[dspy.Example],
        what: str,
        student_of: Any,
    ) -> dspy.Module:
        """Random search with the LM of a stage as the student, and as the teacher without one."""
        student = self.student if student_of is self.program else student_of.predict.lm
        return search.random_search(
            module,
            self.metric,
            train,
            dev,
            student=student,
            teacher=self.given_teacher or student,
            ledger=self.ledger,
            settings=self.settings,
            report=self._report,
            what=what,
        )

    def _report(self, what: str, number: int, total: int, score: float, best: float) -> None:
        now = time.monotonic()
        if number == 1:
            self._began = now
        left = (now - self._began) / max(1, number - 1) * (total - number)
        line = f"{what}: candidate {number} of {total}: {100 * score:.1f}, best {100 * best:.1f}"
        self._tell(line + (f", about {left:.0f} s left" if number > 1 and left >= 1 else ""))

    def _knn(self, start: InferRetrieveRank) -> None:
        module, train, _ = self._pipeline(start)
        self.say(f"knn: bootstrapping {len(train)} examples")
        demos = search.bootstrap_all(
            module, self.metric, train, teacher=self.teacher, settings=self.settings
        )
        if self.ledger.stopped is not None:
            raise self.ledger.stopped
        found = self._with(start, module)
        kept = 0
        for name, stage in (("infer.predict", found.infer), ("rank.predict", found.rank)):
            if stage is not None and demos.get(name):
                encode = found.retriever.encoder.encode
                stage.nearest = NearestDemos(demos[name], self.settings.demos, encode)
                kept = max(kept, len(demos[name]))
        if kept:
            self._score("knn", found)
        else:
            self._note("knn: no training example scored well enough to become a demonstration")

    def _with(self, start: InferRetrieveRank, found: dspy.Module) -> InferRetrieveRank:
        """`start` with the stages that an optimizer found, their LMs set again."""
        changes: dict[str, Any] = {}
        for name in ("infer", "rank"):
            given, stage = getattr(start, name), getattr(found, name, None)
            if stage is not None and given is not None:
                stage = copy.deepcopy(stage)
                stage._compiled = False
                stage.predict.lm = given.predict.lm
                changes[name] = stage
        return start.variant(**changes)

    def _note(self, line: str) -> None:
        assert self.result is not None
        self.result.notes.append(line)
        self.say(line)

    # Fusion

    def _tune_fusion(self) -> None:
        result = self.result
        assert result is not None
        program = self._best()
        if program.rank is None:
            return
        examples = self._unseen(program)
        if len(examples) < 2:
            return
        honest = program.variant(infer=_blind(program.infer), rank=_blind(program.rank))
        rows = self._rank_examples(honest, examples)
        orders = self._orders(honest, rows)
        pools = [row.pool for row in rows]
        weights = (program.fusion, *(w for w in FUSION_WEIGHTS if w != program.fusion))
        table = fusion_scores(orders, pools, examples, (self.metric_name, self.k), weights)
        tuned = choose(table, folds=self.settings.folds, seed=self.settings.seed)
        result.fusion = tuned
        weight = weights[tuned.best]
        self._tell(f"fusion: weight {weight:g}; gain on held-out folds {100 * tuned.gain:+.1f}")
        if tuned.best:
            self._score(f"fusion {weight:g}", program.variant(fusion=weight), tried=len(weights))

    def _unseen(self, program: InferRetrieveRank) -> list[Example]:
        """Training examples that no prompt of the program shows with their answers."""
        shown = set()
        for stage in (program.infer, program.rank):
            if stage is not None and stage.nearest is None:
                shown |= {same_text(demo["text"]) for demo in stage.predict.demos}
        return [e for e in self.split.train if same_text(e.document.text) not in shown]

    def _orders(self, program: InferRetrieveRank, rows: Sequence[dspy.Example]) -> list[list[int]]:
        rank = program.rank
        assert rank is not None

        async def one(row: dspy.Example) -> list[int]:
            labels = [program.labels.distinct(position) for position in row.pool]
            text = program.passages(row.text, row.pool)
            try:
                reply = await rank.acall(text=text, candidates=labels)
            except LMError as error:
                if error.fatal:
                    raise
                return list(range(len(row.pool)))
            return list(reply.order)

        return self._gather([one(row) for row in rows], program)


def _differing(settings: RetrieveSettings, given: RetrieveSettings) -> str:
    """What was changed: "lexical_weight 0.1 (was 0)"."""
    pairs = ((field.name, getattr(settings, field.name)) for field in fields(settings))
    return ", ".join(
        f"{name} {value:g} (was {getattr(given, name):g})"
        for name, value in pairs
        if value != getattr(given, name)
    )


def _bare(stage: Any) -> Any:
    """A copy of a stage without its LM, which optimizers set by context, and without
    demonstrations by nearness, beside which those that they set would not be shown.
    """
    if stage is None:
        return None
    bare = copy.deepcopy(stage)
    bare.predict.lm = None
    bare.nearest = None
    return bare


def _blind(stage: Any) -> Any:
    """A stage that shows no document its own answer among demonstrations by nearness."""
    if stage is None or stage.nearest is None:
        return stage
    blind = copy.copy(stage)
    blind.nearest = stage.nearest.without_same()
    return blind
