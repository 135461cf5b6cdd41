"""Retrieve: a text's phrases and an LM's guesses → the labels most like them, best first.

In: queries. Out: candidates, the labels with the best scores. c(q, l) is the cosine of query q and
the nearest of what label l has: its name, its alternative names less `alternative_handicap`, its
description less `description_handicap`. H(·) is the mean of a query's or a label's ten highest
cosines with (other) labels, relative to the mean over all labels. The score of label l:

1. Vague queries count less:     c'(q, l) = c(q, l) − vague_weight · H(q)
2. Phrases are pooled softly:    P(l) = τ · log mean_q exp(c'(q, l) / τ)
3. Each clause has its turn:     P(l) += clause_weight · max_k (best'_k(l) − max_m best'_k(m)),
                                 best'_k(l) = max over the queries q of clause k of c' − hub
4. A clause may be one term:     P(l) += whole_weight · max(0, max_k c'(w_k, l) − P(l)),
                                 w_k the longest query of clause k
5. Guesses by maximum:           G(l) = max over guesses of c'
6. Wording counts too:           P(l) += lexical_weight · X(text, l) + exact_weight · N(text, l),
                                 G(l) likewise, of the guess with the most
7. The average of P and G by their weights.
8. Hubs, labels that are near to everything, lose hub_weight · H(l).

X is how well the wording of a label matches a text's, from 0 to 1 for the best label
(`irr.lexical`); N is 1 where a text holds a name of the label, or a guess is one, else 0
(`irr.mentions`). Both are left out unless their weights are above 0.

Of an approximate index (`irr.index`) the labels are those it has in sight of the queries, and those
that step 6 finds; their scores, and the averages that these are relative to, come about in the same
way.

Without step 3 a label that one phrase names loses to labels that many phrases graze. Corrections
are zero for average queries and labels, so scores stay about cosines.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from irr.errors import ConfigurationError
from irr.index import LabelIndex
from irr.phrases import Phrases
from irr.pooling import apply_prior, clause_margin, log_mean_exp_pool
from irr.recent import RecentVectors
from irr.types import Candidate
from irr.vectors import NEIGHBOURS, Floats, Positions, mean_of_highest, top_k

if TYPE_CHECKING:
    from irr.encoder import Encoder
    from irr.labels import LabelSet

__all__ = [
    "Compared",
    "Mask",
    "RetrieveSettings",
    "Retriever",
]

Mask: TypeAlias = npt.NDArray[np.bool_]
T = TypeVar("T", bound=Hashable)

# Vectors of queries kept for texts to come: 30 MB at 384 dimensions, and their texts.
REMEMBERED = 20_000
# A label is credited to a whole text only if no part of it comes as near as this.
WHOLE_TEXT_HANDICAP = 0.05
# Of settings: more is a mistake, and would not fit the arithmetic.
LARGEST = 1_000_000
# Of scores that differ by less than this only the order of summation could tell the order.
DECIMALS = 6
# In place of a clause's number.
_WHOLE, _GUESS = -1, -2


@dataclass(frozen=True, slots=True)
class RetrieveSettings:
    """How queries are pooled, see `irr.retrieve`.

    The defaults lie within a plateau of the ESCO validation sets and of notes made of ICD-10-CM
    terms, with all-MiniLM-L6-v2; neighbouring values do as well.

    Args:
        candidates: how many labels come out, 1 or more.
        temperature: τ of step 2, above 0: towards 0 the nearest query alone decides.
        vague_weight, clause_weight, hub_weight: of steps 1, 3 and 8; 0 leaves the step out.
        whole_weight: of step 4, at most 1. For texts that list terms, such as diagnoses; 0 for
            running text.
        guess_weight, phrase_weight: of step 7, not both 0. A text without guesses or without
            phrases is scored by the others alone.
        lexical_weight, exact_weight: of step 6; 0 leaves the signal out.
        alternative_handicap, description_handicap: taken off the cosines of alternative names and
            of descriptions; 0 takes them as names, 2 or more leaves them out.
        prior_strength: A of `irr.pooling.apply_prior`; 0 leaves priors out.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    candidates: int = 100
    temperature: float = 0.11
    vague_weight: float = 0.45
    clause_weight: float = 0.15
    hub_weight: float = 0.3
    whole_weight: float = 0.0
    guess_weight: float = 1.0
    phrase_weight: float = 1.0
    lexical_weight: float = 0.0
    exact_weight: float = 0.0
    alternative_handicap: float = 0.0
    description_handicap: float = 0.0
    prior_strength: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigurationError(f"{field.name} must be a number, not {value!r}")
            if not 0 <= value <= LARGEST:
                message = f"{field.name} must be 0 or more, and {LARGEST:,} at most, not {value}"
                raise ConfigurationError(message)
        if not isinstance(self.candidates, int) or self.candidates < 1:
            message = f"candidates must be a whole number from 1, not {self.candidates}"
            raise ConfigurationError(message)
        if self.temperature < 1e-3:
            raise ConfigurationError(f"temperature must be at least 0.001, not {self.temperature}")
        if self.whole_weight > 1:
            raise ConfigurationError(f"whole_weight must be 1 at most, not {self.whole_weight}")
        if self.guess_weight + self.phrase_weight == 0:
            raise ConfigurationError("guess_weight and phrase_weight must not both be 0")


