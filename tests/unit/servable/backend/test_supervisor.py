"""The supervisor against children that end, hang, lose workers or never serve. No process, no socket."""

import asyncio
import dataclasses
import errno
import functools
import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from servable.backend import supervisor
from servable.backend.supervisor import StartFailed, Supervisor, backoff_s, pause_s
from servable.backend.warm_up import Unanswered
from servable.config.sections import SupervisionSection
from servable.gateway.backends import BackendFacts, Backends, Golden, WrongEmbedding

SETTINGS = SupervisionSection(max_failures=3, stable_s=3600, backoff_initial_s=0, backoff_max_s=0, worker_lost_s=0.2)
GOLDEN = Golden(b"", np.zeros(1, np.float32))


class Child:
    """Serves until told otherwise. `proof`: what its proof raises; "never" does not come back."""

    numbers = itertools.count(1)

    def __init__(self, version, proof=None, code=None, workers=1, hung=()):
        self.pid = next(self.numbers)
        self.facts = BackendFacts(version, "f", f"unix:/{self.pid}", 48, 16, 2048, "stand-in", "p", GOLDEN)
        self.proof, self.code, self.workers, self.expected_workers = proof, code, workers, workers
        self.lost = 0
        self.hung: Sequence[str] = hung
        self.ended = None

    def poll(self):
        return self.code

    def why(self):
        return self.words

    goes_on_short = False
    compiling = ""
    words = "RuntimeError: the last words"

    def progress(self):
        return self.compiling

    def look_at_devices(self):
        hung, self.hung = self.hung, []
        return hung, []

    def workers_alive(self):
        return self.workers

    def workers_ended(self):
        return self.lost

    async def prove(self, _max_relative_distance):
        if self.proof == "never":
            await asyncio.sleep(3600)
        if self.proof:
            raise self.proof

    def stop(self, *, at_once):
        self.ended = "at once" if at_once else "in order"

    def kill(self):
        self.ended = "killed"


class Scene:
    """A registry whose golden picture always passes, and children from a list."""

    def __init__(self, *children, settings=SETTINGS, start_timeout_s=5.0):
        self.registry = Backends(1)
        self.children = list(children)
        self.launched = []
        self.down = []
        registry_down = self.registry.set_down
        self.registry.default.listeners.append(self._pass_golden)

        def set_down(backend, reason):
            self.down.append(reason)
            return registry_down(backend, reason)

        self.registry.set_down = set_down
        self.supervisor = Supervisor(
            1, self.launch, self.registry, settings, start_timeout_s=start_timeout_s, max_relative_distance=0.02
        )

    def launch(self):
        child = self.children.pop(0) if self.children else Child(1)
        if isinstance(child, Exception):
            raise child
        self.launched.append(child)
        return child

    def _pass_golden(self, served):
        from servable.gateway.backends import State

        if served.state is State.PROBING:
            served.move(State.SERVING, "")

    async def until(self, condition):
        async def wait():
            while not condition():
                await asyncio.sleep(0.01)

        await asyncio.wait_for(wait(), 10)


def played(scenario):
    """The test that runs a coroutine, with its fixtures."""

    @functools.wraps(scenario)
    def test(**fixtures):
        asyncio.run(scenario(**fixtures))

    return test


@played
async def test_a_child_that_ends_with_code_0_is_replaced_like_any_other():
    scene = Scene()
    await scene.supervisor.start()
    scene.launched[0].code = 0
    await scene.until(lambda: len(scene.launched) == 2 and scene.registry.default.serving)
    assert scene.launched[0].ended == "at once"
    assert scene.down == ["MindSpore Serving ended with exit code 0"]
    assert scene.supervisor.restarts == 1
    await scene.supervisor.stop()
    assert scene.launched[1].ended  # "at once" where the start had not quite come to its end


@played
async def test_a_child_that_lives_without_a_worker_is_replaced():
    scene = Scene()
    await scene.supervisor.start()
    scene.launched[0].workers = 0
    await scene.until(lambda: len(scene.launched) == 2)
    assert scene.down == ["MindSpore Serving lost its worker"]
    await scene.supervisor.stop()


@played
async def test_an_only_worker_that_is_lost_replaces_the_child_also_where_another_one_was_begun_unseen():
    scene = Scene()
    await scene.supervisor.start()
    await asyncio.sleep(0.2)
    scene.launched[0].lost = 1
    await scene.until(lambda: len(scene.launched) == 2)
    assert scene.down == ["MindSpore Serving lost its worker"]
    await scene.supervisor.stop()


