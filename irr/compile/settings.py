"""What can be set about compiling, each once, with its default."""

from __future__ import annotations

from dataclasses import dataclass

from irr.errors import ConfigurationError
from irr.metrics import parse_metrics

__all__ = ["OPTIMIZERS", "CompileSettings"]

OPTIMIZERS = {
    "left-to-right": "Infer by what it retrieves, then Rank; demonstrations by random search",
    "end-to-end": "both stages at once; demonstrations by random search",
    "mipro": "MIPROv2: instructions and demonstrations (needs the package optuna)",
    "gepa": "GEPA: instructions, rewritten after feedback on what was lost where",
    "knn": "demonstrations chosen for each document from the training examples",
    "none": "retrieval and fusion only",
}


@dataclass(frozen=True, slots=True)
class CompileSettings:
    """How to compile.

    Args:
        optimizer: a key of `OPTIMIZERS`.
        metric: what is raised, such as "RP@10".
        candidates: candidate programs that random search tries beside the plain ones, or trials.
        demos: demonstrations in a prompt at most.
        threshold: the score, from above 0 to 1, from which on a trace becomes a demonstration.
        folds: of the cross-validation that tunes retrieval.
        seed: of every draw.
        threads: LM requests at once during the search.
        priors_from_train: the program's priors were counted on the training examples.
    """

    optimizer: str = "left-to-right"
    metric: str = "RP@10"
    candidates: int = 8
    demos: int = 4
    threshold: float = 0.5
    folds: int = 5
    seed: int = 0
    threads: int = 16
    priors_from_train: bool = False

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigurationError(
                f"unknown optimizer {self.optimizer!r}: known are {', '.join(OPTIMIZERS)}"
            )
        if len(parse_metrics(self.metric)) != 1:
            raise ConfigurationError(f"--metric takes one metric, not {self.metric!r}")
        if not 0 < self.threshold <= 1:
            raise ConfigurationError(f"--threshold is above 0 and at most 1, not {self.threshold}")
        for name, least in (("candidates", 1), ("demos", 1), ("folds", 2), ("threads", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"--{name} is at least {least}")
