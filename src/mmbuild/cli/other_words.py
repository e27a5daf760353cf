"""Words of other tools for commands and options, so that an error can name ours."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

COMMANDS: Mapping[str, str] = {
    "add": "init", "all": "apply", "api-server": "serve", "ask": "run", "benchmark": "bench", "build": "apply",
    "chat-completion": "chat", "check": "validate", "clean": "cache gc", "compile": "apply", "complete": "run",
    "convert": "apply", "create": "init", "dag": "graph",
    "delete": "cache gc", "deploy": "serve", "describe": "explain", "destroy": "cache gc", "df": "cache ls",
    "download": "cache pull", "du": "cache ls", "evaluate": "eval", "exec": "run", "export": "script",
    "fetch": "cache pull", "freeze": "lock", "gc": "cache gc", "generate": "run", "images": "cache ls",
    "infer": "run", "info": "doctor", "inspect": "compat", "install": "apply", "lint": "validate",
    "list": "cache ls", "log": "logs", "ls": "cache ls", "make": "apply", "new": "init", "perf": "bench",
    "prune": "cache gc", "ps": "history", "pull": "cache pull", "push": "cache push", "quantize": "apply",
    "query": "graph", "refresh": "plan", "rm": "cache gc", "score": "eval", "settings": "config show",
    "show": "plan", "start": "serve", "status": "plan", "sync": "apply", "tail": "logs", "test": "verify",
    "tree": "graph", "trtllm-bench": "bench", "trtllm-build": "apply", "trtllm-serve": "serve", "up": "apply",
    "update": "lock", "upgrade": "lock", "upload": "cache push", "version": "--version",
}  # fmt: skip
"""What users of other tools type -> what it is called here."""

_COMPLETION = (
    'add `eval "$(_MMBUILD_COMPLETE=bash_source mmbuild)"` to ~/.bashrc; `mmbuild --help` has zsh and fish'
)

NO_COMMAND: Mapping[str, str] = {
    "completion": _COMPLETION,
    "completions": _COMPLETION,
    "down": "Ctrl-C ends `mmbuild serve`",
    "kill": "Ctrl-C ends `mmbuild serve`",
    "login": "set HF_TOKEN to a token of the hub",
    "stop": "Ctrl-C ends `mmbuild serve`",
}
"""What users of other tools type and mmbuild needs no command for -> what to do."""

IN_GROUPS: Mapping[str, Mapping[str, str]] = {
    "cache": {
        "check": "verify", "clean": "gc", "clear": "gc", "delete": "gc", "download": "pull", "du": "ls",
        "fetch": "pull", "info": "ls", "list": "ls", "prune": "gc", "purge": "gc", "remove": "gc", "rm": "gc",
        "show": "ls", "size": "ls", "status": "ls", "sync": "pull", "upload": "push",
    },
    "ci": {"apply": "run", "build": "run", "compare": "diff", "jobs": "plan", "list": "plan", "ls": "plan",
           "matrix": "plan", "show": "plan"},
    "config": {"dir": "path", "edit": "path", "file": "path", "get": "show", "list": "show", "ls": "show",
               "remove": "unset", "rm": "unset", "delete": "unset"},
}  # fmt: skip
"""The same for the commands of a group: group -> word -> command."""

DELETING = ("cache gc", "gc", "unset")
"""Commands that delete: suggested only to who typed exactly a word of these tables, never for a similar one."""

OPTIONS: Mapping[str, Sequence[str]] = {
    "-V": ["--version"],
    "-b": ["--build-dir"],
    "-d": ["--data"],
    "-i": ["--image"],
    "-n": ["--dry-run"],
    "-p": ["--prompt", "--port"],
    "-s": ["--set"],
    "--check": ["--dry-run"],
    "--dataset": ["--data"],
    "--img": ["--image"],
    "--jobs": ["-j"],
    "--max-output-tokens": ["--max-new-tokens"],
    "--question": ["--prompt"],
    "--served-model-name": ["--model-name"],
    "--text": ["--prompt"],
    "--what-if": ["--dry-run"],
}
"""Option of another tool -> options here that may be meant, the first that the command has."""

_SIMILAR_COMMAND, _SIMILAR_WORD = 0.65, 0.8
"""Minimum similarity, by difflib, of a mistyped command and of a mistyped word of another tool."""
_MISTYPED_OPTION, _SIMILAR_OPTION = 0.85, 0.7
"""The same for options: surely a typing mistake; suggested if the option is not a key of recipes either."""


def unknown_command(word: str, commands: Collection[str]) -> str:
    """The error for a ``word`` that is not one of mmbuild's ``commands``."""
    known = word.lower()
    if known in NO_COMMAND:
        return f"no command `{word}`; {NO_COMMAND[known]}"
    meant = known if known in commands else COMMANDS.get(known) or _similar(known, commands)
    suggestion = f"; did you mean `mmbuild {meant}`?" if meant else f"; commands are {', '.join(commands)}"
    return f"no command `{word}`{suggestion}"