class Retriever:
    """The labels of an index for the queries of texts. May be used from several threads.

    Memory: 8 bytes for each pair of a query of one text and a label that is compared with it.

    Args:
        encoder: the one that the index was built with.
        labels: those of the index; may be None where the settings leave out step 6.
        priors: (labels,) how often each label occurs, 0 or more, or None.

    Raises:
        ConfigurationError: encoder, index, labels and priors do not belong together.
    """

    def __init__(
        self,
        encoder: Encoder,
        index: LabelIndex,
        settings: RetrieveSettings | None = None,
        *,
        labels: LabelSet | None = None,
        priors: npt.ArrayLike | None = None,
    ) -> None:
        if index.encoder and index.encoder != encoder.fingerprint:
            message = f"the index was not built with the encoder {encoder.name}"
            raise ConfigurationError(f"{message}: build it again, or load the encoder it names")
        if labels is not None and len(labels) != len(index):
            raise ConfigurationError(f"the index has {len(index)} labels, not {len(labels)}")
        self.encoder = encoder
        self.index = index
        self.labels = labels
        self.priors = None if priors is None else np.asarray(priors, dtype=np.float32)
        if self.priors is not None and (
            self.priors.shape != (len(index),)
            or not (np.isfinite(self.priors) & (self.priors >= 0)).all()
        ):
            raise ConfigurationError(f"priors must be {len(index)} numbers from 0, one a label")
        self._mean_hub = float(index.hubs.mean())
        self._remembered = RecentVectors()
        self._set(settings or RetrieveSettings())

    def _set(self, settings: RetrieveSettings) -> None:
        self.settings = settings
        self._hub_terms = settings.hub_weight * (self.index.hubs - self._mean_hub)
        handicaps = settings.alternative_handicap, settings.description_handicap
        self._handicaps = self.index.handicaps_of(*handicaps)
        if (settings.lexical_weight or settings.exact_weight) and self.labels is None:
            raise ConfigurationError("lexical and exact matching need the labels themselves")

    def prepare(self) -> None:
        """Make now what the first text would wait for.

        Raises:
            ConfigurationError: the settings ask for lexical matching, and its package is missing.
        """
        if self.labels is not None:
            _ = self.settings.lexical_weight and self.labels.lexical
            _ = self.settings.exact_weight and self.labels.mentions

    def with_settings(self, settings: RetrieveSettings, priors: Floats | None = None) -> Retriever:
        """The same labels and query vectors, pooled by other settings, and with other priors."""
        other = copy.copy(self)
        other.priors = self.priors if priors is None else priors
        other._set(settings)
        return other

    def retrieve(self, phrases: Phrases | None, guesses: Sequence[str] = ()) -> list[Candidate]:
        """Find the candidates of one text, best first, of equal scores the lower position first.

        Args:
            phrases: the text's own queries, or None.
            guesses: an LM's; blank ones are left out, order and repeats do not matter.

        Returns:
            `candidates` of them, or as many as there are labels; none without any query.
        """
        (found,) = self.retrieve_many([(phrases, guesses)])
        return found

    def retrieve_many(
        self,
        documents: Sequence[tuple[Phrases | None, Sequence[str]]],
        allowed: Sequence[Mask | None] | None = None,
    ) -> list[list[Candidate]]:
        """Do `retrieve` for each (phrases, guesses), with all their queries encoded together.

        Args:
            allowed: for each document (labels,) bool, False for labels that must not come out, or
                None for all; the others come out as they would without it. None for all of all.
        """
        queries = [_queries(phrases, guesses) for phrases, guesses in documents]
        vectors = self._encode(dict.fromkeys(text for query in queries for text in query.texts))
        masks = [None] * len(documents) if allowed is None else allowed
        return [
            self.candidates(_compared(query, vectors, keep=False), mask)
            for query, mask in zip(queries, masks, strict=True)
        ]

    def compare(self, phrases: Phrases | None, guesses: Sequence[str] = ()) -> Compared:
        """Embed the queries of one text, for `candidates` by several settings."""
        query = _queries(phrases, guesses)
        vectors = self._encode(dict.fromkeys(query.texts))
        return _compared(query, vectors, keep=True)

    def candidates(self, compared: Compared, allowed: Mask | None = None) -> list[Candidate]:
        """Do the rest of `retrieve`: what does not depend on the settings is done once."""
        query = compared.query
        if not query.texts:
            return []
        wording = self._wording(compared)
        positions, cosines = self._near(compared, self.settings.candidates, wording)
        if allowed is not None and self.index.approximate:
            wanted = min(self.settings.candidates, int(np.count_nonzero(allowed)))
            if np.count_nonzero(allowed[positions]) < wanted:
                positions, cosines = self._near(compared, len(self.index), wording)
        scores = self._scores(cosines, query, positions, wording)
        if allowed is None:
            best = top_k(scores, self.settings.candidates)
        else:
            places = np.flatnonzero(allowed[positions])
            best = places[top_k(scores[places], self.settings.candidates)]
        handicap = np.where(query.clauses == _WHOLE, WHOLE_TEXT_HANDICAP, 0)[:, None]
        nearest = (cosines[:, best] - handicap).argmax(axis=0)
        # As Python's own numbers all at once: one by one they take a tenth of the time here.
        found = zip(positions[best].tolist(), scores[best].tolist(), nearest.tolist(), strict=True)
        return [Candidate(position, score, query.texts[text]) for position, score, text in found]

    def _near(
        self, compared: Compared, least: int, wording: Sequence[Floats | None]
    ) -> tuple[Positions, Floats]:
        """The labels to score, and the cosines of each query with them."""
        if self.index.approximate:
            found = [top_k(part, self.settings.candidates) for part in wording if part is not None]
            also = np.unique(np.concatenate(found)) if found else None
            return self.index.near(compared.units, least, self._handicaps, also)
        key = self.settings.alternative_handicap, self.settings.description_handicap
        cosines: Floats = compared.once(
            "cosines", key, lambda _: self.index.scores(compared.units, self._handicaps)
        )
        return np.arange(len(self.index)), cosines

    def _wording(self, compared: Compared) -> tuple[Floats | None, Floats | None]:
        """What step 6 adds to the guesses and to the phrases: (labels,), None for nothing."""
        if not (self.settings.lexical_weight or self.settings.exact_weight):
            return None, None
        query = compared.query
        of_guesses = None
        for guess in query.guesses:
            found = self._matches(guess, compared, whole=True)
            of_guesses = found if of_guesses is None else np.maximum(of_guesses, found)
        of_text = self._matches(query.text, compared, whole=False) if query.text else None
        return of_guesses, of_text

    def _matches(self, text: str, compared: Compared, *, whole: bool) -> Floats:
        """How well the wording of each label matches a text; `whole` as a name of its own."""
        assert self.labels is not None
        matches = np.zeros(len(self.index), np.float32)
        if self.settings.lexical_weight:
            weight = np.float32(self.settings.lexical_weight)
            matches += weight * compared.once("lexical", text, self.labels.lexical.scores)
        if self.settings.exact_weight:
            find = self.labels.mentions.equal if whole else self.labels.mentions.within
            named = compared.once("equal" if whole else "within", text, find)
            matches[named] += np.float32(self.settings.exact_weight)
        return matches

    def _scores(
        self,
        cosines: Floats,
        query: _Queries,
        positions: Positions,
        wording: tuple[Floats | None, Floats | None],
    ) -> npt.NDArray[np.float64]:
        """Take steps 1 to 8 and apply the prior: (n,), rounded, for the labels at `positions`."""
        settings = self.settings
        hub_terms = self._hub_terms[positions]
        shift = settings.vague_weight * (mean_of_highest(cosines, NEIGHBOURS) - self._mean_hub)
        clear = cosines - shift[:, None]
        guesses = len(query.guesses)
        worded = [None if part is None else part[positions] for part in wording]
        parts: list[tuple[float, Floats]] = []
        if guesses:
            pooled_guesses: Floats = clear[:guesses].max(axis=0)
            parts.append((settings.guess_weight, _sum(pooled_guesses, worded[0])))
        if guesses < len(clear):
            pooled_phrases = self._pool_phrases(clear[guesses:], query, hub_terms)
            parts.append((settings.phrase_weight, _sum(pooled_phrases, worded[1])))
        # With one part only its weight, which may be 0, has nothing to weigh.
        total = sum(weight for weight, _ in parts) if len(parts) > 1 else 0
        pooled = sum(weight / total * part for weight, part in parts) if total else parts[0][1]
        scores = np.asarray(pooled - hub_terms, dtype=np.float64)
        if self.priors is not None and settings.prior_strength:
            scores = apply_prior(scores, self.priors[positions], settings.prior_strength)
        return np.round(scores, DECIMALS)

    def _pool_phrases(self, clear: Floats, query: _Queries, hub_terms: Floats) -> Floats:
        """Take steps 2 to 4: (n,)."""
        clauses = query.clauses[len(query.guesses) :]
        pooled = log_mean_exp_pool(clear, self.settings.temperature)
        if self.settings.clause_weight and clauses.max() >= 0:
            numbers = np.unique(clauses[clauses >= 0])
            best = [clear[clauses == clause].max(axis=0) for clause in numbers]
            margin = clause_margin(np.stack(best) - hub_terms)
            pooled += np.float32(self.settings.clause_weight) * margin
        if self.settings.whole_weight and clauses.max() >= 0:
            wholes = _longest(query.texts[len(query.guesses) :], clauses)
            above = np.maximum(0, clear[wholes].max(axis=0) - pooled)
            pooled += np.float32(self.settings.whole_weight) * above
        return pooled

    def _encode(self, texts: dict[str, None]) -> dict[str, Floats]:
        """Return the unit vector of each text; those embedded lately are remembered."""
        found = self._remembered.find(texts)
        missing = [text for text in texts if text not in found]
        if not missing:
            return found
        vectors = self.encoder.encode(missing, role="query")
        new = dict(zip(missing, vectors, strict=True))
        self._remembered.add(new, REMEMBERED)
        return found | new


