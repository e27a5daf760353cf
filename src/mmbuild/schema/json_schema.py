"""The JSON Schema of recipes, for editors."""

from __future__ import annotations

import json
from typing import Any

from mmbuild.schema.model import Recipe

# A recipe that extends another, or is extended, may be partial: editors must not require keys that another file
# states. `mmbuild validate` checks the merged recipe.
_PARTIAL = ("Recipe", "Model", "Engine")


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe file."""
    schema = Recipe.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    schema["title"] = "mmbuild recipe"
    for part in (schema, *schema["$defs"].values()):
        if part is schema or part.get("title") in _PARTIAL:
            part["required"] = [key for key in part.get("required", ()) if key == "version"]
    return schema


def render() -> str:
    """The schema as text, as in ``recipes/schema.json``."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
