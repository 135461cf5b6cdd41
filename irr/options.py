"""The options that several commands share: what program to run, and the program they describe.

In: parsed arguments. Out: `InferRetrieveRank`. Imports are light until a program is made.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from irr.errors import ConfigurationError

if TYPE_CHECKING:
    from irr.build import LMChoice
    from irr.ledger import Ledger
    from irr.program import InferRetrieveRank

__all__ = [
    "add_program_options",
    "add_reading_options",
    "lms_from",
    "non_negative_int",
    "positive_float",
    "positive_int",
    "program_from",
    "share",
]

DEFAULT_WINDOW = 100
DEFAULT_CANDIDATES = 100
# With this strength the most frequent labels of ESCO gain a fifth: a nudge.
DEFAULT_PRIOR_STRENGTH = 1.0


def add_program_options(parser: argparse.ArgumentParser, *, examples: bool = True) -> None:
    """The options that say what program to run: labels, encoder, LMs, prompts, settings."""
    what = parser.add_argument_group("labels and prompts")
    what.add_argument(
        "--labels",
        metavar="FILE",
        help="label set: txt, csv, tsv, jsonl, SKOS, ESCO, MeSH, ICD-10-CM or Annif files, also "
        ".gz; or icd10cm (codes from a package)",
    )
    add_reading_options(what)
    what.add_argument("--program", metavar="DIR", help="what compile wrote, instead of --labels")
    what.add_argument(
        "--task",
        metavar="PROMPTS",
        help="wording of the prompts: generic (the default), esco, biodex, or a TOML file",
    )
    parser.set_defaults(examples=None)
    if examples:
        what.add_argument(
            "--examples",
            metavar="FILE",
            help="a few documents with labels, shown to the LM as examples",
        )
    lms = parser.add_argument_group("LMs (keys come from the environment: OPENAI_API_KEY)")
    lms.add_argument(
        "--lm",
        metavar="NAME",
        help="none, openai/MODEL, or a model of the server at --api-base (default: none, or what "
        "the program was compiled with)",
    )
    lms.add_argument(
        "--api-base",
        metavar="URL",
        help="an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; several, separated "
        "by commas, share the work",
    )
    for stage in ("infer", "rank"):
        lms.add_argument(
            f"--{stage}-lm", metavar="NAME", help=f"another LM for {stage.capitalize()}, or none"
        )
        lms.add_argument(
            f"--{stage}-api-base", metavar="URL", help="its server, where not --api-base"
        )
    lms.add_argument(
        "--in-flight",
        type=positive_int,
        default=512,
        metavar="N",
        help="most LM requests at once; fewer where the server takes fewer (default: %(default)s)",
    )
    lms.add_argument(
        "--timeout",
        type=positive_float,
        default=120.0,
        metavar="SECONDS",
        help="longest wait for an LM (default: %(default)s)",
    )
    lms.add_argument(
        "--max-tokens",
        type=positive_int,
        default=1024,
        metavar="N",
        help="longest reply of an LM (default: %(default)s)",
    )
    search = parser.add_argument_group("retrieval")
    search.add_argument(
        "--candidates",
        type=positive_int,
        metavar="N",
        help="labels that Retrieve proposes (default: 100)",
    )
    search.add_argument(
        "--window",
        type=positive_int,
        metavar="N",
        help="candidates in one prompt of Rank (default: 100)",
    )
    search.add_argument(
        "--fusion",
        type=non_negative_float,
        metavar="WEIGHT",
        help="weight of retrieval's order beside Rank's (default: 0)",
    )
    search.add_argument(
        "--picked-only",
        action="store_true",
        help="leave out labels that Rank did not pick: then a row may have none",
    )
    search.add_argument(
        "--lexical-weight",
        type=non_negative_float,
        metavar="WEIGHT",
        help="how much shared spelling counts beside meaning (default: 0; 0.1 finds more rare "
        "names and codes; needs irr[lexical])",
    )
    search.add_argument(
        "--exact-weight",
        type=non_negative_float,
        metavar="WEIGHT",
        help="how much it counts that a name of the label stands in the text (default: 0; try 0.1)",
    )
    search.add_argument(
        "--include",
        action="append",
        metavar="LABEL",
        help="only these labels, with all below them: names, ids, patterns with *, re:…, or @FILE; "
        "may be repeated",
    )
    search.add_argument(
        "--exclude", action="append", metavar="LABEL", help="not these labels, likewise"
    )
    search.add_argument(
        "--prefer",
        choices=("any", "leaf", "ancestor-when-unsure"),
        default="any",
        help="level of the hierarchy: leaf leaves out labels with others below them; "
        "ancestor-when-unsure gives the broader label where its children are too near to tell "
        "apart (default: %(default)s)",
    )
    search.add_argument(
        "--priors", metavar="FILE", help="JSON object: how frequent each label is, by name or id"
    )
    search.add_argument(
        "--prior-strength",
        type=non_negative_float,
        metavar="A",
        help="how much priors count: 0 not at all, 1 a little, 100 a lot (default: 1)",
    )
    search.add_argument(
        "--encoder",
        default=None,
        metavar="NAME",
        help="sentence-transformers model: a name or a folder (default: all-MiniLM-L6-v2)",
    )
    search.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, mps or torch (default: %(default)s)",
    )
    search.add_argument(
        "--threads",
        type=positive_int,
        default=None,
        metavar="N",
        help="CPU threads (default: all that this process may use)",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and what happens")


def add_reading_options(parser: argparse._ActionsContainer) -> None:
    """The options that say how ``--labels`` is read, see `irr.labels.LabelSet.read`."""
    parser.add_argument(
        "--labels-format",
        metavar="NAME",
        help="what --labels is, where it is not to be recognised by its content",
    )
    parser.add_argument(
        "--language", metavar="TAG", help="language of the labels' names, such as en or de-CH"
    )


def program_from(
    arguments: argparse.Namespace,
    *,
    lms: LMChoice | None = None,
    depth: int = 1,
    ledger: Ledger | None = None,
) -> InferRetrieveRank:
    """The program that the options of `add_program_options` describe.

    Args:
        lms: its LMs, where they are not simply what the options say.
        depth: how many labels of a prediction will be looked at: there are as many candidates at
            least.
        ledger: keeps and counts the LMs' replies.
    """
    program = _program_from(arguments, lms or lms_from(arguments), depth, ledger)
    selection = None
    if arguments.include or arguments.exclude:
        from irr.selection import read_selection

        selection = read_selection(arguments.include or (), arguments.exclude or ())
    if arguments.picked_only and program.rank is None:
        raise ConfigurationError("--picked-only: there is no Rank to pick: give an LM with --lm")
    program = program.variant(
        selection=selection, prefer=arguments.prefer, picked_only=arguments.picked_only
    )
    _ = program.allowed  # What fits no label is said before anything is predicted.
    return program


def _program_from(
    arguments: argparse.Namespace, lms: LMChoice, depth: int, ledger: Ledger | None
) -> InferRetrieveRank:
    from irr.build import build_program, open_program
    from irr.documents import read_gold
    from irr.labels import LabelSet
    from irr.retrieve import RetrieveSettings
    from irr.show import EmbeddingProgress

    if arguments.api_base and arguments.lm in (None, "none"):
        stages = {arguments.infer_lm, arguments.rank_lm} - {None, "none"}
        if not stages and not arguments.program:
            raise ConfigurationError("--api-base is the server of an LM: name the LM with --lm")
    candidates = arguments.candidates or max(DEFAULT_CANDIDATES, depth)
    if candidates < depth and not arguments.program:
        raise ConfigurationError(
            f"--candidates {candidates} are fewer than the {depth} labels to look at: raise it"
        )
    where = {"device": arguments.device, "threads": arguments.threads}
    if arguments.program:
        _refuse_what_a_program_settles(arguments)
        return open_program(arguments.program, lm=lms, ledger=ledger, **where)
    strength = arguments.prior_strength
    settings = RetrieveSettings(
        candidates=candidates,
        prior_strength=(DEFAULT_PRIOR_STRENGTH if strength is None else strength)
        if arguments.priors
        else 0.0,
        lexical_weight=arguments.lexical_weight or 0.0,
        exact_weight=arguments.exact_weight or 0.0,
    )
    return build_program(
        LabelSet.read(arguments.labels, arguments.labels_format, language=arguments.language),
        lm=lms,
        encoder=arguments.encoder,
        prompts=arguments.task or "generic",
        examples=list(read_gold(arguments.examples)) if arguments.examples else (),
        settings=settings,
        priors=arguments.priors,
        window=arguments.window or DEFAULT_WINDOW,
        fusion=arguments.fusion or 0.0,
        progress=EmbeddingProgress(),
        ledger=ledger,
        **where,
    )


def lms_from(arguments: argparse.Namespace) -> LMChoice:
    """The LMs that the options describe; none named is None, which a program fills in."""
    from irr.build import LMChoice

    return LMChoice(
        name=arguments.lm,
        api_base=arguments.api_base,
        infer=arguments.infer_lm,
        infer_api_base=arguments.infer_api_base,
        rank=arguments.rank_lm,
        rank_api_base=arguments.rank_api_base,
        timeout=arguments.timeout,
        in_flight=arguments.in_flight,
        max_tokens=arguments.max_tokens,
    )


def _refuse_what_a_program_settles(arguments: argparse.Namespace) -> None:
    settled = (
        "prior_strength",
        "labels",
        "labels_format",
        "language",
        "task",
        "examples",
        "candidates",
        "window",
        "fusion",
        "priors",
        "encoder",
        "lexical_weight",
        "exact_weight",
    )
    given = [
        f"--{name.replace('_', '-')}" for name in settled if getattr(arguments, name) is not None
    ]
    if given:
        raise ConfigurationError(f"{', '.join(given)}: --program settles that; leave it out")


def positive_int(text: str) -> int:
    value = int(text) if text.strip().isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def non_negative_int(text: str) -> int:
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def share(text: str) -> float:
    value = non_negative_float(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return value


def positive_float(text: str) -> float:
    value = non_negative_float(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def non_negative_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value
