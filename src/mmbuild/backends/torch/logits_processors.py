"""Applies a model's generation settings to an engine's logits, with the logits processors of transformers.

Each prompt has its own processors. They get the ids that transformers' ``generate`` (5.10 to 5.17) would pass for
this prompt alone, so answers do not depend on the batch. Order and arguments follow
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
    """A model's generation settings, and how processors see prompts.

    Attributes:
        fields: Validated fields of ``generation_config.json`` that have an effect
            (:mod:`mmbuild.models.files.generation_settings`).
        seen: What ``generate`` gets for a prompt: its ids, ids and embeddings, only embeddings, or the first ids of a
            decoder.
        vocab_size: Number of logits. Larger ids in a prompt are rows of the prompt table.
        image_token_id: Id that transformers uses in place of such rows.
        start_token_id: Start token of an encoder-decoder's answer, which is not part of the answer.
        tokenizer: transformers' tokenizer; used only for ``stop_strings``.
    """

    fields: Mapping[str, Any]
    seen: Seen
    vocab_size: int
    image_token_id: int | None = None
    start_token_id: int | None = None
    tokenizer: Any = None

    def context(self, prompt: Sequence[int]) -> list[int]:
        """The ids that processors see before an answer; ``prompt`` as for :meth:`Session.prefill`."""
        if self.seen == "embeddings":
            return []
        if self.seen == "decoder ids":
            return [] if self.start_token_id is None else [self.start_token_id]
        ids = [self.image_token_id if token >= self.vocab_size else token for token in prompt]
        # transformers' processors fail on ids without a logit.
        return [token for token in ids if token is not None and 0 <= token < self.vocab_size]

    @property
    def accepts_infinity(self) -> bool:
        """Whether infinite and NaN logits are replaced."""
        return bool(self.fields.get("remove_invalid_values"))


@dataclass(frozen=True, slots=True)
class _PromptContext:
    """Parameters for building the processors of one prompt.

    Attributes:
        fields: As in :class:`LogitsRules`.
        length: Number of ids before the answer.
        max_length: Number of ids including the longest answer.
        hidden: Tokens of the prompt that are not ids, but count for ``min_length``.
        ends: End tokens, int64 [n]; may be empty.
        encoder_ids: int64 [1, prompt], if transformers treats the prompt's ids as an encoder's.
        device: Device of the logits.
    """

    fields: Mapping[str, Any]
    length: int
    max_length: int
    hidden: int
    ends: Tensor
    encoder_ids: Tensor | None
    device: str


class SequenceRules:
    """The rules for the answers to one prompt."""

    def __init__(
        self,
        rules: LogitsRules,
        prompt: Sequence[int],
        ends: Sequence[int],
        new_tokens: int,
        device: str,
        criterion: Any = None,
    ) -> None:
        """``prompt``: as for :meth:`Session.prefill`; ``new_tokens``: maximum number of new tokens; ``criterion``:
        transformers' criterion for stop strings."""
        self._context, self._device = rules.context(prompt), device
        length = len(self._context)
        context = _PromptContext(
            fields=rules.fields,
            length=length,
            max_length=length + new_tokens,
            hidden=len(prompt) if rules.seen == "embeddings" else 0,
            ends=torch.tensor(list(ends), dtype=torch.int64, device=device),
            encoder_ids=self._ids([[]]) if rules.seen == "ids" else None,
            device=device,
        )
        self._processors = _processors(context)
        self._criterion = criterion

    def shaped(self, answers: Sequence[Sequence[int]], scores: Tensor) -> Tensor:
        """Apply the settings to scores of the next token, float32 [n, vocab], given the tokens of n ``answers``.

        Raises:
            EngineError: MM727, a logits processor failed.
        """
        ids = self._ids(answers)
        for name, processor in self._processors:
            try:
                scores = processor(ids, scores)
            except (ValueError, IndexError, RuntimeError, OverflowError, TypeError) as error:
                raise EngineError(
                    f"the model's generation setting `{name}` cannot be applied: {error}",
                    code="MM727",
                    hint="correct generation_config.json and apply the recipe again, or run with "
                    "--ignore-generation-config",
                ) from error
        return scores

    def stopped(self, answers: Sequence[Sequence[int]]) -> list[bool]:
        """Which of n ``answers`` end with a stop string."""
        if self._criterion is None:
            return [False] * len(answers)
        stopped: list[bool] = self._criterion(self._ids(answers), None).tolist()
        return stopped

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
    """The rules for each prompt; empty if no setting has an effect.

    Raises:
        EngineError: MM726, the tokenizer has no tokens for a stop string.
    """
    if rules is None or not rules.fields:
        return []
    criterion = _stop_strings(rules)
    return [SequenceRules(rules, prompt, ends, new_tokens, device, criterion) for prompt in prompts]


Build = Callable[[Any, Any, _PromptContext], Any]


def _processors(context: _PromptContext) -> list[tuple[str, Any]]:
    from transformers.generation import logits_process

    processors = [
        (name, build(logits_process, context.fields[name], context))
        for name, build in _BUILDERS.items()
        if name in context.fields
    ]
    return [(name, processor) for name, processor in processors if processor is not None]


def _encoder_penalty(made: Any, value: float, given: _PromptContext) -> Any:
    if given.encoder_ids is None:
        return None
    return made.EncoderRepetitionPenaltyLogitsProcessor(value, given.encoder_ids)


def _encoder_ngrams(made: Any, value: int, given: _PromptContext) -> Any:
    if given.encoder_ids is None:
        return None
    return made.EncoderNoRepeatNGramLogitsProcessor(value, given.encoder_ids)


def _bad_words(made: Any, value: Any, given: _PromptContext) -> Any:
    return made.NoBadWordsLogitsProcessor(value, given.ends if len(given.ends) else None)


def _min_length(made: Any, value: int, given: _PromptContext) -> Any:
    if not len(given.ends) or "min_new_tokens" in given.fields:
        return None
    return made.MinLengthLogitsProcessor(max(value - given.hidden, 0), given.ends, device=given.device)


def _min_new_tokens(made: Any, value: int, given: _PromptContext) -> Any:
    if not len(given.ends):
        return None
    return made.MinNewTokensLengthLogitsProcessor(given.length, value, given.ends, device=given.device)


def _forced_eos(made: Any, value: Any, given: _PromptContext) -> Any:
    return made.ForcedEOSTokenLogitsProcessor(given.max_length, value, device=given.device)


def _decay(made: Any, value: Any, given: _PromptContext) -> Any:
    if not len(given.ends):
        return None
    return made.ExponentialDecayLengthPenalty(tuple(value), given.ends, given.length)


def _begin_suppress(made: Any, value: Any, given: _PromptContext) -> Any:
    first = given.length > 1 or "forced_bos_token_id" not in given.fields
    begin = given.length if first else given.length + 1
    return made.SuppressTokensAtBeginLogitsProcessor(value, begin, device=given.device)


# In the order of transformers.
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
            f"the model's generation setting `stop_strings` is {strings!r}, but its tokenizer has no tokens for that",
            code="MM726",
            hint="correct generation_config.json and apply the recipe again, or run with --ignore-generation-config",
        ) from error
