"""What the trainings of all demo models share."""

import pytest
import torch
from torch import nn

from training import drawing, exam, loop, rounding
from training.llava import TEXT_LENGTH


class Ask:
    def __init__(self, kind: str, text: str, answer: str) -> None:
        self.kind, self.text, self.answer = kind, text, answer


@pytest.mark.parametrize("levels", [8, 128])
def test_rounding_keeps_to_the_levels_of_each_output_channel(levels: int) -> None:
    weight = torch.randn(5, 64)
    scale = weight.abs().amax(dim=1, keepdim=True) / levels
    steps = rounding.rounded(weight, levels) / scale
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert steps.min() >= -levels - 1e-4
    assert steps.max() <= levels - 1 + 1e-4


def test_straight_through_rounds_forward_and_not_backward() -> None:
    model = nn.ModuleDict({"llm": nn.ModuleDict({"fc1": nn.Linear(8, 4)})})
    linear, x = model["llm"]["fc1"], torch.randn(3, 8)
    with rounding.straight_through(rounding.decoder_linears(model, "llm"), 8):
        seen = linear(x)
    assert torch.allclose(seen, x @ rounding.rounded(linear.weight, 8).T + linear.bias, atol=1e-6)
    seen.sum().backward()
    assert torch.allclose(linear.weight.grad, x.sum(0).expand(4, 8), atol=1e-5)
    assert torch.equal(linear(x), nn.functional.linear(x, linear.weight, linear.bias))


def test_training_learns_in_turn_from_every_loss_and_keeps_to_its_steps() -> None:
    torch.manual_seed(0)
    model, required = nn.Linear(4, 1), torch.randn(1, 4)
    rows, seen = torch.randn(64, 4), {"plain": 0, "other": 0}

    def loss(name: str) -> loop.Loss:
        def one(pick: torch.Tensor) -> torch.Tensor:
            seen[name] += 1
            return (model(rows[pick]) - rows[pick] @ required.T).square().mean()

        return one

    phases = (
        loop.Phase(0.5, (loss("plain"),), 64, 16),
        loop.Phase(0.5, (loss("plain"), loss("other")), 64, 16),
    )
    steps = loop.train(model, phases, loop.Budget(400, 10.0), lr=0.05, seed=1)
    assert steps == 400
    assert (seen["plain"], seen["other"]) == (300, 100)
    assert torch.allclose(model.weight, required, atol=0.1)


def test_masks_hide_what_is_late_and_what_is_padding() -> None:
    causal = loop.causal_mask(torch.zeros(2, 3, 4))[0, 0]
    assert (causal == 0).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    padding = loop.padding_mask(torch.tensor([[True, False]]), torch.float16)
    assert (padding == 0).tolist() == [[[[True, False]]]]


def test_labels_follow_the_last_token_of_the_prompt() -> None:
    number = {word: i for i, word in enumerate(["<pad>", "</s>", "<s>", "how", "many", "?", "two"])}
    ids, labels = drawing.causal_rows([[("how many ?", "two")]], number, begin="<s>", length=TEXT_LENGTH)
    assert ids[0, 0, :7].tolist() == [2, 3, 4, 5, 6, 1, 0]
    assert labels[0, 0, :7].tolist() == [-100, -100, -100, 6, 1, -100, -100]
    ids, labels = drawing.encoder_rows([[("how many ?", "two")]], number, length=5, answer_length=3)
    assert ids.tolist() == [[[3, 4, 5, 1, 0]]]
    assert labels.tolist() == [[[6, 1, -100]]]


def test_an_answer_counts_only_when_every_token_is_right() -> None:
    labels = torch.tensor([[[1, 2, -100], [1, 2, -100]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[1, 2, 0], [1, 3, 0]]]), 4).float()
    requested = [[Ask("count", "how many", "a"), Ask("shape", "which", "b")]]
    assert exam.mark(lambda _: (logits, labels), requested) == {"all": 50.0, "count": 100.0, "shape": 0.0}


def test_majority_answers_each_wording_with_its_commonest_answer() -> None:
    seen = [
        [Ask("count", "how many", "two")],
        [Ask("count", "how many", "two")],
        [Ask("count", "how many", "one")],
    ]
    assert (
        exam.majority(seen, [[Ask("count", "how many", "two")], [Ask("count", "how many", "one")]])["all"]
        == 50
    )


def test_drawing_is_the_same_in_one_process_and_in_many() -> None:
    whole = drawing.drawn(drawing.draw_scenes, 7, 501, False, 16)
    again = drawing.draw_scenes((7, 500, False, 16)), drawing.draw_scenes((8, 1, False, 16))
    assert [part[0].tobytes() for part in whole] == [part[0].tobytes() for part in again]
    assert [part[1] for part in whole] == [part[1] for part in again]
