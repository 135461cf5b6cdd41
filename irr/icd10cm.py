"""ICD-10-CM as a label set, from the package ``simple_icd_10_cm``: no file, no download.

In: the package's codes. Out: a `LabelSet` of the categories and subcategories of up to five
characters. Longer codes add the side, the encounter and the like, and share their names.
"""

from __future__ import annotations

from irr.errors import ConfigurationError
from irr.labels import ICD10CM, LabelSet
from irr.types import Label
from irr.vocabularies.icd10cm import other_names

__all__ = ["read_icd10cm"]

MOST_CHARACTERS = 5


def read_icd10cm() -> LabelSet:
    """The codes with their names.

    The id is the code with its dot, the name its description. Alternative names are its inclusion
    terms and includes notes, and each name without the words in parentheses and brackets, which
    may be absent from a diagnosis without changing its code (ICD-10-CM Official Guidelines for
    Coding and Reporting, section I.A.7): hypertension for "hypertension (arterial) (benign)".

    Loading the package takes two seconds.

    Raises:
        ConfigurationError: the package is not installed.
    """
    try:
        import simple_icd_10_cm as icd
    except ImportError as error:
        message = f'the label set {ICD10CM} needs a package: pip install "irr[offline]"'
        raise ConfigurationError(message) from error
    # A block of one category bears the category's code, so the package lists that code twice.
    codes = dict.fromkeys(
        code
        for code in icd.get_all_codes()
        if icd.is_category_or_subcategory(code) and len(code.replace(".", "")) <= MOST_CHARACTERS
    )
    labels = []
    for code in codes:
        name = icd.get_description(code)
        terms = [*icd.get_inclusion_term(code), *icd.get_includes(code)]
        parent = icd.get_parent(code)
        if parent == code:  # Again a block of one category: what is broader is above the block.
            parent = icd.get_parent(code, prioritize_blocks=True)
        labels.append(Label(code, name, other_names(name, terms), parents=(parent,)))
    return LabelSet(labels, path=ICD10CM)
