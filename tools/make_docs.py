"""Write what follows from code and data: docs/{recipe,commands,diagnostics,traps,limits}.md, tables in
docs/toolchains.md and docs/generation-settings.md, and recipes/schema.json.

python tools/make_docs.py          writes them
python tools/make_docs.py --check  exits with 1 where one is not what it would write
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from commands_page import commands_page
from limits_page import limits_page
from mmbuild.base.codes import codes
from mmbuild.models.families import MODULES, Traits, family
from mmbuild.schema.json_schema import render
from mmbuild.schema.model import Recipe
from mmbuild.schema.validation import section_at
from settings_page import with_fields
from toolchain_tables import with_tables
from trap_page import trap_page

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ("recipes/base/llava.yaml", "recipes/llava-int4.yaml")

RECIPE_HEAD = """\
# Recipes

<!-- Written by tools/make_docs.py from mmbuild.schema.model; change the descriptions there. -->

A recipe is a YAML file that says what to build, not how. `mmbuild validate RECIPE` checks it without building
anything and reports every problem with file, line and column; `mmbuild schema` prints the JSON Schema for editors.

```yaml
{base}```

```yaml
{example}```

## How recipes combine

- `extends` names a base recipe, relative to the file that extends it. Mappings merge key by key; everything else is
  replaced; `null` resets a value of the base to its default. Cycles are refused.
- `--set engine.quantization=int8` overrides a value in every recipe on the command line. The value is YAML.
- `matrix` defines one variant for each combination of values, named `<name>-<value>...`. An axis is a key of
  `engine` (`quantization: [none, int8]`), a dotted key (`visual.dtype: [float16, float32]`), or a name with a key
  (`batch: {{key: engine.max_batch_size, values: [1, 8]}}`). `--set` on a key of an axis replaces its values.
  Two axes cannot set the same key.
- Paths are relative to the file that contains them (with `--set`, to the current directory). They must be inside the
  project's root: the nearest parent directory with `.git`, `pyproject.toml` or `mmbuild.yaml`, otherwise the
  recipe's directory. `--allow-outside` or `MMBUILD_ALLOW_OUTSIDE=1` allows other paths. `mmbuild.yaml` may be empty.
  A command that is given its directory does not take it for a recipe, unless it has keys of one.
- Links in a model's directory are followed within the project's root, within a directory named with `--set`, and
  within one cache of the Hugging Face hub. Others are refused, so that somebody else's project cannot read your
  files; `--allow-outside` allows them too. [limits.md](limits.md) lists how large files may be.
- Only plain data is allowed: no tags, no `yes`/`no` for true and false, no NaN, each key once. Anchors and `<<` are
  fine.

## What is computed

| number | from |
|---|---|
| num_visual_features | the model's config.json, in a different way for each family: see [families/](families/) |
| max_multimodal_len | max_batch_size x max_images_per_prompt x num_visual_features ({across}: num_visual_features) |
| visual.max_batch_size | max_batch_size x max_images_per_prompt |
| quantization.group_size of int4_awq | 128 if it divides the inputs of every linear layer on a rank, otherwise 64 |

A recipe may set each of them; a wrong value is an error. max_input_len counts text and visual features together.
With learned or rotary positions, max_input_len + max_output_len (for an encoder-decoder, 1 + max_output_len) must not
exceed the model's max_position_embeddings.

| family | number formats | weight-only int8 and int4 | images in a prompt | second sources |
|---|---|---|---|---|
{families}

"""


def recipe_page() -> str:
    """docs/recipe.md."""
    base, example = ((ROOT / path).read_text(encoding="utf-8") for path in EXAMPLES)
    across = ", ".join(name for name in MODULES if family(name).TRAITS.cross_attention)
    rows = "".join(_family_row(name, family(name).TRAITS) for name in sorted(MODULES))
    head = RECIPE_HEAD.format(base=base, example=example, across=across, families=rows)
    return head + "".join(_sections(Recipe, ())).rstrip("\n") + "\n"


def _family_row(name: str, traits: Traits) -> str:
    quantized = "no: an encoder-decoder" if traits.encoder_decoder else "yes"
    images = str(traits.most_images_per_prompt or "any number")
    second = ", ".join(f"`model.{key}`" for key in traits.second_sources) or "none"
    cells = (f"[{name}](families/{name}.md)", ", ".join(traits.dtypes), quantized, images, second)
    return f"| {' | '.join(cells)} |\n"


def _sections(section: type[BaseModel], path: tuple[str, ...]) -> Iterator[str]:
    title = ".".join(path) if path else "Top level"
    doc = " ".join((section.__doc__ or "").split())
    yield f"## {title}\n\n{doc}\n\n"
    if not section.model_fields:
        return
    yield "| key | value | default | meaning |\n|---|---|---|---|\n"
    for name, field in section.model_fields.items():
        yield f"| `{name}` | {_values(field)} | {_default(field)} | {field.description} |\n"
    yield "\n"
    for name in section.model_fields:
        below = section_at((*path, name))
        if below is not None and name != "matrix":
            yield from _sections(below, (*path, name))


def _values(field: FieldInfo) -> str:
    words = " \\| ".join(dict.fromkeys(_words(field.annotation)))
    bounds = {type(item): item for item in field.metadata}
    low, high = bounds.get(Ge), bounds.get(Le)
    if low is not None and high is not None:
        words += f" {low.ge} to {high.le}"
    return words


def _words(annotation: Any) -> Iterator[str]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _words(argument)
    elif origin is typing.Annotated:
        yield from _words(typing.get_args(annotation)[0])
    elif origin is typing.Literal:
        yield from (f"`{value}`" for value in typing.get_args(annotation))
    elif origin is tuple:
        yield "list"
    elif origin is dict:
        yield "mapping"
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        yield from (f"`{item.value}`" for item in annotation)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "mapping"
    elif annotation is not type(None):
        yield {str: "text", int: "whole number", float: "number", bool: "true, false"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default.value if isinstance(field.default, Enum) else field.default
    return "" if value in (None, ()) or isinstance(value, BaseModel) else f"`{value}`"


def diagnostics_page() -> str:
    """docs/diagnostics.md."""
    parts = [
        "# Codes\n\n"
        "<!-- Written by tools/make_docs.py from mmbuild/base/codes/*.yaml; change the entries there. -->\n\n"
        "Every finding and every failure carries a code. `mmbuild explain MM103` prints its entry.\n"
    ]
    for code in codes().values():
        parts.append(
            f"\n## {code.code}: {code.title}\n\n"
            f"- Symptom: {code.symptom}\n- Cause: {code.cause}\n- Cure: {code.cure}\n"
        )
    return "".join(parts)


def _read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def pages() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    return {
        ROOT / "docs/recipe.md": recipe_page(),
        ROOT / "docs/commands.md": commands_page(),
        ROOT / "docs/diagnostics.md": diagnostics_page(),
        ROOT / "docs/toolchains.md": with_tables(_read("docs/toolchains.md")),
        ROOT / "docs/traps.md": trap_page(),
        ROOT / "docs/limits.md": limits_page(),
        ROOT / "docs/generation-settings.md": with_fields(_read("docs/generation-settings.md")),
        ROOT / "recipes/schema.json": render(),
    }


def main(arguments: list[str]) -> int:
    """Write or check; the exit status."""
    stale = [
        path
        for path, text in pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is stale; run: python tools/make_docs.py", file=sys.stderr)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(pages()[path], encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
