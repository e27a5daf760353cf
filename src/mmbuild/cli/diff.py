"""``mmbuild diff``: the differences between two builds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from mmbuild.cli import commands, options
from mmbuild.cli.builds import build_arguments


@commands.command("diff")
@build_arguments("first", "second")
@options.json_option("the differences; their schema has a version")
@options.exit_code_option("Exit with 1 if the engines differ, as git diff does.")
def command(*, first: Path, second: Path, as_json: bool, exit_code: bool) -> None:
    """Show the differences between two builds: recipe, versions, target, inputs, steps and files.

    Reads only the engine directories, so a build may come from another machine. Files are compared by content;
    `mmbuild compare` shows sizes, quality and speed side by side.

    \b
    Example:
      mmbuild diff build/llava-int4 build/llava-int8
      mmbuild diff /mnt/old/llava-int4 build/llava-int4 --exit-code
    """
    from mmbuild.inspect.diff.build_diff import compare_builds
    from mmbuild.inspect.diff.reports import diff_json as data
    from mmbuild.inspect.diff.reports import lines

    difference = compare_builds(first, second)
    click.echo(json.dumps(data(difference), indent=1) if as_json else "\n".join(lines(difference)))
    if exit_code and not difference.same:
        sys.exit(1)