class _Queries(NamedTuple):
    """The queries of one text: guesses, then phrases; the clause of each; and all of the text."""

    texts: list[str]
    clauses: npt.NDArray[np.int64]
    guesses: list[str]
    text: str


class Compared:
    """The queries of one text and their vectors; and what they have in common with the labels.

    Args:
        keep: remember that: much memory for each text, much time for each further setting.
    """

    def __init__(self, query: _Queries, units: Sequence[Floats], *, keep: bool) -> None:
        self.query = query
        self.units = np.array(units, np.float32)
        self._kept: dict[tuple[str, Hashable], Any] | None = {} if keep else None

    def once(self, what: str, of: T, find: Callable[[T], Any]) -> Any:
        """`find(of)`, the kept one where there is one."""
        if self._kept is None:
            return find(of)
        if (what, of) not in self._kept:
            self._kept[what, of] = find(of)
        return self._kept[what, of]


def _queries(phrases: Phrases | None, guesses: Sequence[str]) -> _Queries:
    clean = list(dict.fromkeys(text for guess in guesses if (text := guess.strip())))
    own = phrases or Phrases()
    clauses = np.array([_GUESS] * len(clean) + list(own.clauses), np.int64)
    return _Queries([*clean, *own.queries], clauses, clean, own.text)


def _compared(query: _Queries, vectors: dict[str, Floats], *, keep: bool) -> Compared:
    return Compared(query, [vectors[text] for text in query.texts], keep=keep)


def _longest(texts: Sequence[str], clauses: npt.NDArray[np.int64]) -> list[int]:
    """Where the longest query of each clause is."""
    found: dict[int, int] = {}
    for place, clause in enumerate(clauses.tolist()):
        known = found.get(clause)
        if clause >= 0 and (known is None or len(texts[place]) > len(texts[known])):
            found[clause] = place
    return list(found.values())


def _sum(part: Floats, more: Floats | None) -> Floats:
    return part if more is None else part + more