@played
async def test_one_lost_worker_of_two_may_come_back_or_else_the_child_is_replaced():
    scene = Scene(Child(1, workers=2))
    await scene.supervisor.start()
    first = scene.launched[0]
    first.workers = 1
    await asyncio.sleep(0.12)
    first.workers = 2  # MindSpore Serving restarted it
    await asyncio.sleep(0.3)
    assert len(scene.launched) == 1
    first.workers = 1
    await scene.until(lambda: len(scene.launched) == 2)
    assert scene.down == ["MindSpore Serving runs 1 of 2 workers"]
    await scene.supervisor.stop()


@played
async def test_devices_that_are_left_serve_on_and_the_loss_is_told_until_it_is_over():
    scene = Scene(Child(1, workers=2))
    await scene.supervisor.start()
    first = scene.launched[0]
    first.goes_on_short = True
    first.workers = 1
    await scene.until(lambda: scene.registry.default.missing_workers == 1)
    await asyncio.sleep(2 * SETTINGS.worker_lost_s)
    assert len(scene.launched) == 1 and scene.registry.default.serving
    first.workers = 2
    await scene.until(lambda: scene.registry.default.missing_workers == 0)
    first.workers = 0
    await scene.until(lambda: len(scene.launched) == 2)
    await scene.supervisor.stop()


@played
async def test_a_start_after_a_fault_tells_how_far_it_has_compiled(caplog):
    caplog.set_level("INFO")
    slow = Child(1, proof="never")
    slow.compiling = "compiling model 1 of 2 for the device"
    scene = Scene(Child(1), slow)
    await scene.supervisor.start()
    scene.launched[0].code = -9
    await scene.until(lambda: "compiling model 1 of 2" in scene.registry.default.reason)
    assert not scene.registry.default.serving
    await scene.supervisor.stop()
    assert "version 1: compiling model 1 of 2 for the device" in caplog.text


@played
async def test_a_start_that_takes_too_long_tells_how_far_it_came():
    slow = Child(1, proof="never")
    slow.compiling = "compiling model 1 of 2 for the device"
    scene = Scene(slow, start_timeout_s=1.5)
    with pytest.raises(StartFailed, match=r"start_timeout_s = 1.5, and was last seen compiling model 1 of 2"):
        await scene.supervisor.start()


@played
async def test_a_device_that_hangs_is_named_in_the_log(caplog):
    scene = Scene()
    await scene.supervisor.start()
    scene.launched[0].hung = ["device 1 hangs"]
    await scene.until(lambda: "version 1: device 1 hangs" in caplog.text)
    await scene.supervisor.stop()


@pytest.mark.parametrize("ended", [0, None], ids=["ended", "not yet"])
@played
async def test_the_end_of_an_only_device_that_is_wrong_is_a_matter_of_parity(ended, monkeypatch):
    monkeypatch.setattr(supervisor, "LAST_WORDS_S", 0.1)
    child = Child(1, proof=Unanswered("no worker"), code=ended)
    child.words = "WrongEmbeddingError: 0.3 away"
    scene = Scene(child)
    with pytest.raises(StartFailed, match=r"WrongEmbeddingError: 0.3 away") as caught:
        await scene.supervisor.start()
    assert caught.value.exit_code == 5


@played
async def test_a_report_of_the_gateway_replaces_the_child_once():
    scene = Scene()
    await scene.supervisor.start()
    scene.supervisor.unhealthy("golden picture: DEADLINE_EXCEEDED")
    scene.supervisor.unhealthy("golden picture: DEADLINE_EXCEEDED")
    await scene.until(lambda: len(scene.launched) == 2 and scene.registry.default.serving)
    await asyncio.sleep(0.25)
    assert len(scene.launched) == 2
    assert scene.down == ["golden picture: DEADLINE_EXCEEDED"]
    await scene.supervisor.stop()


@played
async def test_it_gives_up_after_the_configured_number_with_the_last_reason():
    broken = [Child(1, proof=Unanswered("no answer")) for _ in range(5)]
    scene = Scene(Child(1), *broken)
    await scene.supervisor.start()
    scene.launched[0].code = -9
    reason = await asyncio.wait_for(scene.supervisor.gave_up, 30)
    assert "no answer" in reason
    assert len(scene.launched) == 1 + SETTINGS.max_failures
    assert all(child.ended == "at once" for child in scene.launched)


