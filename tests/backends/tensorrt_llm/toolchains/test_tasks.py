"""Tasks: groups of commands that run in a fresh directory containing only their inputs."""

from __future__ import annotations

from functools import cache
from pathlib import PurePosixPath

import pytest

from mmbuild.backends.tensorrt_llm.toolchains.commands import Command
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.backends.tensorrt_llm.toolchains.tasks import PLACES, Task, tasks
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.marks import slow_except
from support.toolchain.cases import rendered


@cache
def every(version: str) -> list[tuple[str, tuple[Task, ...], tuple[Command, ...]]]:
    toolchain = load_toolchain(version)
    return [(variant.name, tasks(variant, toolchain), steps) for variant, steps in rendered(version)]


def below(path: str, place: str) -> bool:
    return PurePosixPath(path).is_relative_to(place)


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_all_products_of_a_task_are_in_its_directory(version: str) -> None:
    for name, found, _ in every(version):
        for task in found:
            for command in task.commands:
                assert command.products or command.edit or task.step == "prepare", (name, command.name)
                assert all(below(product, task.place) for product in command.products), (name, command.name)


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_every_directory_that_a_command_names_is_read_or_made_by_its_task(version: str) -> None:
    """The arguments alone are looked at: a place of the build that a task was not given would be empty there."""
    for name, found, _ in every(version):
        places = {task.place for task in found} | set().union(*(task.reads.values() for task in found))
        for task in found:
            own = {task.place, *task.reads.values()}
            for command in task.commands:
                for argument in command.argv:
                    named = {place for place in places if below(argument, place)}
                    assert named <= own, (name, command.name, argument)


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_a_task_reads_what_tasks_before_it_make(version: str) -> None:
    for name, found, _ in every(version):
        made = {"model"}
        for task in found:
            assert set(task.reads) <= made, name
            assert set(task.reads) | {task.makes} <= set(PLACES)
            made.add(task.makes)
        assert {"checkpoint", "llm", "visual"} <= made


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_every_command_but_downloads_and_questions_is_in_one_task(version: str) -> None:
    for name, found, steps in every(version):
        lines = [command.name for task in found for command in task.commands]
        left = [step.name for step in steps if step.step not in ("download", "run") and not step.script_only]
        assert sorted(lines) == sorted(left), name


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_model_code_is_next_to_the_model_where_scripts_look_for_it(version: str) -> None:
    for name, found, _ in every(version):
        for task in found:
            if "code" in task.reads:
                model, code = PurePosixPath(task.reads["model"]), PurePosixPath(task.reads["code"])
                assert (code.parent, code.name) == (model.parent, "VILA"), name
