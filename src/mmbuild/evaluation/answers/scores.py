"""Scores of one answer: exact match, normalized match and token F1.

The last two and the normalization are those of Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension
of Text" (EMNLP 2016), section 6.1. If several answers are accepted, the best score counts, as there.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalized(text: str) -> str:
    """``text`` in lower case, without ASCII punctuation and English articles, words separated by one space."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str, accepted: str) -> float:
    """1 if the texts are equal, except for white space at their ends; otherwise 0."""
    return float(answer.strip() == accepted.strip())


def normalized_match(answer: str, accepted: str) -> float:
    """1 if the normalized texts are equal, otherwise 0."""
    return float(normalized(answer) == normalized(accepted))


def token_f1(answer: str, accepted: str) -> float:
    """Harmonic mean of precision and recall of the words of ``answer``, both texts normalized, 0 to 1.

    A word counts as often as it occurs in both. If one of the texts has no words, the score is 1 if the other one has
    none either, otherwise 0, as in SQuAD 2.0 (Rajpurkar et al., 2018).
    """
    found, expected = normalized(answer).split(), normalized(accepted).split()
    if not found or not expected:
        return float(found == expected)
    common = (Counter(found) & Counter(expected)).total()
    return 2 * common / (len(found) + len(expected))


SCORES: Mapping[str, Callable[[str, str], float]] = MappingProxyType(
    {"exact": exact_match, "normalized": normalized_match, "f1": token_f1}
)
"""Name of a score -> the score of an answer and one accepted answer."""


def scores_of(answer: str, accepted: Sequence[str]) -> dict[str, float]:
    """Each of :data:`SCORES` for ``answer``: the best over the ``accepted`` answers, at least one."""
    return {name: max(score(answer, one) for one in accepted) for name, score in SCORES.items()}
