"""Files of labels in the formats that people have → `Vocabulary`.

In: a file or folder, its format recognised by its content. Out: concepts in all their languages,
`Label`s in one of them, and what was wrong in the file. Add a format: a reader in a module of its
own, an entry in `FORMATS`, a rule in `sniff`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Self

from irr.errors import ConfigurationError, InputError, LabelSetError
from irr.files import TextFile
from irr.types import Label
from irr.vocabularies.concept import Concept, Languages, labels_of, languages_to_try, matches
from irr.vocabularies.lines import count_languages, read_jsonl, read_txt
from irr.vocabularies.problems import Problems
from irr.vocabularies.sniff import recognise
from irr.vocabularies.tables import (
    read_annif_csv,
    read_annif_tsv,
    read_csv,
    read_esco,
    read_tsv,
)

__all__ = ["FORMATS", "Vocabulary", "read_vocabulary"]

Reader = Callable[[TextFile, Problems], Iterator[Concept]]

FORMATS = {
    "txt": "a name a line",
    "csv": "a table with a header",
    "tsv": "the same with tabs",
    "jsonl": "a JSON object a line",
    "esco": "ESCO's download in csv",
    "turtle": "SKOS in Turtle",
    "n-triples": "SKOS in N-Triples",
    "n-quads": "SKOS in N-Quads",
    "rdf-xml": "SKOS in RDF/XML",
    "json-ld": "SKOS in JSON-LD",
    "mesh": "MeSH descriptors in XML",
    "icd10cm-order": "ICD-10-CM's order file",
    "icd10cm-tabular": "ICD-10-CM's tabular list in XML",
    "annif-csv": "Annif's vocabulary in csv",
    "annif-tsv": "Annif's vocabulary in tsv",
    "huggingface": "the classes of a Hugging Face data set",
}
"""The names of the formats, and what they are."""


class Vocabulary:
    """The concepts of one source, which can be gone through again and again.

    Problems are reported the first time only. Close it when done.

    Args:
        format: one of `FORMATS`.
        problems: where the readers report.
        start: starts reading, from the first concept.
        count: tells how many names each language tag has, where a concept may have names in
            several, nothing where none has a tag; None where the first name of each is the one
            to take.
        close: frees what reading took.
    """

    def __init__(
        self,
        format: str,
        problems: Problems,
        start: Callable[[Problems], Iterator[Concept]],
        *,
        count: Callable[[], Languages] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.format = format
        self.problems = problems
        self._start = start
        self._count = count
        self._close = close
        self._reported = False

    def __iter__(self) -> Iterator[Concept]:
        return self._concepts(self._problems())

    def labelled(self, language: str | None = None) -> Iterator[tuple[Concept, Label]]:
        """Yield each concept with its label in a language.

        Args:
            language: a BCP 47 range ("en" is also "en-GB"). None for English where there are
                several languages and it is one of them, else for the most frequent; in JSON lines
                none of which has "language", for the names outside "translations".

        Raises:
            ConfigurationError: no name is in that language.
        """
        problems = self._problems()
        return labels_of(self._concepts(problems), self._to_try(language), problems)

    @cached_property
    def languages(self) -> Languages:
        """The number of names of each language tag, where names are in several languages."""
        return self._count() if self._count else Languages()

    def close(self) -> None:
        """Free what reading took; nothing can be read after that."""
        if self._close:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _problems(self) -> Problems:
        problems = self.problems.muted() if self._reported else self.problems
        self._reported = True
        return problems

    def _concepts(self, problems: Problems) -> Iterator[Concept]:
        try:
            yield from self._start(problems)
        except InputError as error:
            problems.stop(error)

    def _to_try(self, language: str | None) -> tuple[str, ...]:
        counts, default = self.languages
        if language is None:
            return languages_to_try(default, counts) if counts else ()
        if counts and not any(matches(tag, language) for tag in counts) and any(counts):
            found = ", ".join(f"{tag or 'none'} ({count:,})" for tag, count in counts.items())
            raise ConfigurationError(
                f"{self.problems.path}: no name is in the language {language!r}: it has {found}"
            )
        return languages_to_try(language, counts)


def read_vocabulary(
    path: str | Path,
    format: str | None = None,
    *,
    strict: bool = True,
) -> Vocabulary:
    """Open a file or folder of labels.

    Args:
        path: plain or gzip (.gz); a stream is first copied to a temporary file.
        format: one of `FORMATS`; None to recognise it by the content.
        strict: raise the first error; else keep all in the vocabulary's `problems`.

    Raises:
        LabelSetError: there is no such file, its format is not known, or, while reading and when
            strict, it is malformed; names the file and the line.
        ConfigurationError: no such format; or it needs a package that is not installed.
        OutputError: the folder of temporary files is full.
    """
    problems = Problems("<stdin>" if str(path) == "-" else path, strict=strict)
    known = format or recognise(Path(path))
    if known is not None and known not in FORMATS:
        names = ", ".join(FORMATS)
        raise ConfigurationError(f"there is no label format {known!r}: name one of {names}")
    if known == "huggingface":
        from irr.vocabularies.huggingface import read_huggingface

        return Vocabulary(known, problems, partial(read_huggingface, Path(path)))
    file = TextFile(path, LabelSetError)
    if known is None:
        raise file.failure(
            "cannot tell its format by its content or name: choose it with --labels-format "
            f"({', '.join(FORMATS)})"
        )
    file.keep()
    if known in _RDF:
        from irr.vocabularies.skos import SkosStore

        try:
            store = SkosStore(file, known, problems)
        finally:
            file.close()
        count = partial(Languages.of, store.languages)
        return Vocabulary(known, problems, store.concepts, count=count, close=store.close)
    reader = _reader(known)
    counts: dict[str, Callable[[], Languages]] = {
        "annif-csv": partial(_count_languages, reader, file, problems.muted()),
        "jsonl": partial(count_languages, file),
    }
    start = partial(reader, file)
    return Vocabulary(known, problems, start, count=counts.get(known), close=file.close)


_RDF = ("turtle", "n-triples", "n-quads", "rdf-xml", "json-ld")


def _reader(name: str) -> Reader:
    """Find a reader; those for XML are imported only when asked for."""
    if name == "mesh":
        from irr.vocabularies.mesh import read_mesh

        return read_mesh
    if name.startswith("icd10cm"):
        from irr.vocabularies.icd10cm import read_order, read_tabular

        return read_order if name == "icd10cm-order" else read_tabular
    readers: dict[str, Reader] = {
        "txt": read_txt,
        "csv": read_csv,
        "tsv": read_tsv,
        "jsonl": read_jsonl,
        "esco": read_esco,
        "annif-csv": read_annif_csv,
        "annif-tsv": read_annif_tsv,
    }
    return readers[name]


def _count_languages(reader: Reader, file: TextFile, muted: Problems) -> Languages:
    counts: Counter[str] = Counter()
    # What is wrong is told by the pass that makes labels.
    with suppress(InputError):
        for concept in reader(file, muted):
            counts.update(tag for tag, _ in concept.names)
    return Languages.of(counts)