@played
async def test_a_stable_time_forgives_earlier_failures():
    scene = Scene(settings=SETTINGS.model_copy(update={"stable_s": 0.05}))
    await scene.supervisor.start()
    for number in range(2 * SETTINGS.max_failures):
        await asyncio.sleep(0.08)
        scene.launched[-1].code = 1
        await scene.until(lambda count=number + 2: len(scene.launched) == count and scene.registry.default.serving)
    assert not scene.supervisor.gave_up.done()
    await scene.supervisor.stop()


@pytest.mark.parametrize(
    ("child", "code", "words"),
    [
        (Child(1, proof=WrongEmbedding("0.3 away")), 5, "0.3 away"),
        (Child(1, proof=Unanswered("INTERNAL")), 4, "INTERNAL"),
        (Child(1, proof=Unanswered("no servable"), hung=["device 0 hangs"]), 4, "does not serve: device 0 hangs"),
        (Child(1, proof="never", code=1), 4, "exit code 1 before version 1 served: RuntimeError: the last words"),
        (Child(1, proof="never"), 4, "backend.start_timeout_s = 0.3"),
        (OSError(28, "No space left on device"), 4, "No space left"),
    ],
)
@played
async def test_a_first_start_that_fails_says_why_and_leaves_nothing(child, code, words):
    scene = Scene(child, start_timeout_s=0.3)
    with pytest.raises(StartFailed, match=words) as caught:
        await scene.supervisor.start()
    assert caught.value.exit_code == code
    assert all(one.ended == "at once" for one in scene.launched)
    assert not scene.registry.default.serving


@played
async def test_a_start_can_be_cancelled_and_leaves_nothing():
    scene = Scene(Child(1, proof="never"))
    starting = asyncio.create_task(scene.supervisor.start())
    await scene.until(lambda: scene.launched)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert scene.launched[0].ended == "at once"


@played
async def test_ends_with_images_in_them_never_count_and_the_next_start_follows_at_once():
    scene = Scene(settings=SETTINGS.model_copy(update={"backoff_initial_s": 600, "backoff_max_s": 600}))
    await scene.supervisor.start()
    for number in range(3 * SETTINGS.max_failures):
        scene.registry.default.images_in_it = True
        scene.launched[-1].workers = 0
        await scene.until(lambda count=number + 2: len(scene.launched) == count and scene.registry.default.serving)
    assert not scene.supervisor.gave_up.done()
    assert scene.registry.default.deaths_with_suspects == 3 * SETTINGS.max_failures
    await scene.supervisor.stop()


def children_in_a_run(count):
    """Children whose device was running the network when they ended."""
    children = [Child(1) for _ in range(count)]
    for child in children:
        child.facts = dataclasses.replace(child.facts, ran_since=lambda at: True)
    return children


@played
async def test_ends_in_a_run_of_a_device_count_whatever_images_were_in_it():
    scene = Scene(*children_in_a_run(2 * SETTINGS.max_failures))
    await scene.supervisor.start()
    for number in range(SETTINGS.max_failures + 1):
        await scene.until(lambda count=number + 1: len(scene.launched) == count and scene.registry.default.serving)
        scene.registry.default.images_in_it = True
        scene.launched[-1].workers = 0
    assert "lost its worker" in await asyncio.wait_for(scene.supervisor.gave_up, 10)


@played
async def test_they_do_not_where_an_image_is_found_guilty_afterwards():
    scene = Scene(*children_in_a_run(3 * SETTINGS.max_failures))
    await scene.supervisor.start()
    for number in range(2 * SETTINGS.max_failures):
        scene.registry.default.images_in_it = True
        scene.launched[-1].workers = 0
        await scene.until(lambda count=number + 2: len(scene.launched) == count and scene.registry.default.serving)
        scene.registry.default.suspect_images["failed"] += 1
    assert not scene.supervisor.gave_up.done()
    await scene.supervisor.stop()


@played
async def test_a_start_that_fails_counts_also_after_an_end_with_images():
    scene = Scene(Child(1), *(Child(1, proof=Unanswered("no answer")) for _ in range(5)))
    await scene.supervisor.start()
    scene.registry.default.images_in_it = True
    scene.launched[0].code = -9
    assert "no answer" in await asyncio.wait_for(scene.supervisor.gave_up, 10)
    assert len(scene.launched) == 2 + SETTINGS.max_failures