def _similar(word: str, commands: Collection[str]) -> str:
    harmless = [other for other, command in COMMANDS.items() if command not in DELETING]
    near = difflib.get_close_matches(word, commands, n=1, cutoff=_SIMILAR_COMMAND)
    if near:
        return near[0]
    near = difflib.get_close_matches(word, harmless, n=1, cutoff=_SIMILAR_WORD)
    return COMMANDS[near[0]] if near else ""


def unknown_command_of_group(path: str, word: str, commands: Collection[str]) -> str:
    """The error for a ``word`` that is not one of the ``commands`` of the group at ``path`` (`mmbuild cache`)."""
    from mmbuild.base.diagnostics import nearest

    words = IN_GROUPS.get(path.rpartition(" ")[2], {})
    harmless = [command for command in commands if command not in DELETING]
    known = word.lower()
    meant = known if known in commands else words.get(known) or nearest(known, harmless)
    suggestion = f"did you mean `{path} {meant}`?" if meant else f"its commands are {', '.join(commands)}"
    return f"`{path}` has no command `{word}`; {suggestion}"


def unknown_option(option: str, given: Sequence[str], command: click.Command) -> str:
    """The error for an ``option`` that ``command`` does not have.

    Args:
        option: With its dashes.
        given: All words after the command, which may contain the option's value.
    """
    listed = _listed(command)
    value = _value(option, given)
    known = next((other for other in OPTIONS.get(option, ()) if other in listed), None)
    if option == "--format" and f"--{value}" in listed:
        known = f"--{value}"
    if known is not None:
        return f"No such option '{option}'; did you mean `{known}`?"
    mistyped = _similar_option(option, listed, _MISTYPED_OPTION)
    advice = None if mistyped else _key_of_recipe(option, value, command)
    if advice is not None:
        return f"No such option '{option}'; {advice}"
    near = mistyped or _similar_option(option, listed, _SIMILAR_OPTION)
    return f"No such option '{option}'" + (f"; did you mean `{near}`?" if near else "")


def _similar_option(option: str, listed: Sequence[str], cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(option, listed, n=1, cutoff=cutoff)), None)


def _listed(command: click.Command) -> list[str]:
    """The options that ``--help`` lists."""
    shown = [one for one in command.params if not getattr(one, "hidden", True)]
    return [name for one in shown for name in (*one.opts, *one.secondary_opts)]


def _value(option: str, given: Sequence[str]) -> str:
    """The value that follows ``option`` in ``given``, or that it has behind `=`; "" if there is none."""
    found = ((at, text) for at, text in enumerate(given) if text.partition("=")[0] == option)
    at, text = next(found, (len(given), ""))
    following = given[at + 1] if at + 1 < len(given) else ""
    return text.partition("=")[2] or ("" if following.startswith("-") else following)


def _key_of_recipe(option: str, value: str, command: click.Command) -> str | None:
    """What to do about an option that is a key of recipes, here or in another tool; None if it is not."""
    import shlex

    from mmbuild.schema.other_words import KEY_HINTS, KEYS
    from mmbuild.schema.validation import every_key

    word = option.lstrip("-").replace("-", "_")
    key = next((key for key in every_key() if key.rpartition(".")[2] == word), KEYS.get(word))
    takes_settings = _has(command, "--set")
    if not takes_settings and not _has(command, "--build-dir"):
        return None
    if word in KEY_HINTS:
        return f"{KEY_HINTS[word]}, which the recipe sets"
    if key is None:
        return None
    if takes_settings:
        return f"for a key of the recipe use `--set {key}={shlex.quote(value) if value else 'VALUE'}`"
    return f"it is fixed when the engine is built: set `{key}` in the recipe and apply it again"


def _has(command: click.Command, option: str) -> bool:
    return any(option in parameter.opts for parameter in command.params)
