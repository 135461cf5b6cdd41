"""DSPy's optimizers, run in steps that can be followed, stopped and continued.

The search is DSPy's. Ours is that each candidate is a step of its own: random search is asked for
one seed at a time (`restrict`), so that progress shows, and a stop keeps the best so far. LMs are
set by `dspy.context`, the student's for scoring and the teacher's for bootstrapping: an optimizer
drops the LMs of predictors when it copies a program.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dspy

from irr.compile.modules import Pipeline
from irr.compile.settings import CompileSettings
from irr.errors import ConfigurationError, LMError
from irr.ledger import Ledger

__all__ = [
    "InterruptedRunError",
    "Report",
    "bootstrap_all",
    "check_optimizer",
    "gepa",
    "mipro",
    "random_search",
]

# Called with (what is being tried, its number, of how many, its score, the best so far).
Report = Callable[[str, int, int, float, float], None]

# DSPy gives up after this many errors; a row that fails is a row with score 0 for us, and what
# stops a run is the ledger.
_ERRORS = 1_000_000
# A candidate of which calls failed is scored once more; what was answered costs nothing then.
_SCORINGS = 2


def random_search(
    module: dspy.Module,
    metric: Any,
    train: Sequence[dspy.Example],
    dev: Sequence[dspy.Example],
    *,
    student: dspy.LM,
    teacher: dspy.LM,
    ledger: Ledger,
    settings: CompileSettings,
    report: Report,
    what: str,
) -> dspy.Module:
    """The best of: no demonstrations, labelled ones, bootstrapped ones by random search."""
    with _quiet():
        search = dspy.BootstrapFewShotWithRandomSearch(
            metric=metric,
            metric_threshold=settings.threshold,
            teacher_settings={"lm": teacher},
            max_bootstrapped_demos=settings.demos,
            max_labeled_demos=settings.demos,
            num_candidate_programs=settings.candidates,
            num_threads=settings.threads,
            max_errors=_ERRORS,
        )
    train = list(train)
    random.Random(settings.seed).shuffle(train)
    best, best_score = module, -1.0
    seeds = range(-3, settings.candidates)
    for number, seed in enumerate(seeds, start=1):
        try:
            for _ in range(_SCORINGS):
                failed = ledger.failures()
                with _quiet(), dspy.context(lm=student):
                    found = search.compile(
                        module, teacher=module, trainset=train, valset=list(dev), restrict=[seed]
                    )
                if ledger.failures() == failed or ledger.stopped is not None:
                    break
        except KeyboardInterrupt:
            ledger.stop(InterruptedRunError())
        if ledger.stopped is not None:  # What fails at once scores 0: no score at all.
            break
        (row,) = found.__dict__.pop("candidate_programs")
        score = row["score"] / 100
        if score > best_score:
            best, best_score = row["program"], score
        report(what, number, len(seeds), score, best_score)
    best.__dict__.pop("candidate_programs", None)
    return best


class InterruptedRunError(LMError):
    """Ctrl-C: no further request is sent, what is under way is finished."""

    def __init__(self) -> None:
        super().__init__("interrupted", fatal=True)


def bootstrap_all(
    module: dspy.Module,
    metric: Any,
    train: Sequence[dspy.Example],
    *,
    teacher: dspy.LM,
    settings: CompileSettings,
) -> dict[str, list[dict[str, Any]]]:
    """Demonstrations from every training example whose trace scores well, by predictor."""
    optimizer = dspy.BootstrapFewShot(
        metric=metric,
        metric_threshold=settings.threshold,
        teacher_settings={"lm": teacher},
        max_bootstrapped_demos=len(train),
        max_labeled_demos=0,
        max_errors=_ERRORS,
    )
    with _quiet(), dspy.context(lm=teacher):
        found = optimizer.compile(module, teacher=module, trainset=list(train))
    return {
        name: [
            {key: value for key, value in demo.items() if key != "augmented"} for demo in p.demos
        ]
        for name, p in found.named_predictors()
    }


def mipro(
    module: Pipeline,
    metric: Any,
    train: Sequence[dspy.Example],
    dev: Sequence[dspy.Example],
    *,
    student: dspy.LM,
    teacher: dspy.LM,
    settings: CompileSettings,
) -> dspy.Module:
    """MIPROv2: instructions proposed by the teacher, and demonstrations, chosen together."""
    optimizer = dspy.MIPROv2(
        metric=metric,
        prompt_model=teacher,
        task_model=student,
        teacher_settings={"lm": teacher},
        max_bootstrapped_demos=settings.demos,
        max_labeled_demos=settings.demos,
        auto=None,
        num_candidates=max(2, settings.candidates),
        num_threads=settings.threads,
        max_errors=_ERRORS,
        seed=settings.seed,
        track_stats=False,
        metric_threshold=settings.threshold,
    )
    with _quiet(), dspy.context(lm=student):
        return optimizer.compile(
            module,
            trainset=list(train),
            valset=list(dev),
            num_trials=max(2, settings.candidates),
            minibatch=False,
            seed=settings.seed,
        )


def gepa(
    module: Pipeline,
    feedback: Any,
    train: Sequence[dspy.Example],
    dev: Sequence[dspy.Example],
    *,
    student: dspy.LM,
    teacher: dspy.LM,
    settings: CompileSettings,
) -> dspy.Module:
    """GEPA: instructions rewritten by the teacher after feedback on where labels were lost."""
    optimizer = dspy.GEPA(
        metric=feedback,
        max_metric_calls=(settings.candidates + 1) * len(dev) + 6 * settings.candidates,
        reflection_lm=teacher,
        num_threads=settings.threads,
        seed=settings.seed,
        track_stats=False,
    )
    with _quiet(), dspy.context(lm=student):
        return optimizer.compile(module, trainset=list(train), valset=list(dev))


def check_optimizer(name: str) -> None:
    """Say before the first call that a package is missing.

    Raises:
        ConfigurationError: the optimizer's package is not installed.
    """
    import importlib.util

    needed = {"mipro": "optuna", "gepa": "gepa"}.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        raise ConfigurationError(f"--optimizer {name} needs a package: pip install {needed}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DSPy prints, logs and draws bars as it searches; ours is the one progress to be seen."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    loggers = [logging.getLogger(name) for name in ("dspy", "optuna", "gepa")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        os.environ.pop("TQDM_DISABLE")
        if before is not None:
            os.environ["TQDM_DISABLE"] = before
