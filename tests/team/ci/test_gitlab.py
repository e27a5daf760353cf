"""Child pipelines of GitLab."""

import pytest
import yaml

from mmbuild.team.ci.services import pipeline


def row(name, kind="engine", needs=()):
    return {"name": name, "kind": kind, "needs": list(needs), "runner": []}


@pytest.mark.parametrize("name", ["default", "cache", "pages", "true"])
def test_a_variant_with_a_name_that_gitlab_keeps_for_itself_is_a_job_all_the_same(name):
    found = yaml.safe_load(pipeline([row("shared-x", "shared"), row(name, needs=["shared-x"])], ["recipes"]))
    job = found[f"engine {name}"]
    assert name not in found
    assert job["needs"] == ["shared-x"]
    assert job["script"] == [f"mmbuild ci run recipes --job {name}"]


def test_other_names_stay():
    assert "llava-int4" in yaml.safe_load(pipeline([row("llava-int4")], ["recipes"]))
