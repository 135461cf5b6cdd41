"""`Concept`: one entry of a vocabulary in all its languages, and `Label`s made of concepts.

In: what the readers found. Out: a `Label` in the language that was asked for. Language tags are
those of BCP 47; "" is a text without a language.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from irr.types import Label
from irr.vocabularies.problems import Problems

__all__ = [
    "Concept",
    "Languages",
    "Tagged",
    "choose_language",
    "concept_of",
    "labels_of",
    "languages_to_try",
    "matches",
    "usual_case",
]

Tagged = tuple[str, str]
"""A language tag in lower case ("" for none), and a text."""


class Languages(NamedTuple):
    """The number of names of each tag, nothing where none has one, and the default range."""

    counts: Mapping[str, int] = {}
    default: str = ""

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Languages:
        """Choose the default by the counts, see `choose_language`."""
        return cls(counts, choose_language(counts))


class Concept(NamedTuple):
    """One entry, as its file has it.

    `hidden_names` are for finding only (misspellings); `parents` are ids of broader concepts;
    `line` is where it begins in its file, where known.
    """

    id: str
    names: tuple[Tagged, ...]
    alternative_names: tuple[Tagged, ...] = ()
    hidden_names: tuple[Tagged, ...] = ()
    definitions: tuple[Tagged, ...] = ()
    scope_notes: tuple[Tagged, ...] = ()
    parents: tuple[str, ...] = ()
    notations: tuple[str, ...] = ()
    line: int | None = None

    def label(self, languages: Sequence[str] = ()) -> tuple[str, Label]:
        """Make the label, and tell the language of its name.

        The name is in the first of `languages` that has one, else the first name. Other names are
        in the first of `languages`, in that of the name, or in none. The description is the
        definition, else the scope note, in any language if need be. There must be a name.
        """
        if not languages and len(self.names) == 1 and not self.names[0][0]:
            return "", self._plain_label()
        languages = tuple(languages)
        language, name = _best(self.names, languages)
        wanted = (*languages[:1], language)
        others = {
            text: None
            for texts in (self.names, self.alternative_names, self.hidden_names)
            for tag, text in texts
            if _speaks(tag, wanted)
        }
        others.pop(name, None)
        notes = self.definitions or self.scope_notes
        description = _best(notes, (*wanted, *languages))[1] if notes else ""
        return language, Label(self.id, name, tuple(others), description, self.parents)

    def _plain_label(self) -> Label:
        """Without languages nothing needs choosing; texts stay as the file has them."""
        others = tuple(text for _, text in (*self.alternative_names, *self.hidden_names))
        notes = self.definitions or self.scope_notes
        description = notes[0][1] if notes else ""
        return Label(self.id, self.names[0][1], others, description, self.parents)


def concept_of(label: Label, language: str = "") -> Concept:
    """Make the concept of a label whose texts are all in `language`."""
    return Concept(
        id=label.id,
        names=((language, label.name),),
        alternative_names=tuple((language, name) for name in label.alternative_names),
        definitions=((language, label.description),) if label.description else (),
        parents=label.parents,
    )


def matches(tag: str, wanted: str) -> bool:
    """Tell whether a language tag is in a language range (RFC 4647, basic filtering).

    >>> matches("en-gb", "en"), matches("en", "en-GB"), matches("eng", "en")
    (True, False, False)
    """
    wanted = wanted.lower()
    return tag == wanted or (bool(wanted) and tag.startswith(wanted + "-"))


def usual_case(tag: str) -> str:
    """Write a tag as is usual (RFC 5646, 2.1.1).

    >>> usual_case("zh-hant-tw"), usual_case("en-gb"), usual_case("de-1996"), usual_case("")
    ('zh-Hant-TW', 'en-GB', 'de-1996', '')
    """
    first, *others = tag.split("-")
    cased = [first.lower()]
    for subtag in others:
        # Whatever follows a singleton is an extension, in lower case.
        extended = any(len(before) == 1 for before in cased)
        change = None if extended else {2: str.upper, 4: str.title}.get(len(subtag))
        cased.append(change(subtag) if change else subtag.lower())
    return "-".join(cased)


def choose_language(counts: Mapping[str, int]) -> str:
    """Choose a language from the number of names in each: English, else the most frequent.

    >>> choose_language({"fi": 9, "sv": 8, "en-gb": 7, "": 10})
    'en'
    >>> choose_language({"fi": 9, "sv-fi": 6, "sv": 8, "": 10}), choose_language({"": 4})
    ('sv', '')
    """
    primary: dict[str, int] = {}
    for tag, count in counts.items():
        subtag = tag.partition("-")[0]
        primary[subtag] = primary.get(subtag, 0) + count
    if primary.get("en"):
        return "en"
    primary.pop("", None)
    return max(primary, key=lambda tag: primary[tag], default="")


def languages_to_try(wanted: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Order the languages that a name may be in: the wanted, its wider form, none, the others.

    >>> languages_to_try("pt-BR", {"en": 3, "pt": 2, "fr": 9})
    ('pt-br', 'pt', '', 'fr', 'en')
    """
    wanted = wanted.lower()
    others = sorted(counts, key=lambda tag: (-counts[tag], tag))
    return tuple(dict.fromkeys((wanted, wanted.partition("-")[0], "", *others)))


def labels_of(
    concepts: Iterable[Concept], languages: Sequence[str], problems: Problems
) -> Iterator[tuple[Concept, Label]]:
    """Make the label of each concept; names in another language than wanted are counted."""
    parents: dict[str, str] = {}
    for concept in concepts:
        language, label = concept.label(languages)
        if languages and language and not matches(language, languages[0]):
            kind = f"labels without a name in {languages[0]!r} have one in {language!r}"
            problems.count(kind, label.name, concept.line)
        if label.parents:
            # A parent of many labels is one string in memory, not many.
            shared = tuple(parents.setdefault(parent, parent) for parent in label.parents)
            label = Label(label.id, label.name, label.alternative_names, label.description, shared)
        yield concept, label


def _best(texts: Sequence[Tagged], languages: tuple[str, ...]) -> Tagged:
    """The text in the first language that has one, else the first text."""
    if len(texts) == 1:
        return texts[0]
    return min(texts, key=lambda text: _rank(text[0], languages))


@lru_cache(maxsize=4096)
def _rank(tag: str, languages: tuple[str, ...]) -> int:
    """The place of a tag among languages, the language itself before its variants."""
    for place, language in enumerate(languages):
        if matches(tag, language):
            return 2 * place + (tag != language.lower())
    return 2 * len(languages)


@lru_cache(maxsize=4096)
def _speaks(tag: str, wanted: tuple[str, ...]) -> bool:
    return not tag or any(matches(tag, language) for language in wanted)
