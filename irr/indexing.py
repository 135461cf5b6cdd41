"""The command `index`: embeds a label set ahead, so that no later run has to wait for it.

In: a label set and the name of an encoder. Out: their index in the user's cache, where predict,
compile and evaluate find it, and one line that says what it is. Killed, it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from irr.cli import Parser, run_command
from irr.options import add_reading_options, positive_int

if TYPE_CHECKING:
    from pathlib import Path

    from irr.index import LabelIndex

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `irr index --labels FILE`."""
    parser = Parser(
        prog="irr index",
        description="Embed a label set ahead, into the user's cache (IRR_CACHE names another).",
        epilog="Run again after it was killed, it goes on where it was.",
    )
    parser.add_argument("--labels", metavar="FILE", required=True, help="label set, or icd10cm")
    add_reading_options(parser)
    parser.add_argument("--encoder", metavar="NAME", help="sentence-transformers model or folder")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, mps")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--exact",
        dest="approximate",
        action="store_false",
        help="compare every label with every query, however many (default: by their number)",
    )
    kind.add_argument(
        "--approximate",
        action="store_true",
        help="compare a shortlist only, however few",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(approximate=None)
    return run_command(_index, parser.parse_args(argv))


def _index(arguments: argparse.Namespace) -> int:
    from irr.encoder import DEFAULT_ENCODER, load_encoder
    from irr.index.opening import index_folder, make_index
    from irr.labels import LabelSet
    from irr.show import EmbeddingProgress

    started = time.monotonic()
    labels = LabelSet.read(arguments.labels, arguments.labels_format, language=arguments.language)
    name = arguments.encoder or DEFAULT_ENCODER
    encoder = load_encoder(name, device=arguments.device, threads=arguments.threads)
    index = make_index(
        labels,
        encoder,
        approximate=arguments.approximate,
        threads=arguments.threads,
        progress=EmbeddingProgress(),
    )
    line = _told(index, index_folder(labels, encoder), time.monotonic() - started)
    sys.stdout.write(f"{line}\n")
    return 0


def _told(index: LabelIndex, folder: Path, seconds: float) -> str:
    size = sum(file.stat().st_size for file in folder.iterdir())
    parts = [f"{len(index):,} labels", f"{len(index.owners):,} rows"]
    parts += [f"{index.dimensions} dimensions", "approximate" if index.approximate else "exact"]
    parts += [f"{size:,} bytes", f"{seconds:,.1f} s"]
    return f"{', '.join(parts)}: {folder}"


if __name__ == "__main__":
    sys.exit(main())
