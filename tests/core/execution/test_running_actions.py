"""The lines of a running apply: what they show of events, in terminals of 80 and 60 columns."""

from itertools import pairwise

import pytest
from inline_snapshot import snapshot

from mmbuild.base.progress import BYTES, Amount, as_data
from mmbuild.base.progress_text import columns
from mmbuild.core.execution.events import Event, EventKind, thinned
from mmbuild.core.execution.running_actions import ApplyProgress, after, lines


def event(kind, label, at, **data):
    return Event(kind, label, data, at)


def progress(label, at, message, amount):
    return Event(EventKind.PROGRESS, label, as_data(message, amount), at)


class Estimate:
    """An estimate of four minutes, whatever runs."""

    def seconds(self, *_):
        return 240.0


def applied(*events, total=9):
    state = ApplyProgress(total, 0.0)
    for item in events:
        state = after(state, item)
    return state


DOWNLOAD, QUANTIZE, COMPILE = (
    "llava-1.5-7b-int4/download",
    "llava-1.5-7b-int4/quantize",
    "llava-1.5-7b-int4/build_llm",
)

RUNNING = (
    event(EventKind.STARTED, DOWNLOAD, 0),
    event(EventKind.STARTED, COMPILE, 2),
    event(EventKind.STARTED, QUANTIZE, 3),
    progress(DOWNLOAD, 0, "downloading model-00001.safetensors", Amount(0, 13.5e9, BYTES)),
    progress(COMPILE, 2, "compiling layer_step, layer_prompt", Amount(0, 8, "packages")),
    progress(QUANTIZE, 3, "transformer.layers.0.mlp.fc.weight", Amount(0, 32, "layers")),
    progress(DOWNLOAD, 15, "downloading model-00001.safetensors", Amount(3.1e9, 13.5e9, BYTES)),
    progress(QUANTIZE, 63, "transformer.layers.11.mlp.fc.weight", Amount(12, 32, "layers")),
    progress(DOWNLOAD, 63, "downloading model-00002.safetensors", Amount(12.9e9, 13.5e9, BYTES)),
)


def shown(state, width, estimate=None, now=64.0, height=24):
    return "\n".join(lines(state, estimate, now, width, height)) + "\n"


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40])
def test_lines_fit_into_the_terminal(width):
    for line in lines(applied(*RUNNING), Estimate(), 64.0, width, 24):
        assert columns(line) <= width


def test_a_wide_terminal_shows_everything():
    assert shown(applied(*RUNNING), 140, Estimate()) == snapshot("""\
  ▸ llava-1.5-7b-int4/download   1 min 4 s  downloading model-00002.safetensors 12.9/13.5 GB, 204.7 MB/s, 2 s left
  ▸ llava-1.5-7b-int4/build_llm  1 min 2 s  compiling layer_step, layer_prompt 0/8 packages
  ▸ llava-1.5-7b-int4/quantize   1 min 1 s  transformer.layers.11.mlp.fc.weight 12/32 layers, 5 s each, 2 min left
  0/9 actions, 1 min 4 s so far, about 4 min left (estimate)
""")


def test_a_terminal_of_80_columns_leaves_out_rates_and_ends_of_messages():
    assert shown(applied(*RUNNING), 80, Estimate()) == snapshot("""\
  ▸ llava-1.5-7b-int4/download   1 min 4 s  downloading … 12.9/13.5 GB, 2 s left
  ▸ llava-1.5-7b-int4/build_llm  1 min 2 s  compiling layer_step … 0/8 packages
  ▸ llava-1.5-7b-int4/quantize   1 min 1 s  12/32 layers, 2 min left
  0/9 actions, 1 min 4 s so far, about 4 min left (estimate)
""")


def test_a_terminal_of_60_columns_leaves_out_messages_and_the_beginning_of_labels():
    assert shown(applied(*RUNNING), 60, Estimate()) == snapshot("""\
  ▸ …-int4/download  1 min 4 s  12.9/13.5 GB, 2 s left
  ▸ …int4/build_llm  1 min 2 s  compiling … 0/8 packages
  ▸ …-int4/quantize  1 min 1 s  12/32 layers, 2 min left
  0/9 actions, 1 min 4 s so far, about 4 min left (estimate)
""")


def test_seconds_tick_without_any_event():
    state = applied(event(EventKind.STARTED, COMPILE, 0))
    assert [shown(state, 80, now=now) for now in (1.0, 3.0)] == snapshot(
        [
            """\
  ▸ llava-1.5-7b-int4/build_llm  1 s
  0/9 actions, 1 s so far
""",
            """\
  ▸ llava-1.5-7b-int4/build_llm  3 s
  0/9 actions, 3 s so far
""",
        ]
    )


def test_an_action_that_ended_is_counted_and_not_shown():
    state = applied(*RUNNING, event(EventKind.FINISHED, QUANTIZE, 64))
    assert QUANTIZE not in shown(state, 140)
    assert (state.ended, state.done) == (1, frozenset({QUANTIZE}))


def test_a_pulled_result_is_not_counted_as_an_action():
    pulled = applied(event(EventKind.PULLING, DOWNLOAD, 0), event(EventKind.PULLED, DOWNLOAD, 5))
    assert (pulled.ended, dict(pulled.running)) == (0, {})


def test_actions_that_could_not_be_pulled_run():
    assert applied(event(EventKind.PLAN, "", 0, run=3, unknown=1)).total == 4


def test_a_low_terminal_says_how_many_actions_it_does_not_show():
    started = [event(EventKind.STARTED, f"r/{number}", 0) for number in range(9)]
    text = shown(applied(*started), 80, height=8)
    assert len(text.splitlines()) == 7
    assert text.splitlines()[-2:] == ["    and 4 more", "  0/9 actions, 1 min 4 s so far"]


def test_messages_cannot_move_the_cursor():
    state = applied(
        event(EventKind.STARTED, "r/a", 0), progress("r/a", 1, "image \x1b[2J\n", Amount(1, 2, "questions"))
    )
    assert "\x1b" not in shown(state, 120)
    assert len(shown(state, 120).splitlines()) == 2


def test_json_has_at_most_two_progress_events_a_second_for_each_action():
    seen = []
    sink = thinned(seen.append)
    for tick in range(1000):
        for label in ("r/a", "r/b"):
            sink(progress(label, tick / 100, "", Amount(tick, 1000, "tensors")))
    sink(event(EventKind.FINISHED, "r/a", 10.0))
    for label in ("r/a", "r/b"):
        times = [item.at for item in seen if item.label == label and item.kind is EventKind.PROGRESS]
        assert len(times) == 20
        assert min(later - sooner for sooner, later in pairwise(times)) >= 0.5
    assert seen[-1].kind is EventKind.FINISHED
