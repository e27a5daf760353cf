"""Jobs of a matrix: every action is in exactly one, and its inputs are in that job or an earlier one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given

from mmbuild.core.graph.keys import make_action
from mmbuild.team.ci.jobs import job_named, jobs_of, select
from mmbuild.team.ci.variants import CiError
from support.projects.variants import variant, variants

STAGES = ["source", "shared", "engine"]


def action(label, step="convert", params=None, **inputs):
    return make_action(label=label, step=step, version="1", params=params or {"label": label}, inputs=inputs)


def keyed(*actions):
    return {item.definition_key: item for item in actions}


def keys(job):
    return [item.definition_key for item in job.actions]


@given(variants())
def test_every_action_is_in_exactly_one_job(found):
    owned = [key for job in jobs_of(found) for key in keys(job)]
    assert len(owned) == len(set(owned))
    assert set(owned) == {item.definition_key for one in found for item in one.graph.actions}


@given(variants())
def test_inputs_are_made_in_the_job_or_in_one_that_it_needs(found):
    jobs = jobs_of(found)
    maker = {key: job.name for job in jobs for key in keys(job)}
    for job in jobs:
        needed = {maker[producer] for item in job.graph.actions for producer in item.inputs.values()}
        assert needed | {maker[key] for key in keys(job)} == {job.name, *job.needs}


@given(variants())
def test_jobs_need_only_jobs_of_earlier_stages(found):
    jobs = {job.name: job for job in jobs_of(found)}
    assert len(jobs) == len(jobs_of(found))
    for job in jobs.values():
        assert all(STAGES.index(jobs[name].kind) < STAGES.index(job.kind) for name in job.needs)
    assert all(STAGES.index(one.kind) <= STAGES.index(other.kind) for one, other in pairwise(jobs.values()))


@given(variants())
def test_the_same_recipes_give_the_same_jobs_and_each_variant_has_one(found):
    assert jobs_of(found) == jobs_of(list(found))
    assert [job.name for job in jobs_of(found) if job.kind == "engine"] == [one.name for one in found]


@given(variants())
def test_a_selection_holds_what_its_jobs_need(found):
    jobs = jobs_of(found)
    chosen = select(jobs, {found[0].name})
    names = {job.name for job in chosen}
    assert [job.name for job in chosen if job.kind == "engine"] == [found[0].name]
    assert all(set(job.needs) <= names for job in chosen)
    assert select(jobs, {one.name for one in found}) == jobs


def test_what_six_precisions_share_is_one_job():
    download = action("m/download", "download")
    visual = action("m/visual", "build_visual", model=download.definition_key)
    convert = action("m/convert", model=download.definition_key)
    pool = keyed(download, visual, convert)
    required = [visual.definition_key, convert.definition_key]
    jobs = jobs_of(
        [variant(f"m-{name}", pool, required) for name in ("none", "int8", "int4", "awq", "fp8", "sq")]
    )
    assert [job.name for job in jobs if job.kind != "engine"] == ["shared-m"]
    assert keys(jobs[0]) == list(pool)
    assert all(job.needs == ("shared-m",) and len(job.actions) == 1 for job in jobs[1:])


def test_a_source_of_several_models_is_a_separate_earlier_job():
    tower = action("a/download-vision", "download", {"kind": "hub", "repo": "openai/clip"})
    found = []
    for model in ("a", "b"):
        visual = action(f"{model}/visual", "build_visual", vision=tower.definition_key)
        found += [variant(f"{model}-{name}", keyed(tower, visual), [visual.definition_key]) for name in "xy"]
    jobs = jobs_of(found)
    assert [(job.name, job.kind, job.needs) for job in jobs[:3]] == [
        ("source-clip", "source", ()),
        ("shared-a", "shared", ("source-clip",)),
        ("shared-b", "shared", ("source-clip",)),
    ]


def test_directories_of_the_user_are_no_job():
    mine = action("a/download", "download", {"kind": "path"})
    jobs = jobs_of([variant(name, keyed(mine), [mine.definition_key]) for name in ("a", "b")])
    assert [(job.name, len(job.actions)) for job in jobs] == [("a", 2), ("b", 1)]
    assert not any(job.needs for job in jobs)


def test_names_stay_apart_and_fit_a_shell():
    one, other = action("p/one", "download"), action("p/other", "download")
    pool, required = keyed(one, other), [one.definition_key, other.definition_key]
    found = [
        variant("x y-a", pool, required),
        variant("x y-b", pool, required),
        variant("shared-x_y", pool, required),
    ]
    names = [job.name for job in jobs_of(found) if job.kind == "shared"]
    assert len(set(names) | {one.name for one in found}) == 5
    assert not any(" " in name for name in names)


def test_an_unknown_job_is_reported_with_the_nearest_name():
    jobs = jobs_of([variant("llava-int8", {}, [])])
    with pytest.raises(CiError, match="no job `llava-int9`") as caught:
        job_named(jobs, "llava-int9")
    assert caught.value.code == "MM813"
    assert caught.value.hint == "did you mean `llava-int8`?"


def test_an_unknown_job_like_no_other_is_reported_with_existing_ones():
    jobs = jobs_of([variant(f"llava-{number}", {}, []) for number in range(10)])
    with pytest.raises(CiError) as caught:
        job_named(jobs, "%%%")
    assert caught.value.hint == (
        "`mmbuild ci plan` lists the jobs of the same recipes: "
        f"{', '.join(f'`{job.name}`' for job in jobs[:8])} and {len(jobs) - 8} more"
    )
