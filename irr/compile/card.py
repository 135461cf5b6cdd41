"""The card: what was compiled, on what, with what scores and at what cost, for people to read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from irr.compile.compiler import Compilation
from irr.compile.guard import Candidate, difference, gain_is_clear
from irr.compile.settings import CompileSettings
from irr.ledger import Ledger
from irr.program import InferRetrieveRank

__all__ = ["card_of", "score_table"]

_SHOWN_CHARS = 120
_ADDRESS = re.compile(r"https?://\S+")


def card_of(
    result: Compilation,
    settings: CompileSettings,
    ledger: Ledger,
    *,
    sources: dict[str, str],
    command: str,
) -> str:
    """The card in Markdown. `sources` says what was read: a name and how much of it, each."""
    best = result.best
    program = best.program
    parts = [
        "# Program card",
        "",
        f"Compiled by irr from {len(program.labels):,} labels with the optimizer "
        f"`{settings.optimizer}` for {settings.metric}, seed {settings.seed}.",
        "",
        *(f"- {name}: {what}" for name, what in sources.items()),
        f"- encoder: `{program.retriever.encoder.name}`",
        *(f"- LM of {role}: `{model}`" for role, model in ledger.models().items()),
        "",
        "## Scores on dev",
        "",
        *_markdown(*score_table(result, settings)),
        "",
        _verdict(result, settings),
        "",
        "Dev was used to choose between these programs, so its best scores are a little too good.",
        "The more programs one was chosen among, the clearer its gain must be to count.",
        "*Retrieved* is the score of Retrieve's order, *among candidates* the share of gold labels",
        "that Rank was shown.",
        "",
        "## Retrieval and fusion",
        "",
        *_tuning(result),
        "",
        "## Cost",
        "",
        *_markdown(*_cost(ledger)),
        "",
        *_demonstrations(program),
        "## Predict with it",
        "",
        "```",
        command,
        "```",
        "",
    ]
    return "\n".join(parts)


def score_table(
    result: Compilation, settings: CompileSettings
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every program that was scored on dev, the given one first."""
    header = ["program", settings.metric, "95% interval", "gain", "retrieved", "among candidates"]
    rows = []
    for candidate in result.candidates:
        name = candidate.name + (" (returned)" if candidate is result.best else "")
        rows.append([name, *_cells(candidate, result.given)])
    return header, rows


def _cells(candidate: Candidate, given: Candidate) -> list[str]:
    score = candidate.score
    if score.mean is None or score.low is None or score.high is None:
        return ["-"] * 5
    gain, low, high = difference(candidate, given)
    change = f"{100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return [
        f"{100 * score.mean:.1f}",
        f"{100 * score.low:.1f} to {100 * score.high:.1f}",
        "" if candidate is given else change,
        f"{100 * candidate.retrieved:.1f}",
        f"{100 * candidate.among:.1f}",
    ]


def _verdict(result: Compilation, settings: CompileSettings) -> str:
    best, given = result.best, result.given
    sentences = []
    if best is given:
        sentences.append(f"The given program is returned: {_why_given(result)}.")
    else:
        gain, _, _ = difference(best, given)
        how = "clearly" if gain_is_clear(best, given) else "no less, and its prompts are shorter"
        sentences.append(
            f"Returned: {best.name}, {100 * gain:+.1f} {settings.metric} over the given program "
            f"({how})."
        )
    if result.stopped:
        reason = _ADDRESS.sub("the LM's server", result.stopped)
        sentences.append(f"Compiling was stopped early: {reason}.")
    for candidate in result.candidates:
        if candidate.failed:
            rows = f"{candidate.failed} dev documents got no answer"
            sentences.append(f"{candidate.name}: {rows} and were left out.")
    return " ".join([*sentences, *result.notes])


def _why_given(result: Compilation) -> str:
    others = [c for c in result.candidates if c is not result.given]
    if not others:
        return "no other was scored"
    gains = {c.name: difference(c, result.given)[0] for c in others}
    name = max(gains, key=lambda key: gains[key])
    if gains[name] <= 0:
        return "nothing scored higher on dev"
    return f"{name} scored {100 * gains[name]:+.1f} higher on dev, but not clearly"


def _tuning(result: Compilation) -> list[str]:
    lines = []
    for name, tuned in (("Retrieval", result.retrieval), ("Fusion", result.fusion)):
        if tuned is None:
            lines.append(f"- {name}: not tuned.")
            continue
        what = "the given settings stayed" if tuned.best == 0 else "other settings were chosen"
        lines.append(
            f"- {name}: {what}; cross-validated gain {100 * tuned.gain:+.1f} "
            f"({100 * tuned.low:+.1f} to {100 * tuned.high:+.1f})."
        )
    settings = result.best.program.retriever.settings
    lines.append(f"- Settings: `{settings}`, fusion {result.best.program.fusion:g}.")
    return lines


def _cost(ledger: Ledger) -> tuple[list[str], list[list[str]]]:
    header = ["LM", "calls", "failed", "kept replies used", "input tokens", "output tokens", "cost"]
    rows = []
    for role, counts in ledger.counts().items():
        cost = "unknown" if counts.cost is None else f"${counts.cost:,.4f}"
        numbers = [counts.calls, counts.failed, counts.kept]
        numbers += [counts.input_tokens, counts.output_tokens]
        rows.append([role, *(f"{number:,}" for number in numbers), cost])
    return header, rows or [["none", "0", "0", "0", "0", "0", "$0"]]


def _demonstrations(program: InferRetrieveRank) -> list[str]:
    lines = []
    for name, stage in (("Infer", program.infer), ("Rank", program.rank)):
        if stage is None:
            continue
        demos = stage.predict.demos if stage.nearest is None else stage.nearest.demos
        lines += [f"## Demonstrations of {name}", ""]
        if stage.nearest is not None:
            lines += [f"The {stage.nearest.k} nearest of these are shown to each document.", ""]
        if demos:
            output = "guesses" if name == "Infer" else "ranking"
            rows = [[_short(demo["text"]), _answer(demo, output)] for demo in map(dict, demos)]
            lines += [*_markdown(["text", output], rows), ""]
        else:
            lines += ["None.", ""]
    return lines


def _answer(demo: dict[str, Any], output: str) -> str:
    value = demo.get(output) or []
    if output == "ranking":
        shown = demo.get("candidates") or []
        value = [shown[n - 1] for n in value if isinstance(n, int) and 1 <= n <= len(shown)]
    return _short("; ".join(map(str, value)))


def _short(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return line if len(line) <= _SHOWN_CHARS else line[:_SHOWN_CHARS] + "…"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
