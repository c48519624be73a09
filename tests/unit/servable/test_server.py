"""What SIGHUP and the orders of an operator make of a server, with children that obey. No process, no socket."""

import asyncio

import pytest

from servable.config import load_config
from servable.doctor import Examined
from servable.doctor.consistency import inconsistencies
from servable.doctor.examine import default_version, open_configured
from servable.gateway.backends import State
from servable.server import Server
from tests.unit.servable.backend.test_supervisor import Child
from tests.unit.servable.doctor.scene import Scene


@pytest.fixture
def scene(monkeypatch):
    """Versions 1 and 2 can be had, 3 is damaged, and 4 can be had too."""
    with Scene(monkeypatch) as scene:
        for number in (2, 3, 4):
            scene.version(number)
        (scene.folder / "versions" / "3" / "b1.mindir").write_bytes(b"another")
        yield scene


def pass_golden(served):
    if served.state is State.PROBING:
        served.move(State.SERVING, "")


class Running(Server):
    """It serves what the scene's file says at first. models: by version, the section `model` that its child got."""

    def __init__(self, scene):
        self.scene = scene
        config = self.read()
        versions = {number: open_configured(config, number) for number in config.model.versions}
        super().__init__(
            config, Examined(versions=versions, default=default_version(config)), scene.folder, 0, self.read
        )
        self.models = {}
        scene.monkeypatch.setattr(self._launcher, "launch", self.launch)
        self._registry.default.listeners.append(pass_golden)
        self._registry.on_added = lambda served: served.listeners.append(pass_golden)

    def read(self):
        return load_config(self.scene.write(), (), {})

    def launch(self, version, model):
        self.models[version.number] = model
        return Child(version.number)

    async def hang_up(self, **model):
        """SIGHUP, with another file."""
        self.scene.set("model", **model)
        await self._reload()

    async def switch(self, number):
        return await self._order({"command": "switch-version", "version": number})

    @property
    def serves(self):
        return self._versions.default, list(self._versions.numbers)


def played(scenario):
    """The test that runs a coroutine with a server of versions 1 and 2, of which 1 is the default."""

    def test(scene, caplog):
        async def run():
            scene.set("model", version=1, versions=[1, 2])
            server = Running(scene)
            await server._versions.start([1, 2])
            try:
                await scenario(server, caplog)
            finally:
                await server._versions.stop()
                server._launcher.log.close()

        asyncio.run(run())

    return test


@played
async def test_a_reload_that_fails_is_forgotten_by_the_next_switch(server, caplog):
    await server.hang_up(versions=[1, 3])
    assert server.serves == (1, [1, 2]) and "damaged" in caplog.text
    assert (await server.switch(1))["exit_code"] == 0
    assert server.serves == (1, [1, 2])


@played
async def test_a_reload_that_succeeds_counts_for_the_next_switch(server, caplog):
    await server.hang_up(versions=[1, 4])
    assert server.serves == (1, [1, 4])
    await server.switch(4)
    assert server.serves == (4, [1, 4])


@played
async def test_the_failure_of_one_reload_does_not_touch_the_next(server, caplog):
    await asyncio.gather(server.hang_up(versions=[1, 3]), server.hang_up(versions=[1, 2, 4]))
    assert (await server.switch(1))["exit_code"] == 0
    assert server.serves == (1, [1, 2, 4])


@pytest.mark.parametrize("model", [{"version": 4, "versions": [1, 2]}, {"version": 1, "versions": [1, 1]}], ids=str)
def test_a_reload_refuses_what_check_refuses_with_the_same_words(scene, caplog, model):
    @played
    async def scenario(server, caplog):
        await server.hang_up(**model)
        assert server.serves == (1, [1, 2])
        (problem,) = inconsistencies(server.read())
        assert f"SIGHUP: nothing changed: {problem}" in caplog.text

    scenario(scene, caplog)


@played
async def test_a_child_is_given_the_versions_of_now_to_share_the_cores_with(server, caplog):
    assert server.models[1].versions == (1, 2)
    await server.hang_up(versions=[1, 2, 4])
    assert server.models[4].versions == (1, 2, 4)