@played
async def test_ends_without_images_count_however_many_had_some():
    scene = Scene()
    await scene.supervisor.start()
    for number in range(2 * SETTINGS.max_failures):
        scene.registry.default.images_in_it = number % 2 == 0
        scene.launched[-1].code = number
        await scene.until(lambda count=number + 2: len(scene.launched) == count and scene.registry.default.serving)
    scene.registry.default.images_in_it = False
    scene.launched[-1].code = 77
    assert "77" in await asyncio.wait_for(scene.supervisor.gave_up, 10)


@played
async def test_a_second_lost_worker_replaces_all_at_once():
    """MindSpore Serving restarts the first, whose images are with the next: an image would end one after the other."""
    scene = Scene(Child(1, workers=8), settings=SETTINGS.model_copy(update={"worker_lost_s": 60}))
    await scene.supervisor.start()
    first = scene.launched[0]
    await asyncio.sleep(0.2)
    first.workers, first.lost = 7, first.lost + 1
    await asyncio.sleep(0.3)
    first.workers = 8
    await asyncio.sleep(0.3)
    assert len(scene.launched) == 1
    first.workers, first.lost = 7, first.lost + 1
    await scene.until(lambda: len(scene.launched) == 2)
    assert scene.down == ["MindSpore Serving lost 2 workers within 60 s"]
    await scene.supervisor.stop()


@played
async def test_one_lost_worker_replaces_all_where_a_suspect_is_alone_in_it():
    scene = Scene(Child(1, workers=2), settings=SETTINGS.model_copy(update={"worker_lost_s": 60}))
    await scene.supervisor.start()
    await asyncio.sleep(0.2)
    scene.registry.default.alone = True
    scene.launched[0].workers, scene.launched[0].lost = 1, 1
    await scene.until(lambda: len(scene.launched) == 2)
    assert scene.down == ["MindSpore Serving lost a worker with a suspect in it"]
    await scene.supervisor.stop()


@played
async def test_a_worker_that_was_lost_before_the_first_image_came_says_nothing_of_a_suspect():
    child = Child(1, workers=2)
    child.workers, child.lost = 1, 1
    scene = Scene(child, settings=SETTINGS.model_copy(update={"worker_lost_s": 60}))
    scene.registry.default.alone = True
    await scene.supervisor.start()
    await asyncio.sleep(0.3)
    assert len(scene.launched) == 1
    await scene.supervisor.stop()


@played
async def test_a_worker_that_is_known_only_a_turn_later_to_have_gone_with_its_device_is_not_lost():
    scene = Scene(Child(1, workers=4), settings=SETTINGS.model_copy(update={"worker_lost_s": 60}))
    await scene.supervisor.start()
    child = scene.launched[0]
    await asyncio.sleep(0.2)
    for lost in (1, 0):
        child.lost = lost
        await asyncio.sleep(0.3)
    scene.registry.default.alone = True
    await asyncio.sleep(0.3)
    assert not scene.down
    child.lost = 1
    await scene.until(lambda: scene.down == ["MindSpore Serving lost a worker with a suspect in it"])
    await scene.supervisor.stop()


@played
async def test_a_stop_is_told_before_the_child_ends():
    scene = Scene()
    await scene.supervisor.start()
    await scene.supervisor.stop()
    assert scene.registry.default.ending


def test_pauses_after_many_ends_with_images_are_short():
    settings = SupervisionSection(backoff_initial_s=0.5, backoff_max_s=3600)
    assert [pause_s(number, settings) for number in (1, 10, 21, 22, 23, 24, 1000)] == [0, 0, 0, 0.5, 1, 2, 5]


def test_backoff_is_none_at_first_then_doubles_to_its_limit():
    settings = SupervisionSection(backoff_initial_s=0.5, backoff_max_s=3)
    assert [backoff_s(failures, settings) for failures in range(1, 7)] == [0, 0.5, 1, 2, 3, 3]
    assert backoff_s(10_000, settings) == 3


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")],
    ids=["files", "threads"],
)
@played
async def test_a_lack_of_descriptors_or_threads_at_a_restart_passes_however_often_it_fails(error):
    scene = Scene(Child(1), *[error] * (4 * SETTINGS.max_failures))
    await scene.supervisor.start()
    scene.launched[0].code = 0
    await scene.until(lambda: len(scene.launched) == 2 and scene.registry.default.serving)
    assert not scene.supervisor.gave_up.done()
    await scene.supervisor.stop()
