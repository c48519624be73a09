"""The move from one version to another, with children that obey: what is served at every step, and after a failure."""

import asyncio

import pytest

from servable.backend.supervisor import StartFailed, Supervisor
from servable.backend.versions import Versions
from servable.config import ConfigError
from servable.config.sections import SupervisionSection
from servable.gateway.backends import Backends, State, WrongEmbedding

from .test_supervisor import Child

SETTINGS = SupervisionSection(max_failures=1, backoff_initial_s=0, backoff_max_s=0)


class Scene:
    """Versions 1 to 3 can be had, 4 is damaged, 5 gives wrong embeddings. The golden picture passes for the others."""

    def __init__(self):
        self.registry = Backends(1)
        self.registry.default.listeners.append(self._pass)
        self.registry.on_added = lambda served: served.listeners.append(self._pass)
        self.versions = Versions(self.registry, self.open, self.supervise, drain_s=0.5)
        self.children = {}
        self.broken = {5}
        self.defaults = []
        self.registry.on_default = self.defaults.append

    def _pass(self, served):
        if served.state is State.PROBING:
            served.move(State.SERVING, "")

    def open(self, number):
        if number == 4:
            raise ConfigError("damaged")
        return number

    def supervise(self, number):
        def launch():
            self.children[number] = Child(number, proof=WrongEmbedding("0.3 away") if number in self.broken else None)
            return self.children[number]

        return Supervisor(number, launch, self.registry, SETTINGS, start_timeout_s=5, max_relative_distance=0.02)

    async def give_up(self, number):
        """It ends, and cannot be started any more."""
        self.broken.add(number)
        self.children[number].code = 1
        await self.versions._running[number].gave_up

    def served(self):
        return [served.version for served in self.registry.all()]


def played(scenario):
    """The test that runs a coroutine with a scene, whose version 1 serves."""

    async def run():
        scene = Scene()
        await scene.versions.start([1])
        try:
            await scenario(scene)
        finally:
            await scene.versions.stop()
        assert all(child.ended for child in scene.children.values())

    return lambda: asyncio.run(run())


@played
async def test_the_new_version_takes_over_before_the_old_one_ends_and_back_again(scene):
    await scene.versions.switch(2)
    assert scene.served() == [2] and scene.versions.default == 2
    assert scene.children[1].ended == "in order" and scene.children[2].ended is None
    await scene.versions.switch(1)
    assert scene.served() == [1] and scene.defaults == [2, 1]


@played
async def test_calls_in_flight_keep_the_old_version_until_they_end(scene):
    old = scene.registry.default
    with old:
        switching = asyncio.create_task(scene.versions.switch(2))
        while scene.versions.default != 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert scene.children[1].ended is None and not switching.done()
    await switching
    assert scene.children[1].ended == "in order"


@played
async def test_several_versions_stay_when_they_are_wanted(scene):
    await scene.versions.switch(2, [1, 2, 3])
    assert scene.served() == [1, 2, 3]
    await scene.versions.switch(3, [3])
    assert scene.served() == [3]


@pytest.mark.parametrize(("bad", "error"), [(4, ConfigError), (5, StartFailed)])
def test_a_bad_version_changes_nothing_even_beside_a_good_one(bad, error):
    async def scenario(scene):
        with pytest.raises(error):
            await scene.versions.switch(2, [1, 2, bad])
        assert scene.versions.default == 1 and scene.registry.default.serving
        assert scene.versions.numbers == (1,) and scene.children[1].ended is None
        assert scene.defaults == []

    played(scenario)()


@played
async def test_a_switch_that_is_cut_short_leaves_no_child_behind(scene):
    """The end of the server may come while the old version is drained."""
    with scene.registry.default:
        switching = asyncio.create_task(scene.versions.switch(2))
        while scene.versions.default != 2:
            await asyncio.sleep(0.01)
        switching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await switching


@played
async def test_only_the_defaults_end_is_the_servers(scene):
    await scene.versions.switch(1, [1, 2])
    for number in (2, 1):
        supervisor = scene.versions._running[number]
        supervisor.gave_up.set_result("it cannot be kept running")
        await asyncio.sleep(0)
        assert scene.versions.gave_up.done() == (number == 1)
    assert "version 1" in scene.versions.gave_up.result()


@pytest.mark.parametrize(("default", "versions"), [(2, [1]), (1, [1, 2])])
def test_a_version_that_was_given_up_is_started_again_where_it_is_asked_for(default, versions):
    async def scenario(scene):
        await scene.versions.switch(1, [1, 2])
        await scene.give_up(2)
        scene.broken.discard(2)
        await scene.versions.switch(default, versions)
        assert scene.versions.default == default and scene.served() == [1, 2]
        assert scene.registry.resolve(2).serving

    played(scenario)()


@played
async def test_a_version_that_was_given_up_and_cannot_be_started_changes_nothing_for_the_others(scene):
    await scene.versions.switch(1, [1, 2])
    await scene.give_up(2)
    with pytest.raises(StartFailed):
        await scene.versions.switch(2, [1])
    assert scene.versions.default == 1 and scene.served() == [1] and scene.registry.default.serving


@played
async def test_a_version_that_was_given_up_does_not_hold_up_the_move_to_another(scene):
    await scene.versions.switch(1, [1, 2])
    await scene.give_up(2)
    await scene.versions.switch(3, keep=[1, 2])
    assert scene.versions.default == 3 and scene.served() == [1, 2, 3]
    assert scene.versions.status()[1]["state"] == "down"
