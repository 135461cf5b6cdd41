"""Label files of a line a label: txt (names) and jsonl (all that a concept has).

In: a `TextFile`. Out: `Concept`s. `concept_to_json` writes what `read_jsonl` reads.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

from irr.errors import InputError
from irr.files import TextFile
from irr.vocabularies.concept import Concept, Languages, Tagged
from irr.vocabularies.problems import Problems

__all__ = ["concept_to_json", "count_languages", "read_jsonl", "read_txt"]

logger = logging.getLogger(__name__)

# The texts of one language: the key in JSON lines, the field of a concept.
_TEXTS = {
    "alternative_names": "alternative_names",
    "hidden_names": "hidden_names",
    "description": "definitions",
    "scope_note": "scope_notes",
}
_KEYS = {"id", "name", "label", "parents", "language", "notations", "translations", *_TEXTS}
# Lines without these keys are in no language.
_LANGUAGE_KEYS = (b'"language"', b'"translations"')
_CHUNK = 1 << 20
_ESCAPES = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def read_txt(file: TextFile, problems: Problems) -> Iterator[Concept]:
    """Read a name a line, which is also the id; blank lines are allowed at the end only."""
    blank: list[int] = []
    for line, text in file.lines():
        name = text.strip()
        if not name:
            blank.append(line)
            continue
        for empty in blank:
            problems.error("empty name: fill it in or remove the line", empty)
        blank.clear()
        if "\r" in name:
            problems.error("holds a carriage return: end lines with \\n or \\r\\n", line)
        else:
            yield Concept(name, (("", name),), line=line)


def read_jsonl(file: TextFile, problems: Problems) -> Iterator[Concept]:
    """Read an object or a string a line, see `LabelSet.read`."""
    unused: set[str] = set()
    for number, text in file.pieces():
        try:
            for line, value in file.json_values([(number, text)]):
                if isinstance(value, str):
                    value = {"name": value}
                if not isinstance(value, dict):
                    expected = 'expected {"id": …, "name": …} or a string'
                    raise file.failure(f"{expected}, found {file.kind(value)}", line)
                unused |= value.keys() - _KEYS
                yield _concept(file, value, line)
        except InputError as error:
            problems.add(error)
    if unused:
        logger.info("%s: not used: %s", file.name, ", ".join(sorted(unused)))


def count_languages(file: TextFile) -> Languages:
    """Count the names of each language tag.

    A file that names no language is not parsed for it, only searched for the words. Where no line
    says in which language its own name is, those names are the default, not the translations.
    """
    counts: Counter[str] = Counter()
    tagged = False
    # What is wrong is told by the pass that makes labels.
    with suppress(OSError, EOFError, zlib.error):
        if _names_languages(file):
            with file.open_bytes() as stream:
                for raw in stream:
                    tags = _tags(raw)
                    tagged = tagged or any(tags[:1])
                    counts.update(tags)
    if not any(counts):
        return Languages()
    return Languages.of(counts) if tagged else Languages(counts)


def _names_languages(file: TextFile) -> bool:
    overlap = max(map(len, _LANGUAGE_KEYS)) - 1
    before = b""
    with file.open_bytes() as stream:
        while chunk := stream.read(_CHUNK):
            text = before + chunk
            if any(key in text for key in _LANGUAGE_KEYS):
                return True
            before = text[-overlap:]
    return False


def _tags(raw: bytes) -> list[str]:
    """The language tag of each name in a line, its own first; none where it is malformed."""
    if not any(key in raw for key in _LANGUAGE_KEYS):
        return [""] if raw.strip() else []
    with suppress(ValueError, RecursionError, AttributeError):
        value = json.loads(raw)
        tags = [value.get("language") or ""]
        translations = value.get("translations") or {}
        tags += [tag for tag, texts in translations.items() if texts.get("name") is not None]
        return [tag.strip().lower() for tag in tags]
    return []


def _concept(file: TextFile, value: dict[str, object], line: int) -> Concept:
    key = "name" if value.get("name") is not None else "label"
    if value.get(key) is None:
        found = ", ".join(map(repr, value)) or "nothing"
        raise file.failure(f'no "name" (or "label"): add it; found: {found}', line)
    name = file.string(value[key], f'"{key}"', line).strip()
    id_ = value.get("id")
    if id_ is not None:
        id_ = file.identifier(id_, '"id"', line).strip()
    language = value.get("language")
    tag = "" if language is None else file.string(language, '"language"', line).strip().lower()
    names = [(tag, name)]
    texts = {field: _texts(file, value, key, tag, line) for key, field in _TEXTS.items()}
    for tag, translated in _translations(file, value, line):
        if translated.get("name") is not None:
            names.append((tag, file.string(translated["name"], '"name"', line).strip()))
        for key, field in _TEXTS.items():
            texts[field] += _texts(file, translated, key, tag, line)
    return Concept(
        id=name if id_ is None else id_,
        names=tuple(names),
        parents=file.identifiers(value.get("parents"), '"parents"', line),
        notations=file.identifiers(value.get("notations"), '"notations"', line),
        line=line,
        **texts,
    )


def _texts(
    file: TextFile, value: dict[str, object], key: str, tag: str, line: int
) -> tuple[Tagged, ...]:
    content = value.get(key)
    if key.endswith("names"):
        return tuple((tag, text) for text in file.identifiers(content, f'"{key}"', line))
    if content is None:
        return ()
    text = file.string(content, f'"{key}"', line).strip()
    return ((tag, text),) if text else ()


def _translations(
    file: TextFile, value: dict[str, object], line: int
) -> Iterator[tuple[str, dict[str, object]]]:
    translations = value.get("translations")
    if translations is None:
        return
    if not isinstance(translations, dict) or not all(
        isinstance(texts, dict) for texts in translations.values()
    ):
        raise file.failure('"translations" must be like {"fi": {"name": …}}', line)
    for tag, texts in translations.items():
        yield file.string(tag, 'a language of "translations"', line).lower(), texts


def concept_to_json(concept: Concept) -> str:
    """Write a concept as a line of JSON, without the line's end.

    The keys of a label hold its first name and the texts in that name's language; "language" says
    which, "translations" holds the others. Several definitions in a language become one text.
    """
    tags = dict.fromkeys(tag for tag, _ in concept.names)
    for field in _TEXTS.values():
        tags |= dict.fromkeys(tag for tag, _ in getattr(concept, field))
    first, *others = tags
    row: dict[str, object] = {"id": concept.id, **_row(concept, first)}
    if concept.parents:
        row["parents"] = concept.parents
    if concept.notations:
        row["notations"] = concept.notations
    if first:
        row["language"] = first
    if others:
        row["translations"] = {tag: _row(concept, tag) for tag in others}
    return json.dumps(row, ensure_ascii=False).translate(_ESCAPES)


def _row(concept: Concept, tag: str) -> dict[str, object]:
    row: dict[str, object] = {}
    for spoken, name in concept.names:
        if spoken == tag:
            row["name"] = name
    for key, field in _TEXTS.items():
        texts = [text for spoken, text in getattr(concept, field) if spoken == tag]
        if texts:
            row[key] = texts if key.endswith("names") else "\n\n".join(texts)
    return row
