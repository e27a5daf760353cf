"""Applies a model's generation settings to an engine's logits, with transformers' own logits processors.

Each prompt has its own processors. They see the ids that transformers' ``generate`` would pass them for this prompt
alone (5.10 to 5.17), so that a batch changes no answer. Order and arguments are those of
``GenerationMixin._get_logits_processor``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmbuild.models.errors import EngineError

Seen = Literal["ids", "ids and embeddings", "embeddings", "decoder ids"]


@dataclass(frozen=True, slots=True)
class LogitsRules:
    """Settings of a model, and what their processors see of prompts.

    Attributes:
        fields: Fields of ``generation_config.json`` that change something, checked
            (:mod:`mmbuild.models.generation_settings`).
        seen: What ``generate`` gets of a prompt: its ids, ids and embeddings, embeddings alone, or the first ids of a
            decoder.
        vocab_size: Logits of a step. Larger ids of a prompt are rows of the prompt table.
        image_token_id: What transformers has in place of such a row.
        start_token_id: First token of an encoder-decoder's answer, which is not part of it.
        tokenizer: transformers'; read for ``stop_strings`` alone.
    """

    fields: Mapping[str, Any]
    seen: Seen
    vocab_size: int
    image_token_id: int | None = None
    start_token_id: int | None = None
    tokenizer: Any = None

    def context(self, prompt: Sequence[int]) -> list[int]:
        """The ids that stand before an answer's, of a prompt as :meth:`Session.prefill` takes it."""
        if self.seen == "embeddings":
            return []
        if self.seen == "decoder ids":
            return [] if self.start_token_id is None else [self.start_token_id]
        ids = [self.image_token_id if token >= self.vocab_size else token for token in prompt]
        # Ids without a logit: transformers' processors fail on them.
        return [token for token in ids if token is not None and 0 <= token < self.vocab_size]

    @property
    def accepts_infinity(self) -> bool:
        """Whether logits that are infinite or NaN are replaced."""
        return bool(self.fields.get("remove_invalid_values"))


@dataclass(frozen=True, slots=True)
class _Situation:
    """What processors of one prompt are made with.

    Attributes:
        fields: As in :class:`LogitsRules`.
        length: Ids before the answer.
        max_length: Ids with the longest answer.
        hidden: Tokens of the prompt that are no ids, but count in ``min_length``.
        ends: End tokens, int64 [n]; empty where there are none.
        encoder_ids: int64 [1, prompt], where transformers takes the prompt's ids for an encoder's.
        device: Of the logits.
    """

    fields: Mapping[str, Any]
    length: int
    max_length: int
    hidden: int
    ends: Tensor
    encoder_ids: Tensor | None
    device: str


class SequenceRules:
    """The rules of one prompt's answers."""

    def __init__(
        self,
        rules: LogitsRules,
        prompt: Sequence[int],
        ends: Sequence[int],
        new_tokens: int,
        device: str,
        criterion: Any = None,
    ) -> None:
        """``prompt``: as :meth:`Session.prefill` takes it; ``new_tokens``: at most that many follow; ``criterion``:
        transformers' for stop strings."""
        self._context, self._device = rules.context(prompt), device
        length = len(self._context)
        situation = _Situation(
            fields=rules.fields,
            length=length,
            max_length=length + new_tokens,
            hidden=len(prompt) if rules.seen == "embeddings" else 0,
            ends=torch.tensor(list(ends), dtype=torch.int64, device=device),
            encoder_ids=self._ids([[]]) if rules.seen == "ids" else None,
            device=device,
        )
        self._processors = _processors(situation)
        self._criterion = criterion

    def shaped(self, answers: Sequence[Sequence[int]], scores: Tensor) -> Tensor:
        """Scores of the next token, float32 [n, vocab], after the new tokens of n ``answers`` -> the same, changed.

        Raises:
            EngineError: MM727, a processor of transformers failed.
        """
        ids = self._ids(answers)
        for name, processor in self._processors:
            try:
                scores = processor(ids, scores)
            except (ValueError, IndexError, RuntimeError, OverflowError, TypeError) as error:
                raise EngineError(
                    f"the model's generation setting `{name}` cannot be applied: {error}",
                    code="MM727",
                    hint="correct generation_config.json and apply the recipe again, or ask with "
                    "--ignore-generation-config",
                ) from error
        return scores

    def stopped(self, answers: Sequence[Sequence[int]]) -> list[bool]:
        """Which of n ``answers`` end with a stop string."""
        if self._criterion is None:
            return [False] * len(answers)
        found: list[bool] = self._criterion(self._ids(answers), None).tolist()
        return found

    def _ids(self, answers: Sequence[Sequence[int]]) -> Tensor:
        rows = [[*self._context, *answer] for answer in answers]
        return torch.tensor(rows, dtype=torch.int64, device=self._device)


