"""Numbers in sentences: ``1 image has``, ``2 images have``. Nothing here imports a third party."""

import re
from typing import Final

_ES: Final = ("s", "x", "z", "ch", "sh")
_VOWELS: Final = "aeiou"
_FORMS: Final = re.compile(r"\[([^\[\]|]*)\|([^\[\]|]*)\]")


def count_noun(count: int, singular: str, plural: str | None = None) -> str:
    """The number with thousands separators, and the noun in the form that fits: ``1 image``, ``1,200 images``.

    Args:
        count: the number of things.
        singular: the noun for one thing.
        plural: the noun for several things; made by the usual rules of English if None.

    Returns:
        The number and the noun.
    """
    return f"{count:,} {singular if count == 1 else plural or pluralize(singular)}"


def count_part(part: int, whole: int, singular: str, plural: str | None = None) -> str:
    """The number of some things out of all: ``3 of 1,200 images``, ``1 of 1 image``.

    Args:
        part: the number of some things.
        whole: the number of all things.
        singular: the noun for one thing.
        plural: the noun for several things; made by the usual rules of English if None.

    Returns:
        The two numbers and the noun.
    """
    return f"{part:,} of {count_noun(whole, singular, plural)}"


def pluralize(noun: str) -> str:
    """The plural by the usual rules of English: ``images``, ``classes``, ``categories``."""
    if noun.endswith("y") and noun[-2:-1] not in _VOWELS:
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(_ES) and not noun.endswith("epoch") else f"{noun}s"


def verb_form(count: int, singular: str, plural: str) -> str:
    """The form of a verb or pronoun that fits the number: ``verb_form(1, "has", "have")`` is ``has``.

    Args:
        count: the number of things.
        singular: the form for one thing.
        plural: the form for several things.

    Returns:
        One of the two forms.
    """
    return singular if count == 1 else plural


def inflect(text: str, count: int) -> str:
    """The text with the forms that fit the number.

    ``[image has|images have] no size`` becomes ``image has no size`` for 1, and ``images have no size`` else.
    """
    return _FORMS.sub(lambda forms: forms[1 if count == 1 else 2], text)
