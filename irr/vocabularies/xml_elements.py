"""XML of other makers → elements as they begin and end; entities and external files are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from irr.files import TextFile
from irr.vocabularies.binary import import_extra, open_binary
from irr.vocabularies.problems import Problems

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["read_elements", "text_of", "texts_of"]


def read_elements(file: TextFile, root: str, problems: Problems) -> Iterator[tuple[str, Element]]:
    """Yield ("start" or "end", element) down the file, whose root must be named `root`.

    An element has its content at its end only. Clear it then, or the whole file stays in memory.
    """
    trees = import_extra("defusedxml.ElementTree", "XML")
    unsafe = import_extra("defusedxml.common", "XML").DefusedXmlException
    try:
        with open_binary(file, problems) as stream:
            for number, (event, element) in enumerate(
                trees.iterparse(stream, events=("start", "end"))
            ):
                if number == 0 and element.tag != root:
                    raise file.failure(f"has the root element {element.tag!r}, not {root!r}")
                yield event, element
    except trees.ParseError as error:
        line, _ = error.position
        problems.error(f"malformed XML ({error}): mend it, as the rest cannot be read", line)
    except unsafe as error:
        problems.error(f"XML that declares entities is not read ({error}): expand them")


def text_of(element: Element, path: str) -> str:
    """The text of the first element at `path` below, in one line; "" where there is none."""
    found = element.find(path)
    return "" if found is None else " ".join("".join(found.itertext()).split())


def texts_of(element: Element, path: str) -> list[str]:
    """The texts of all elements at `path` below, each in one line, without blank ones."""
    found = (" ".join("".join(each.itertext()).split()) for each in element.iterfind(path))
    return [text for text in found if text]
