"""A loaded LLM engine: weights, caches, and the two packages that run over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbuild.engine import layout, package, weights
from mmbuild.engine.config import EngineConfig, EngineError
from mmbuild.engine.graphs import DecodeGraphs


class Session:
    """One batch at a time: :meth:`prefill`, then :meth:`decode` until done.

    Loading compiles nothing. The KV caches live as long as the session. What an earlier batch left in them is
    masked; only where sequences differ in length can a masked slot be looked at, and is cleared first, since
    a mask does not hide a value that is not finite.
    """

    def __init__(
        self, config: EngineConfig, directory: Path, weights_file: Path, target: Mapping[str, Any]
    ) -> None:
        """Load the packages in ``directory`` (:func:`layout.packages`) over ``weights_file``.

        Raises:
            EngineError: A file is missing, or the packages do not fit the weights.
        """
        self.config = config
        self.device = str(target["device"])
        tensors = weights.load_rank_file(weights_file, self.device)
        self._constants = weights.arrange(tensors, config, self.device)
        self._constants |= weights.runtime_buffers(config, self.device)
        self._packages = {
            name: package.load_package(directory / f"{name}.pt2", self._constants, self.device)
            for name in layout.packages(config.max_batch_size)
        }
        self._slots = torch.arange(config.max_seq_len, device=self.device)
        self._graphs = DecodeGraphs(self._slots) if self.device == "cuda" else None
        self._positions: Tensor | None = None
        self._longest = 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors of the rank file."""
        own = (tensor for name, tensor in self._constants.items() if not weights.is_runtime_buffer(name))
        return sum(tensor.numel() * tensor.element_size() for tensor in own)

    def empty_prompt_table(self) -> Tensor:
        """A prompt table to fill: zeros [max_multimodal_len, hidden] in the engine's dtype."""
        shape = (self.config.max_multimodal_len, self.config.hidden_size)
        return torch.zeros(shape, dtype=self.config.torch_dtype, device=self.device)

    def prefill(self, prompts: Sequence[Sequence[int]], prompt_table: Tensor) -> Tensor:
        """Start a batch of prompts of any lengths.

        Ids >= vocab_size are rows of ``prompt_table`` [max_multimodal_len, hidden].

        Returns:
            Logits of each prompt's last token, float32 [B, vocab_size].

        Raises:
            EngineError: A prompt is empty or longer than max_input_len, the batch is larger than
                max_batch_size, the table has another shape, or an id is outside vocabulary and table.
        """
        self._check_batch(prompts, prompt_table)
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        lengths = torch.tensor([len(prompt) for prompt in prompts]).to(self.device)
        if min(map(len, prompts)) < longest:
            self._clear(len(prompts), longest)
        with torch.inference_mode():
            logits: Tensor = self._packages["prefill"](ids.to(self.device), lengths, prompt_table)
        self._positions, self._longest = lengths, longest
        return logits

    def _clear(self, batch: int, start: int) -> None:
        """Zero the slots from ``start`` on, of the first ``batch`` sequences, in every cache."""
        for name, cache in self._constants.items():
            if weights.is_cache(name):
                cache[:batch, :, start:] = 0

    def decode(self, tokens: Tensor) -> Tensor:
        """Append one token to every sequence: int64 [B] -> logits float32 [B, vocab_size].

        On CUDA the result is overwritten by the next call.

        Raises:
            EngineError: Nothing was prefilled, or a sequence is at the engine's last slot.
        """
        if self._positions is None:
            raise EngineError("decode was called before prefill", code="MM509")
        if self._longest >= self.config.max_seq_len:
            raise EngineError(
                f"a sequence has reached the engine's {self.config.max_seq_len} tokens "
                f"(max_input_len {self.config.max_input_len} + max_output_len {self.config.max_output_len})",
                code="MM510",
                hint="Ask for fewer new tokens, or raise max_output_len in the recipe",
            )
        self._longest += 1
        decode = self._packages["decode" if len(tokens) == 1 else "decode_batch"]
        with torch.inference_mode():
            if self._graphs is not None:
                logits = self._graphs(decode, tokens, self._positions, self._longest)
            else:
                logits = decode(tokens, self._positions, self._slots[: self._longest])
            self._positions = self._positions + 1
        return logits

    def _check_batch(self, prompts: Sequence[Sequence[int]], prompt_table: Tensor) -> None:
        config = self.config
        if not 1 <= len(prompts) <= config.max_batch_size:
            raise EngineError(
                f"the batch has {len(prompts)} prompts, and the engine is built for 1 to {config.max_batch_size}",
                code="MM511",
                hint="Ask in smaller batches, or raise max_batch_size in the recipe",
            )
        for row, prompt in enumerate(prompts):
            if not 1 <= len(prompt) <= config.max_input_len:
                raise EngineError(
                    f"prompt {row + 1} has {len(prompt)} tokens with its visual features, "
                    f"and the engine takes 1 to {config.max_input_len}",
                    code="MM512",
                    hint="Shorten the prompt, or raise max_input_len in the recipe",
                )
            low, high = min(prompt), max(prompt)
            if low < 0 or high >= config.vocab_size + config.max_multimodal_len:
                raise EngineError(
                    f"prompt {row + 1} has token id {low if low < 0 else high}, outside the vocabulary of "
                    f"{config.vocab_size} and the prompt table of {config.max_multimodal_len} rows",
                    code="MM513",
                )
        if tuple(prompt_table.shape) != (config.max_multimodal_len, config.hidden_size):
            raise EngineError(
                f"the prompt table has shape {list(prompt_table.shape)}, and the engine takes "
                f"[{config.max_multimodal_len}, {config.hidden_size}]",
                code="MM514",
            )
