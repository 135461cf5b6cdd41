"""MeSH descriptors (``desc2026.xml``) → `Concept`s.

In: the XML of the National Library of Medicine. Out: a concept a descriptor: its name, the terms
of all its concepts as alternative names, the scope note of the preferred one, tree numbers as
notations; parents are the descriptors one step up in the trees.

Source: MeSH XML data elements (https://www.nlm.nih.gov/mesh/xml_data_elements.html).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from irr.files import TextFile
from irr.vocabularies.concept import Concept
from irr.vocabularies.problems import Problems
from irr.vocabularies.xml_elements import read_elements, text_of, texts_of

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["read_mesh"]

_ROOT = "DescriptorRecordSet"
_RECORD = "DescriptorRecord"
# MeSH has the bibliographic codes of ISO 639-2, BCP 47 the shortest there are.
_LANGUAGES = {
    "chi": "zh", "cze": "cs", "dut": "nl", "eng": "en", "fin": "fi", "fre": "fr", "ger": "de",
    "hrv": "hr", "ita": "it", "jpn": "ja", "lav": "lv", "nor": "no", "pol": "pl", "por": "pt",
    "rus": "ru", "scr": "hr", "slv": "sl", "spa": "es", "swe": "sv",
}  # fmt: skip
_SCOPE_NOTE = "ConceptList/Concept[@PreferredConceptYN='Y']/ScopeNote"


def read_mesh(file: TextFile, problems: Problems) -> Iterator[Concept]:
    """Read the descriptors in the order of the file; one without a UI or name is reported."""
    concepts: list[Concept] = []
    root = None
    for event, element in read_elements(file, _ROOT, problems):
        if root is None:
            root = element
            code = root.get("LanguageCode", "eng")
            language = _LANGUAGES.get(code, code)
        elif event == "end" and element.tag == _RECORD:
            concepts += _descriptor(element, language, len(concepts) + 1, problems)
            root.clear()
    # Parents may follow their children, so their ids are known at the end only.
    owners = {number: concept.id for concept in concepts for number in concept.notations}
    for concept in concepts:
        above = [owners.get(number.rpartition(".")[0]) for number in concept.notations]
        parents = dict.fromkeys(id_ for id_ in above if id_ and id_ != concept.id)
        yield concept._replace(parents=tuple(parents))


def _descriptor(
    record: Element, language: str, number: int, problems: Problems
) -> Iterator[Concept]:
    id_, name = text_of(record, "DescriptorUI"), text_of(record, "DescriptorName/String")
    if not id_ or not name:
        missing = "DescriptorName" if id_ else "DescriptorUI"
        problems.error(f"{_RECORD} {number} ({id_ or name or 'empty'}) has no {missing}: add it")
        return
    terms = dict.fromkeys(texts_of(record, "ConceptList/Concept/TermList/Term/String"))
    terms.pop(name, None)
    note = text_of(record, _SCOPE_NOTE)
    yield Concept(
        id=id_,
        names=((language, name),),
        alternative_names=tuple((language, term) for term in terms),
        scope_notes=((language, note),) if note else (),
        notations=tuple(texts_of(record, "TreeNumberList/TreeNumber")),
    )
