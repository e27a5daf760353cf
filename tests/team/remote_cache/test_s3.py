"""A bucket behind a server that speaks S3, on the loopback interface: what two machines share through it."""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from mmbuild.config.remote_errors import RemoteError
from mmbuild.core.execution.events import EventKind
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.verify import check_store
from mmbuild.team.remote_cache.gc import collect
from mmbuild.team.remote_cache.push import PushOutcome, push
from support.projects.machines import Machine, Unreliable
from support.steps.trivial import action, chain

SECRET = "wJalrXUtnFEMI-secret"


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture
def options(endpoint):
    return {"key": "test", "secret": SECRET, "client_kwargs": {"endpoint_url": endpoint}}


@pytest.fixture
def bucket(options):
    name = f"b{secrets.token_hex(8)}"
    s3fs.S3FileSystem(**options, skip_instance_cache=True).mkdir(name)
    return name


@pytest.fixture
def machines(tmp_path, options, bucket):
    url = f"s3://{bucket}/team/mmbuild"
    return [
        Machine(tmp_path / name, url=url, settings={"options": options}) for name in ("one", "other", "third")
    ]


def test_what_one_machine_built_another_pulls(machines):
    one, other, _ = machines
    engine = action("large", "r/0", bytes=9 << 20)
    graph = RecipeGraph("r", (engine,), engine.definition_key)
    one.apply(graph, chain("s"))
    assert other.apply(graph, chain("s")).ran == ()
    assert other.bytes("r") == one.bytes("r")
    assert other.text("s") == one.text("s")
    assert one.notices == other.notices == []
    assert check_store(other.store).faults == ()
    assert set(other.labels_of(EventKind.PULLED)) == {"r/0", "s/2"}


@pytest.mark.slow
def test_of_machines_that_publish_at_once_one_wins_and_all_end_with_its_result(machines):
    engine = action("large", "r/0", bytes=100)
    graph = RecipeGraph("r", (engine,), engine.definition_key)
    views = [machine.shared() for machine in machines]
    for machine, view in zip(machines, views, strict=True):
        machine.plan(graph, shared=view)  # it does not exist yet
    ready = threading.Barrier(len(machines))

    def apply(item):
        machine, view = item
        ready.wait()
        return machine.apply(graph, shared=view).ran

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(apply, zip(machines, views, strict=True))) == [("r/0",)] * 3
    for machine in machines:
        machine.apply(graph)
    assert len({machine.bytes("r") for machine in machines}) == 1


@pytest.mark.slow
def test_a_damaged_blob_is_built_around_and_replaced(machines, options):
    one, other, third = machines
    one.apply(chain("r"))
    files = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    for path in files.find(one.url + "/v1/objects"):
        files.pipe_file(path, b"x" * files.info(path)["size"])
    assert other.apply(chain("r")).ran == ("r/0", "r/1", "r/2")
    assert other.codes() == {"MM822"}
    assert third.apply(chain("r")).ran == ()


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr("mmbuild.team.remote_cache.s3.PART", 5 << 20)  # the least that S3 takes
    engine = action("large", "r/0", bytes=(22 << 20) + secrets.randbelow(1 << 20))
    return RecipeGraph("r", (engine,), engine.definition_key)


class Counting:
    """A place that fails for good after ``left`` parts, and counts the parts that it took."""

    def __init__(self, place, left):
        self._place, self.left, self.taken = place, left, 0

    def __getattr__(self, name):
        return getattr(self._place, name)

    def put_part(self, *arguments):
        if self.taken >= self.left:
            raise NotImplementedError("the test wants no more")  # another request would give the same answer
        self.taken += 1
        return self._place.put_part(*arguments)


@pytest.mark.slow
def test_an_interrupted_upload_resumes_with_the_missing_parts(machines, parts):
    one, other, _ = machines
    one.push = False
    one.apply(parts)
    shared = one.shared()
    shared._place = first = Counting(shared.place, 2)
    (record,) = load_cache(one.store).by_key.values()
    with pytest.raises(RemoteError):
        push(shared, record)
    assert 0 < first.taken <= 2
    shared = one.shared()
    shared._place = second = Counting(shared.place, 99)
    assert push(shared, record).outcome is PushOutcome.PUBLISHED
    assert first.taken + second.taken == 5
    assert other.apply(parts).ran == ()
    assert other.bytes("r") == one.bytes("r")


@pytest.mark.slow
def test_an_upload_in_parts_survives_errors_and_lost_answers(machines, parts):
    one, other, _ = machines
    one.push = False
    one.apply(parts)
    (record,) = load_cache(one.store).by_key.values()
    shared = one.shared()
    shared._place = unreliable = Unreliable(shared.place, 0.2, 3)
    assert push(shared, record).outcome is PushOutcome.PUBLISHED
    assert unreliable.faults > 0
    assert other.apply(parts).ran == ()
    assert other.bytes("r") == one.bytes("r")


@pytest.mark.slow
def test_an_upload_that_another_machine_ends_meanwhile_is_its(machines, parts):
    one, other, _ = machines
    one.push = False
    one.apply(parts)
    (record,) = load_cache(one.store).by_key.values()
    shared, rival = one.shared(), one.shared()

    class Late(Counting):
        def complete(self, *_):
            push(rival, record)  # resumes the same upload and completes it
            raise FileNotFoundError("The specified upload does not exist")

    shared._place = Late(shared.place, 99)
    assert push(shared, record).carried == record.size
    assert other.apply(parts).ran == ()
    assert other.bytes("r") == one.bytes("r")


def test_collecting_aborts_abandoned_uploads(machines):
    one, _, _ = machines
    one.apply(chain("r"))
    place = one.shared().place
    begun = place.upload("objects/ab/large")
    assert place.upload("objects/ab/large") == begun
    assert place.abort_older(1.0) == 0
    assert place.parts("objects/ab/large", begun) == []
    collect(one.shared(), older_than=3600.0)  # this server says of every upload that it was begun in 2010
    with pytest.raises(FileNotFoundError):
        place.parts("objects/ab/large", begun)


@pytest.mark.slow
def test_collecting_a_bucket(machines):
    one, other, _ = machines
    one.apply(chain("r"), chain("s", text="b"))
    assert len(collect(one.shared(), older_than=3600.0).removed) == 0
    done = collect(one.shared(), max_size=0, keep=[one.digest("r/2")])
    assert (len(done.removed), done.kept) == (5, 1)
    assert other.verdicts(chain("s", text="b"))["s/2"] == "run"


def test_a_missing_bucket_is_reported_once_and_the_build_continues(machines):
    one, _, _ = machines
    one.url = "s3://there-is-none/x"
    assert one.apply(chain("r")).ok
    assert one.codes() == {"MM824"}


def test_wrong_credentials_or_an_endpoint_that_is_gone_cost_one_warning_without_the_secret(machines):
    one, _, _ = machines
    options = {"key": "test", "secret": SECRET, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    one.settings = {"options": options, "timeout": 3.0}
    assert one.apply(chain("r")).ok
    assert [notice.code for notice in one.notices] == ["MM821"]
    assert SECRET not in str(one.notices) + str(one.events)
