"""A loaded LLM engine: weights, caches, and the packages that use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbuild.backends.engine_dir import description
from mmbuild.backends.torch import aot_package, build_module, weights
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.cuda_graphs import DecodeGraphs, bucket
from mmbuild.models.errors import EngineError

# Places of (tokens, positions[, lengths]) and (slots[, cross_slots]) among a decode package's arguments.
_ORDER = {False: (0, 1, 2), True: (0, 1, 3, 2, 4)}


class Session:
    """One batch at a time: :meth:`prefill`, then :meth:`decode` until done.

    Loading compiles nothing. The KV caches live as long as the session. Values from an earlier batch are masked, and
    also cleared where they may be read (if prompts differ in length, or graphs read more slots than are live),
    because a mask does not hide non-finite values.
    """

    def __init__(
        self, config: EngineConfig, directory: Path, files: Mapping[str, Path], target: Mapping[str, Any]
    ) -> None:
        """Load the packages in ``directory`` (:func:`~mmbuild.backends.engine_dir.description.packages`) with the
        files of a rank.

        Args:
            config: Config that the packages were compiled for.
            directory: Directory of the packages.
            files: Result of :func:`mmbuild.backends.torch.weights.rank_files`.
            target: Target that the packages were compiled for.

        Raises:
            EngineError: A file is missing, or the packages do not fit the weights.
        """
        self.config = config
        self.device = str(target["device"])
        self._constants: dict[str, Tensor] = {}
        for prefix, path in files.items():
            tensors = weights.arrange(weights.load_rank_file(path, self.device), config, self.device)
            self._constants |= {prefix + name: tensor for name, tensor in tensors.items()}
        self.weight_bytes = sum(value.numel() * value.element_size() for value in self._constants.values())
        self._constants |= build_module.runtime_buffers(config, self.device)
        self._packages = {
            name: aot_package.load_package(directory / f"{name}.pt2", self._constants, self.device)
            for name in description.packages(config.to_json())
        }
        self._slots = torch.arange(max(config.max_seq_len, config.cross_len), device=self.device)
        self._graphs = DecodeGraphs() if self.device == "cuda" else None
        self._positions: Tensor | None = None
        self._longest = 0
        self._encoded: Tensor | None = None
        self._longest_encoded = 0

    def empty_prompt_table(self) -> Tensor:
        """A prompt table to fill: zeros [max_multimodal_len, hidden] in the engine's dtype."""
        shape = (self.config.max_multimodal_len, self.config.hidden_size)
        return torch.zeros(shape, dtype=self.config.torch_dtype, device=self.device)

    def prefill(self, prompts: Sequence[Sequence[int]], visual: Tensor) -> Tensor:
        """Start a batch of prompts; their lengths may differ.

        Ids >= vocab_size are rows of the prompt table.

        Args:
            prompts: Token ids; with cross-attention to features, the decoder's start token each.
            visual: The prompt table [max_multimodal_len, hidden], or, with cross-attention to features, the features
                of each sequence [B, max_multimodal_len, hidden].

        Returns:
            Logits of each prompt's first new token, float32 [B, vocab_size].

        Raises:
            EngineError: A prompt is empty or longer than max_input_len, the batch is larger than
                max_batch_size, ``visual`` has another shape, or an id is outside vocabulary and table.
        """
        check_batch(self.config, prompts, visual)
        if not self.config.llm.cross_attention:
            return self._prefill(prompts, visual)
        if self.config.encoder is None:
            return self._start(torch.tensor([visual.shape[1]] * len(prompts)), (visual,))
        ids, lengths = self._padded(prompts)
        return self._start(lengths, (ids, lengths, visual))

    def _prefill(self, prompts: Sequence[Sequence[int]], table: Tensor) -> Tensor:
        ids, lengths = self._padded(prompts)
        longest = ids.shape[1]
        if min(map(len, prompts)) < longest or self._graphs is not None:
            self._clear(longest)
        with torch.inference_mode():
            logits: Tensor = self._packages["prefill"](ids, lengths, table)
        self._positions, self._longest = lengths, longest
        return logits

    def _start(self, lengths: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """Encode a batch, then decode the start token of every sequence."""
        start = self.config.llm.decoder_start_token_id
        assert start is not None
        self._encoded, self._longest_encoded = lengths.to(self.device), int(lengths.max())
        if self._graphs is not None:
            self._clear(0, self._longest_encoded)
        with torch.inference_mode():
            self._packages["encode"](*inputs)
        self._positions, self._longest = torch.zeros_like(self._encoded), 0
        return self.decode(torch.full_like(self._encoded, start))

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """ids int64 [B, L], right-padded with zeros, and lengths int64 [B]."""
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        return ids.to(self.device), lengths.to(self.device)

    def _clear(self, start: int, encoded: int = 0) -> None:
        """Zero the slots from ``start`` on, in cross-attention caches from ``encoded`` on. Covers all sequences,
        because beams also use those beyond the batch."""
        for name, cache in self._constants.items():
            if build_module.is_cache(name):
                cache[:, :, encoded if build_module.is_cross_cache(name) else start :] = 0

    def select(self, rows: Tensor) -> None:
        """Continue with ``rows`` of the batch, int64 [n]; rows may be repeated or dropped.

        Raises:
            EngineError: More rows than the engine has sequences.
        """
        if len(rows) > self.config.sequences:
            raise EngineError(
                f"{len(rows)} sequences are requested, but the engine supports {self.config.sequences}",
                code="MM511",
                hint="raise max_batch_size or max_beam_width in the recipe",
            )
        assert self._positions is not None
        rows = rows.to(self.device)
        for name, cache in self._constants.items():
            if build_module.is_cache(name):
                live = self._longest_encoded if build_module.is_cross_cache(name) else self._longest
                cache[: len(rows), :, :live] = cache[:, :, :live].index_select(0, rows)
        self._positions = self._positions.index_select(0, rows)
        if self._encoded is not None:
            self._encoded = self._encoded.index_select(0, rows)

    def decode(self, tokens: Tensor) -> Tensor:
        """Append one token to every sequence: int64 [B] -> logits float32 [B, vocab_size].

        On CUDA the result is overwritten by the next call.

        Raises:
            EngineError: MM509, there was no prefill; MM510, a sequence has reached the engine's last slot.
        """
        if self._positions is None:
            raise EngineError("decode was called before prefill", code="MM509")
        if self._longest >= self.config.max_seq_len:
            raise EngineError(
                f"a sequence has reached the engine's {self.config.max_seq_len} tokens "
                f"(prompt {self.config.prompt_len} + max_output_len {self.config.max_output_len})",
                code="MM510",
                hint="request fewer new tokens, or raise max_output_len in the recipe",
            )
        self._longest += 1
        decode = self._packages["decode" if len(tokens) == 1 else "decode_batch"]
        inputs, views, order = self._arguments(tokens)
        with torch.inference_mode():
            if self._graphs is not None:
                logits = self._graphs(decode, inputs, views, order)
            else:
                given = (*inputs, *views)
                logits = decode(*(given[place] for place in order))
            self._positions = self._positions + 1
        return logits

    def _arguments(self, tokens: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[int, ...]]:
        """Inputs that change from step to step, views of the slots to read, and the order of both."""
        assert self._positions is not None
        config, cross = self.config, self._encoded is not None
        inputs: tuple[Tensor, ...] = (tokens, self._positions)
        lengths = [(self._longest, config.max_seq_len)]
        if self._encoded is not None:
            inputs += (self._encoded,)
            lengths.append((self._longest_encoded, config.cross_len))
        cuts = [bucket(*pair) if self._graphs is not None else pair[0] for pair in lengths]
        return inputs, tuple(self._slots[:cut] for cut in cuts), _ORDER[cross]


def check_batch(config: EngineConfig, prompts: Sequence[Sequence[int]], visual: Tensor) -> None:
    """Check that the engine supports a batch; raises as :meth:`Session.prefill`."""
    if not 1 <= len(prompts) <= config.max_batch_size:
        raise EngineError(
            f"the batch has {len(prompts)} prompts, but the engine supports 1 to {config.max_batch_size}",
            code="MM511",
            hint="use smaller batches, or raise max_batch_size in the recipe",
        )
    rows = () if config.cross_len and not config.encoder else (config.max_multimodal_len,)
    for number, prompt in enumerate(prompts, start=1):
        if not 1 <= len(prompt) <= config.max_input_len:
            raise EngineError(
                f"prompt {number} has {len(prompt)} tokens with its visual features, "
                f"but the engine supports 1 to {config.max_input_len}",
                code="MM512",
                hint="shorten the prompt, or raise max_input_len in the recipe",
            )
        low, high = min(prompt), max(prompt)
        if low < 0 or high >= config.vocab_size + sum(rows):
            raise EngineError(
                f"prompt {number} has token id {low if low < 0 else high}, outside the vocabulary of "
                f"{config.vocab_size} and the prompt table of {sum(rows)} rows",
                code="MM513",
            )
    required = (*(rows or (len(prompts), config.max_multimodal_len)), config.hidden_size)
    if tuple(visual.shape) != required:
        raise EngineError(
            f"the prompt table has shape {list(visual.shape)}, but the engine expects {list(required)}",
            code="MM514",
        )
