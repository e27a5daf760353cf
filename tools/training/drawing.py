"""Training and exam data of the shape worlds: pictures, questions and their tokens."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import pairs_world
import shapes_world

Part = TypeVar("Part")
CHUNK = 500


def drawn(draw: Callable[[tuple[Any, ...]], Part], seed: int, count: int, *rest: object) -> list[Part]:
    """``draw((seed, count, *rest))`` in parts of 500 with consecutive seeds, on every core; the same whatever
    the number of processes."""
    jobs = [(seed + i, min(CHUNK, count - i * CHUNK), *rest) for i in range(-(-count // CHUNK))]
    if len(jobs) == 1:
        return [draw(jobs[0])]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        return pool.map(draw, jobs)


def draw_scenes(job: tuple[int, int, bool, int]) -> tuple[np.ndarray, list[list[shapes_world.Question]]]:
    """Pictures uint8 [count, size, size, 3] and their questions, for a job (seed, count, held_out, size)."""
    seed, count, held_out, size = job
    rng = np.random.default_rng(seed)
    pictures, asked = np.empty((count, size, size, 3), np.uint8), []
    for i in range(count):
        scene = shapes_world.draw_scene(rng, held_out=held_out)
        pictures[i] = shrunk(shapes_world.draw_picture(scene, rng), size)
        asked.append(list(shapes_world.questions(scene, rng)))
    return pictures, asked


def draw_pairs(
    job: tuple[int, int, bool, int],
) -> tuple[np.ndarray, list[list[shapes_world.Question]], list[list[pairs_world.Question]]]:
    """Pictures uint8 [count, 2, size, size, 3], the questions about each picture alone (2 x count lists) and
    those about both, for a job (seed, count, held_out, size)."""
    seed, count, held_out, size = job
    rng = np.random.default_rng(seed)
    pictures, single, both = np.empty((count, 2, size, size, 3), np.uint8), [], []
    for i in range(count):
        pair = pairs_world.draw_pair(rng, held_out=held_out)
        for place, scene in enumerate(pair):
            pictures[i, place] = shrunk(shapes_world.draw_picture(scene, rng), size)
            single.append(list(shapes_world.questions(scene, rng)))
        both.append(list(pairs_world.questions(pair, rng)))
    return pictures, single, both


def shrunk(picture: Image.Image, size: int) -> np.ndarray:
    """uint8 [size, size, 3], as the image processors shrink a square picture."""
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))


def normalizer(processor: Any, device: str) -> Callable[[Tensor], Tensor]:
    """From uint8 [n, height, width, 3] on ``device`` to normalized float32 [n, 3, height, width], as the image
    processor would make them."""
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1)
        for values in (processor.image_mean, processor.image_std)
    )

    def pixels(pictures: Tensor) -> Tensor:
        return (pictures.permute(0, 3, 1, 2).float() / 255 - mean) / std

    return pixels


def counting_twice(questions: Sequence[shapes_world.Question], slots: int) -> list[shapes_world.Question]:
    """``slots`` questions: scenes without a `where` question are asked to count twice, the hardest."""
    extra = [q for q in questions if q.kind == "count"] if len(questions) < slots else []
    return [*questions, *extra]


def causal_rows(
    texts: Sequence[Sequence[tuple[str, str]]], number: dict[str, int], *, begin: str, length: int
) -> tuple[Tensor, Tensor]:
    """Token ids and labels, both int64 [rows, slots, length], of (prompt, answer) texts for a decoder.

    A row is ``begin``, the prompt, the answer, ``</s>``, padding. The label at a place is the token that should
    follow it: -100 but from the last token of the prompt to the last of the answer.
    """
    ids = np.full((len(texts), len(texts[0]), length), number["<pad>"], np.int64)
    labels = np.full_like(ids, -100)
    for i, slots in enumerate(texts):
        for slot, (prompt, answer) in enumerate(slots):
            asked = [number[word] for word in (begin, *prompt.split())]
            told = [number[word] for word in (*answer.split(), "</s>")]
            ids[i, slot, : len(asked) + len(told)] = asked + told
            labels[i, slot, len(asked) - 1 : len(asked) + len(told) - 1] = told
    return torch.from_numpy(ids), torch.from_numpy(labels)


def encoder_rows(
    texts: Sequence[Sequence[tuple[str, str]]], number: dict[str, int], *, length: int, answer_length: int
) -> tuple[Tensor, Tensor]:
    """Token ids [rows, slots, length] of the prompts, each ended by ``</s>``, for an encoder, and labels
    [rows, slots, answer_length] of the answers for its decoder."""
    ids = np.full((len(texts), len(texts[0]), length), number["<pad>"], np.int64)
    labels = np.full((*ids.shape[:2], answer_length), -100, np.int64)
    for i, slots in enumerate(texts):
        for slot, (prompt, answer) in enumerate(slots):
            asked = [number[word] for word in (*prompt.split(), "</s>")]
            told = [number[word] for word in (*answer.split(), "</s>")]
            ids[i, slot, : len(asked)] = asked
            labels[i, slot, : len(told)] = told
    return torch.from_numpy(ids), torch.from_numpy(labels)
