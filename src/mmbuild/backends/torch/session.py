"""A loaded LLM engine: weights, caches, and the packages that use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbuild.backends.torch import build_module, row_spans, weights
from mmbuild.backends.torch.attention import has_decode_kernel
from mmbuild.backends.torch.bound_packages import BoundPackages
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.cuda_graphs import DecodeGraphs, bucket
from mmbuild.backends.torch.host_copy import on_device
from mmbuild.backends.torch.row_caches import RowCaches
from mmbuild.backends.torch.row_spans import Placement, Rows
from mmbuild.models.errors import EngineError


class Session:
    """Sequences in the rows of the KV caches: :meth:`prefill` starts some, :meth:`extend` and :meth:`decode` go on.

    Rows are independent: a row can be started, extended or decoded while others hold live sequences. Calls without
    ``rows`` are about the last batch that was started.

    Loading compiles nothing. The caches live as long as the session. Values that an earlier sequence left in a row
    are masked, and also cleared, because a mask does not hide non-finite values.
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
        tensors: dict[str, Tensor] = {}
        for prefix, path in files.items():
            arranged = weights.arrange(weights.load_rank_file(path, self.device), config, self.device)
            tensors |= {prefix + name: tensor for name, tensor in arranged.items()}
        self.weight_bytes = sum(value.numel() * value.element_size() for value in tensors.values())
        buffers = build_module.runtime_buffers(config, self.device)
        self._caches = RowCaches(config, buffers)
        self._packages = BoundPackages(config, directory, tensors | buffers, self.device)
        self._slots = torch.arange(max(config.max_seq_len, config.cross_len), device=self.device)
        self._table = torch.empty(0) if config.cross_len else self.empty_prompt_table()
        self._graphs = DecodeGraphs() if self.device == "cuda" else None
        self._rounds_rows = self._graphs is not None
        self._has_kernel = has_decode_kernel(config.llm, config.torch_dtype, self.device)
        self._placed: Placement | None = None
        self._rows: tuple[int, ...] = ()

    def empty_prompt_table(self) -> Tensor:
        """A prompt table to fill: zeros [max_multimodal_len, hidden] in the engine's dtype."""
        shape = (self.config.max_multimodal_len, self.config.hidden_size)
        return torch.zeros(shape, dtype=self.config.torch_dtype, device=self.device)

    def prepare(self) -> None:
        """On CUDA, do now what the first calls would wait for: load kernels, and capture the graphs of steps.

        No row may hold a sequence that goes on.
        """
        if self._graphs is None:
            return
        config = self.config
        longest = 1 if config.cross_len and not config.encoder else config.max_input_len
        for count in row_spans.sizes(config.max_batch_size):
            visual = self.empty_prompt_table()
            if config.cross_len and not config.encoder:
                visual = visual.expand(count, -1, -1).contiguous()
            self.prefill([[0] * (longest if count == 1 else 1)] * count, visual)
            self.decode(torch.zeros(count, dtype=torch.int64, device=self.device))
        self._caches.forget()
        self._rows = ()

    def prefill(
        self, prompts: Sequence[Sequence[int]], visual: Tensor, rows: Sequence[int] | None = None
    ) -> Tensor:
        """Start a sequence per prompt; their lengths may differ.

        Ids >= vocab_size are rows of the prompt table.

        Args:
            prompts: Token ids; with cross-attention to features, the decoder's start token each.
            visual: The prompt table [max_multimodal_len, hidden], or, with cross-attention to features, the features
                of each sequence [B, max_multimodal_len, hidden].
            rows: Cache row of each sequence, different ones; what they held is gone. Default: 0 to B - 1.

        Returns:
            Logits of each prompt's first new token, float32 [B, vocab_size].

        Raises:
            EngineError: A prompt is empty or longer than max_input_len, the batch is larger than max_batch_size,
                ``visual`` has another shape, an id is outside vocabulary and table, or there is no such row.
        """
        check_batch(self.config, prompts, visual)
        self._rows = self._checked(range(len(prompts)) if rows is None else rows, len(prompts))
        with torch.inference_mode():
            if not self.config.llm.cross_attention:
                return self._prefill(prompts, visual, self._rows)
            spans = row_spans.spans(self._rows)
            parts = [
                self._encode([prompts[place] for place in places], visual, places, span)
                for places, span in spans
            ]
        return row_spans.in_order(parts, spans)

    def extend(
        self, prompts: Sequence[Sequence[int]], visual: Tensor, rows: Sequence[int] | None = None
    ) -> Tensor:
        """Go on with the prompts of sequences that :meth:`prefill` started: a prompt in parts.

        Args:
            prompts: The next token ids of each sequence; as for :meth:`prefill`.
            visual: The prompt table.
            rows: Row of each sequence.

        Returns:
            Logits of each sequence's next token, float32 [B, vocab_size].

        Raises:
            EngineError: As :meth:`prefill`; MM509, a row holds no sequence; MM510, the tokens exceed the engine's
                slots; MM511, the model is an encoder-decoder, which encodes whole prompts.
        """
        if self.config.llm.cross_attention:
            raise EngineError(
                "an encoder-decoder encodes whole prompts, which cannot be extended",
                code="MM511",
                hint="pass the whole prompt to prefill",
            )
        check_batch(self.config, prompts, visual)
        rows = self._checked(self._rows if rows is None else rows, len(prompts))
        self._require_slots(rows, list(map(len, prompts)))
        spans = row_spans.spans(rows)
        with torch.inference_mode():
            parts = [
                self._extend([prompts[place] for place in places], visual, span) for places, span in spans
            ]
        return row_spans.in_order(parts, spans)

    def _prefill(self, prompts: Sequence[Sequence[int]], table: Tensor, rows: tuple[int, ...]) -> Tensor:
        ids, lengths = self._padded(prompts)
        longest = ids.shape[1]
        self._caches.start(rows, [len(prompt) for prompt in prompts], longest)
        positions = self._slots[:longest].expand(len(prompts), -1).contiguous()
        x, _mask, *rotation = self._packages("embed", ids, positions, self._slots[:1], table)
        places = on_device(rows, self.device)
        x = self._packages.layers("layer_prefill", x, places, *rotation, rows=(0, self.config.sequences))
        return self._logits(x, lengths)

    def _extend(self, prompts: Sequence[Sequence[int]], table: Tensor, rows: Rows) -> Tensor:
        ids, lengths = self._padded(prompts)
        starts = self._caches.lengths[slice(*rows)]
        self._caches.advance(range(*rows), [len(prompt) for prompt in prompts])
        # Padding goes to the spare slot, which is never read.
        positions = torch.full_like(ids, self.config.max_seq_len)
        for row, (start, prompt) in enumerate(zip(starts, prompts, strict=True)):
            positions[row, : len(prompt)] = self._slots[start : start + len(prompt)]
        slots = self._slots[: max(self._caches.lengths[slice(*rows)])]
        x, mask, *rotation = self._packages("embed", ids, positions, slots, table)
        x = self._packages.layers("layer_chunk", x, positions, mask, *rotation, rows=rows)
        return self._logits(x, lengths)

    def _logits(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Logits of each sequence's last token, from hidden states [B, L, hidden]."""
        last = x[torch.arange(x.shape[0], device=x.device), lengths - 1]
        return self._packages("head" if len(last) == 1 else "head_batch", last)[0]

    def _encode(
        self, prompts: Sequence[Sequence[int]], visual: Tensor, places: Sequence[int], rows: Rows
    ) -> Tensor:
        """Encode sequences, then decode the start token of each."""
        start = self.config.llm.decoder_start_token_id
        assert start is not None
        if self.config.encoder is None:
            states, encoded = visual[list(places)].contiguous(), [visual.shape[1]] * len(prompts)
        else:
            ids, lengths = self._padded(prompts)
            encoded = [len(prompt) for prompt in prompts]
            x, mask = self._packages("encoder_embed", ids, lengths, visual)
            x = self._packages.layers("encoder_layer", x, mask)
            (states,) = self._packages("encoder_finish", x)
        self._caches.start(range(*rows), [0] * len(prompts), 0, encoded)
        self._packages.each_layer("cross_fill", states, rows)
        return self._decode([start] * len(prompts), tuple(range(*rows)))

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """ids int64 [B, L], right-padded with zeros, and lengths int64 [B]."""
        longest = max(len(prompt) for prompt in prompts)
        ids = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        return on_device(ids, self.device), on_device([len(prompt) for prompt in prompts], self.device)

    def select(self, rows: Tensor) -> None:
        """Continue with ``rows`` of the batch, int64 [n], in rows 0 to n - 1; rows may be repeated or dropped.

        Raises:
            EngineError: More rows than the engine has sequences.
        """
        if len(rows) > self.config.sequences:
            raise EngineError(
                f"{len(rows)} sequences are requested, but the engine supports {self.config.sequences}",
                code="MM511",
                hint="raise max_batch_size or max_beam_width in the recipe",
            )
        self._caches.select([self._rows[row] for row in rows.tolist()])
        self._rows = tuple(range(len(rows)))

    def decode(self, tokens: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Append one token to each sequence: int64 [B] -> logits float32 [B, vocab_size].

        On CUDA the result is overwritten by the next call.

        Args:
            tokens: The tokens.
            rows: Row of each sequence.

        Raises:
            EngineError: MM509, there was no prefill; MM510, a sequence has reached the engine's last slot.
        """
        if rows is None and not self._rows:
            raise EngineError("decode was called before prefill", code="MM509")
        rows = self._checked(self._rows if rows is None else rows, len(tokens))
        self._require_slots(rows, [1] * len(rows))
        with torch.inference_mode():
            return self._decode(tokens, rows)

    def _decode(self, tokens: Tensor | Sequence[int], rows: tuple[int, ...]) -> Tensor:
        tokens = torch.as_tensor(tokens, device=self.device)
        if self._placed is None or self._placed.rows != rows:
            self._placed = row_spans.placement(
                rows, self.config.sequences, self.device, padded=self._rounds_rows
            )
        placed = self._placed
        positions = self._caches.positions(placed.span, rows)
        self._caches.advance(rows, [1] * len(rows))
        inputs, views = self._step_arguments(placed.spread(tokens), positions, placed)
        return placed.gather(self._run_step(inputs, views, placed.span))

    def _run_step(self, inputs: tuple[Tensor, ...], views: tuple[Tensor, ...], span: Rows) -> Tensor:
        step = partial(self._step, span)
        return step(inputs, views) if self._graphs is None else self._graphs(step, inputs, views, span)

    def _step_arguments(
        self, tokens: Tensor, positions: Tensor, placed: Placement
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Inputs that change from step to step, and views of the slots to read."""
        config, caches, rows = self.config, self._caches, placed.rows
        inputs: tuple[Tensor, ...] = (tokens, positions)
        # The kernel finds the live slots by itself.
        longest = 1 if self._has_kernel else max(caches.lengths[row] for row in rows)
        limits = [(longest, config.max_seq_len)]
        if config.cross_len:
            inputs += (caches.encoded_tensor(placed.span),)
            limits.append((max(caches.encoded[row] for row in rows), config.cross_len))
        cuts = [bucket(*pair) if self._graphs is not None else pair[0] for pair in limits]
        return inputs, tuple(self._slots[:cut] for cut in cuts)

    def _step(self, span: Rows, inputs: tuple[Tensor, ...], views: tuple[Tensor, ...]) -> Tensor:
        """One token of each sequence in a range of rows: embedding, layers, head."""
        tokens, positions, *lengths = inputs
        ids, places = tokens[:, None], positions[:, None]
        layer, head = ("layer_decode", "head") if len(tokens) == 1 else ("layer_decode_batch", "head_batch")
        if lengths:
            x, *shared = self._packages("embed", ids, places, views[0], *lengths, views[1])
        else:
            x, *shared = self._packages("embed", ids, places, views[0], self._table)
        x = self._packages.layers(layer, x, places, *shared, rows=span)
        return self._packages(head, x[:, 0])[0]

    def _checked(self, rows: Sequence[int], count: int) -> tuple[int, ...]:
        """``rows``, which must be ``count`` different ones that the engine has."""
        most = self.config.sequences
        if len(rows) != count or len(set(rows)) != count or not all(0 <= row < most for row in rows):
            raise EngineError(
                f"{count} sequences are given for the rows {list(rows)} of an engine with {most}",
                code="MM511",
                hint=f"name one row for each sequence, from 0 to {most - 1}",
            )
        return tuple(rows)

    def _require_slots(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        """Check that rows hold sequences that ``counts`` more tokens fit in."""
        caches, most = self._caches, self.config.max_seq_len
        if not all(caches.started[row] for row in rows):
            raise EngineError("a row holds no sequence: prefill starts one", code="MM509")
        if any(caches.lengths[row] + count > most for row, count in zip(rows, counts, strict=True)):
            raise EngineError(
                f"a sequence has reached the engine's {most} tokens "
                f"(prompt {self.config.prompt_len} + max_output_len {self.config.max_output_len})",
                code="MM510",
                hint="request fewer new tokens, or raise max_output_len in the recipe",
            )


def check_count(count: int, most: int) -> None:
    """Check that an engine for batches of ``most`` prompts supports ``count`` of them.

    Raises:
        EngineError: MM511, it does not.
    """
    if 1 <= count <= most:
        return
    if most == 1 and count > 1:
        message = f"the engine takes 1 prompt at a time, not {count}"
        hint = "ask one after the other, or raise max_batch_size in the recipe"
    else:
        message = f"the batch has {count} prompts, but the engine supports 1 to {most}"
        hint = "use smaller batches, or raise max_batch_size in the recipe"
    raise EngineError(message, code="MM511", hint=hint)


def check_sizes(config: EngineConfig, lengths: Sequence[int]) -> None:
    """Check that the engine supports a batch of prompts with these numbers of tokens.

    Raises:
        EngineError: MM511, there are too many; MM512, one is empty or too long.
    """
    check_count(len(lengths), config.max_batch_size)
    check_lengths(config, lengths)


def check_lengths(config: EngineConfig, lengths: Sequence[int]) -> None:
    """Check that the engine supports prompts with these numbers of tokens.

    Raises:
        EngineError: MM512, one is empty or too long.
    """
    for number, length in enumerate(lengths, start=1):
        if not 1 <= length <= config.max_input_len:
            raise EngineError(
                f"prompt {number} has {length} tokens with its visual features, "
                f"but the engine supports 1 to {config.max_input_len}",
                code="MM512",
                hint="shorten the prompt, or raise max_input_len in the recipe",
            )


def check_batch(config: EngineConfig, prompts: Sequence[Sequence[int]], visual: Tensor) -> None:
    """Check that the engine supports a batch; raises as :meth:`Session.prefill`."""
    check_sizes(config, [len(prompt) for prompt in prompts])
    rows = () if config.cross_len and not config.encoder else (config.max_multimodal_len,)
    for number, prompt in enumerate(prompts, start=1):
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