def rules_of(
    rules: LogitsRules | None,
    prompts: Sequence[Sequence[int]],
    ends: Sequence[int],
    new_tokens: int,
    device: str,
) -> list[SequenceRules]:
    """Rules of each prompt; none where the model has no settings that change anything.

    Raises:
        EngineError: MM726, the tokenizer has no tokens for a stop string.
    """
    if rules is None or not rules.fields:
        return []
    criterion = _stop_strings(rules)
    return [SequenceRules(rules, prompt, ends, new_tokens, device, criterion) for prompt in prompts]


Build = Callable[[Any, Any, _Situation], Any]


def _processors(situation: _Situation) -> list[tuple[str, Any]]:
    from transformers.generation import logits_process

    made = [
        (name, build(logits_process, situation.fields[name], situation))
        for name, build in _BUILDERS.items()
        if name in situation.fields
    ]
    return [(name, processor) for name, processor in made if processor is not None]


def _encoder_penalty(made: Any, value: float, given: _Situation) -> Any:
    if given.encoder_ids is None:
        return None
    return made.EncoderRepetitionPenaltyLogitsProcessor(value, given.encoder_ids)


def _encoder_ngrams(made: Any, value: int, given: _Situation) -> Any:
    if given.encoder_ids is None:
        return None
    return made.EncoderNoRepeatNGramLogitsProcessor(value, given.encoder_ids)


def _bad_words(made: Any, value: Any, given: _Situation) -> Any:
    return made.NoBadWordsLogitsProcessor(value, given.ends if len(given.ends) else None)


def _min_length(made: Any, value: int, given: _Situation) -> Any:
    if not len(given.ends) or "min_new_tokens" in given.fields:
        return None
    return made.MinLengthLogitsProcessor(max(value - given.hidden, 0), given.ends, device=given.device)


def _min_new_tokens(made: Any, value: int, given: _Situation) -> Any:
    if not len(given.ends):
        return None
    return made.MinNewTokensLengthLogitsProcessor(given.length, value, given.ends, device=given.device)


def _forced_eos(made: Any, value: Any, given: _Situation) -> Any:
    return made.ForcedEOSTokenLogitsProcessor(given.max_length, value, device=given.device)


def _decay(made: Any, value: Any, given: _Situation) -> Any:
    if not len(given.ends):
        return None
    return made.ExponentialDecayLengthPenalty(tuple(value), given.ends, given.length)


def _begin_suppress(made: Any, value: Any, given: _Situation) -> Any:
    first = given.length > 1 or "forced_bos_token_id" not in given.fields
    begin = given.length if first else given.length + 1
    return made.SuppressTokensAtBeginLogitsProcessor(value, begin, device=given.device)


# In the order in which transformers applies them.
_BUILDERS: Mapping[str, Build] = {
    "sequence_bias": lambda made, value, _: made.SequenceBiasLogitsProcessor(value),
    "encoder_repetition_penalty": _encoder_penalty,
    "repetition_penalty": lambda made, value, _: made.RepetitionPenaltyLogitsProcessor(value),
    "no_repeat_ngram_size": lambda made, value, _: made.NoRepeatNGramLogitsProcessor(value),
    "encoder_no_repeat_ngram_size": _encoder_ngrams,
    "bad_words_ids": _bad_words,
    "min_length": _min_length,
    "min_new_tokens": _min_new_tokens,
    "forced_bos_token_id": lambda made, value, _: made.ForcedBOSTokenLogitsProcessor(value),
    "forced_eos_token_id": _forced_eos,
    "remove_invalid_values": lambda made, *_: made.InfNanRemoveLogitsProcessor(),
    "exponential_decay_length_penalty": _decay,
    "suppress_tokens": lambda made, value, given: made.SuppressTokensLogitsProcessor(
        value, device=given.device
    ),
    "begin_suppress_tokens": _begin_suppress,
    "renormalize_logits": lambda made, *_: made.LogitNormalization(),
}


def _stop_strings(rules: LogitsRules) -> Any:
    strings = rules.fields.get("stop_strings")
    if strings is None:
        return None
    from transformers import StopStringCriteria

    try:
        return StopStringCriteria(rules.tokenizer, strings)
    except ValueError as error:
        raise EngineError(
            f"the model's generation setting `stop_strings` is {strings!r}, and its tokenizer has no tokens for that",
            code="MM726",
            hint="correct generation_config.json and apply the recipe again, or ask with --ignore-generation-config",
        ) from error
