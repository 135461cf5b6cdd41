"""The estimate: how many calls compiling will make at most, and about what they cost."""

from __future__ import annotations

from irr.adapter import ListAdapter
from irr.compile.examples import Split
from irr.compile.settings import CompileSettings
from irr.ledger import Ledger
from irr.program import InferRetrieveRank
from irr.rank import show_candidates

__all__ = ["estimate"]

# English has about four characters to a token; an answer is some ten guesses or numbers.
_CHARS_PER_TOKEN = 4
_ANSWER_TOKENS = 60


def estimate(
    program: InferRetrieveRank,
    split: Split,
    settings: CompileSettings,
    *,
    has_teacher: bool,
    ledger: Ledger,
) -> list[list[str]]:
    """Rows of LM, calls at most, input tokens, output tokens, cost."""
    train, dev = len(split.train), len(split.dev)
    stages = (program.infer is not None) + (program.rank is not None)
    if not stages:
        return [["none", "0", "0", "0", "$0"]]
    scored = 1 + stages + 2  # given, after each stage, tuned, fused
    student = dev * stages * scored + train * (program.infer is not None) * 2
    student += train * (program.rank is not None)
    teacher = 0
    if settings.optimizer in ("left-to-right", "end-to-end"):
        student += (settings.candidates + 2) * dev * stages
        teacher = (settings.candidates + 1) * train * stages
    elif settings.optimizer == "knn":
        teacher = train * stages
    elif settings.optimizer in ("mipro", "gepa"):
        student += (settings.candidates + 1) * (dev + train) * stages
        teacher = settings.candidates * (train * stages + 10)
    if not has_teacher:
        student, teacher = student + teacher, 0
    tokens = _prompt_tokens(program, split, settings)
    counts = {"student": student} | ({"teacher": teacher} if has_teacher else {})
    return [_row(role, calls, tokens, ledger) for role, calls in counts.items()]


def _prompt_tokens(program: InferRetrieveRank, split: Split, settings: CompileSettings) -> int:
    """Tokens of a prompt on average, with half of the demonstrations that it may have."""
    adapter = ListAdapter()
    text = sum(len(example.document.text) for example in split.dev) / len(split.dev)
    sizes = []
    if program.infer is not None:
        system = adapter.format_system_message(program.infer.predict.signature)
        sizes.append(len(system) + text * (1 + settings.demos / 2))
    if program.rank is not None:
        system = adapter.format_system_message(program.rank.predict.signature)
        first = range(min(program.rank.window, len(program.labels)))
        some = show_candidates([program.labels.distinct(n) for n in first])
        listed = program.retriever.settings.candidates * (sum(map(len, some)) / len(some) + 4)
        sizes.append(len(system) + (text + listed) * (1 + settings.demos / 2))
    return round(sum(sizes) / len(sizes) / _CHARS_PER_TOKEN)


def _row(role: str, calls: int, tokens: int, ledger: Ledger) -> list[str]:
    price = ledger.price_of(role)
    spent_in, spent_out = calls * tokens, calls * _ANSWER_TOKENS
    cost = "unknown"
    if price is not None:
        cost = f"${(spent_in * price.input + spent_out * price.output) / 1e6:,.2f}"
    return [role, f"{calls:,}", f"{spent_in:,}", f"{spent_out:,}", cost]
