"""Small models of transformers behind the calls of a session: decoding is compared without compiling an engine."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

VOCABULARY = 24
IMAGE = VOCABULARY - 1
"""The image token of prompts; a session gets ``VOCABULARY + row`` in its place."""
START = 3


def llama(seed: int) -> LlamaForCausalLM:
    """A LLaMA whose greedy answers go round in circles: every setting has something to change."""
    rng = random.Random(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=rng.choice([2, 4]),
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _randomized(LlamaForCausalLM(config), seed)


def t5(seed: int) -> T5ForConditionalGeneration:
    """A T5 of the same kind."""
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        num_heads=2,
        d_ff=24,
        num_layers=1,
        num_decoder_layers=1,
        decoder_start_token_id=START,
        pad_token_id=0,
        eos_token_id=1,
    )
    return _randomized(T5ForConditionalGeneration(config), seed)


def _randomized(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            value.normal_(centre, 0.5, generator=generator)
    return model.float().eval()


class ModelSession:
    """A transformers model behind the calls of :class:`mmbuild.backends.torch.session.Session`; it keeps no keys and
    values."""

    device = "cpu"

    def __init__(self, model: Any, most: int = 64, beams: int = 4, start: int = START) -> None:
        self.config = SimpleNamespace(max_output_len=most, max_beam_width=beams)
        self._model = model
        self._start = start
        self._rows: list[tuple[list[int], list[int]]] = []

    def prefill(self, prompts: Sequence[Sequence[int]], visual: object) -> Tensor:  # noqa: ARG002
        """Start a batch; ids behind the vocabulary are images."""
        begun = [self._start] if self._model.config.is_encoder_decoder else []
        self._rows = [([min(token, IMAGE) for token in prompt], list(begun)) for prompt in prompts]
        return self._logits()

    def decode(self, tokens: Tensor) -> Tensor:
        """Append one token to every sequence."""
        pairs = zip(self._rows, tokens.tolist(), strict=True)
        self._rows = [(prompt, [*answer, token]) for (prompt, answer), token in pairs]
        return self._logits()

    def select(self, rows: Tensor) -> None:
        """Go on with some rows."""
        self._rows = [self._rows[row] for row in rows.tolist()]

    def _logits(self) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self._next(prompt, answer) for prompt, answer in self._rows])

    def _next(self, prompt: list[int], answer: list[int]) -> Tensor:
        known, key = _KNOWN.setdefault(self._model, {}), (tuple(prompt), tuple(answer))
        if key not in known:
            known[key] = _logits_of(self._model, prompt, answer)
        return known[key].clone()


# Logits after a prompt and the beginning of an answer: many tests ask the same models about the same prompts.
_KNOWN: WeakKeyDictionary[Any, dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor]] = WeakKeyDictionary()


def _logits_of(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    if model.config.is_encoder_decoder:
        out = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([answer]))
    else:
        out = model(input_ids=torch.tensor([[*prompt, *answer]]))
    logits: Tensor = out.logits[:, -1].float()
    return logits


def generated(
    model: Any,
    prompt: Sequence[int],
    settings: Mapping[str, Any],
    *,
    seen: str,
    new_tokens: int,
    **options: Any,
) -> list[int]:
    """The new tokens that transformers' ``generate`` gives, ``settings`` being the model's generation config.

    Args:
        model: From :func:`llama` or :func:`t5`.
        prompt: Ids below the vocabulary.
        settings: As generation_config.json has them.
        seen: What ``generate`` is given: ``ids``, ``ids and embeddings``, ``embeddings`` or ``decoder ids``.
        new_tokens: As ``max_new_tokens``.
        options: More of ``generate``'s arguments.
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig.from_dict({"pad_token_id": 0, **settings})
    ids = torch.tensor([list(prompt)])
    embeddings = model.get_input_embeddings()(ids)
    given: dict[str, Any] = {
        "ids": {"input_ids": ids},
        "ids and embeddings": {"input_ids": ids, "inputs_embeds": embeddings},
        "embeddings": {"inputs_embeds": embeddings},
        "decoder ids": {"inputs_embeds": embeddings},
    }[seen]
    with torch.inference_mode():
        found = model.generate(
            **given,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=new_tokens,
            return_dict_in_generate=True,
            output_logits=True,
            **{"num_beams": 1, **options},
        )
    if options.get("num_beams", 1) > 1:
        new = int((found.beam_indices[0] >= 0).sum())
        return list(found.sequences[0, found.sequences.shape[1] - new :].tolist()) if new else []
    return list(found.sequences[0, -len(found.logits) :].tolist())
