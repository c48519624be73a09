"""Whoever takes the run directory's name first gets neither the server's files nor a change of mode."""

import os
import stat
import threading
import time

import pytest

from servable.command import NotReadyError, _locked
from servable.config import REPOSITORY, ConfigError, load_config
from servable.host.run_directory import NotPrivateError, locate, make, open_private

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


def mode_of(path):
    return stat.S_IMODE(path.lstat().st_mode)


def config_of(run_dir):
    return load_config(REPOSITORY / "configs" / "cpu.yaml", [f"server.run_dir={run_dir}"], {})


def refused(path):
    """The one line with which a start ends; the directory's owner and mode are as they were."""
    before = os.stat(path)
    with pytest.raises(ConfigError) as caught, _locked(config_of(path)):
        pass
    after = os.stat(path)
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    (line,) = str(caught.value).splitlines()
    assert f"server.run_dir = {path}: " in line
    return line


def test_a_new_one_is_private_and_holds_the_lock(tmp_path):
    path = tmp_path / "new" / "run"
    with _locked(config_of(path)) as given:
        assert given == path and mode_of(path) == 0o700 and (path / "lock").is_file()
        with pytest.raises(NotReadyError, match="another server runs in it"), _locked(config_of(path)):
            pass
    with _locked(config_of(path)):
        pass


def test_links_above_it_are_resolved_and_its_own_name_is_not(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert locate(tmp_path / "link" / "run") == tmp_path / "real" / "run"
    assert locate(tmp_path / "link" / ".." / "link") == tmp_path / "link"


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o1777, 0o500], ids=oct)
def test_the_mode_of_one_that_is_there_is_refused_and_not_changed(tmp_path, mode):
    path = tmp_path / "run"
    path.mkdir()
    path.chmod(mode)
    assert f"has mode {mode & 0o777:04o}, not 0700; choose a new one" in refused(path)
    assert mode_of(path) == mode


def test_a_link_is_refused_and_what_it_points_at_stays(tmp_path):
    target = tmp_path / "victim"
    target.mkdir(0o700)
    (tmp_path / "run").symlink_to(target)
    assert "is a symbolic link, which could point anywhere" in refused(tmp_path / "run")
    assert not list(target.iterdir())


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    path = tmp_path / "run"
    path.mkdir(0o700)
    (path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"), _locked(config_of(path)):
        pass
    assert not (tmp_path / "victim").exists()


@as_root
def test_one_of_another_user_is_refused(tmp_path):
    path = tmp_path / "run"
    path.mkdir(0o700)
    os.chown(path, 12345, 12345)
    assert "belongs to user 12345, not to this one (0)" in refused(path)


def test_a_name_that_turns_into_a_link_again_and_again_never_leads_elsewhere(tmp_path):
    """The race of a start with somebody who may rename in the folder above."""
    path, target, ended = tmp_path / "run", tmp_path / "victim", threading.Event()
    target.mkdir(0o700)
    victim = (target.stat().st_dev, target.stat().st_ino)

    def swap():
        while not ended.is_set():
            path.symlink_to(target)
            path.unlink()
            path.mkdir(0o700)
            path.rmdir()

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes, limit = set(), time.monotonic() + 20
    try:
        while not {"opened", NotPrivateError} <= outcomes and time.monotonic() < limit:
            try:
                descriptor = open_private(path)
            except (NotPrivateError, FileNotFoundError) as error:
                outcomes.add(type(error))
                continue
            opened = os.fstat(descriptor)
            os.close(descriptor)
            outcomes.add("opened")
            assert (opened.st_dev, opened.st_ino) != victim
    finally:
        ended.set()
        thread.join()
    assert {"opened", NotPrivateError} <= outcomes


def test_no_descriptor_stays_open_after_a_refusal(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(NotPrivateError):
            open_private(tmp_path / "run")
    assert len(os.listdir("/proc/self/fd")) == before


def test_making_it_leaves_one_that_is_there_alone(tmp_path):
    (tmp_path / "run").mkdir(0o755)
    before = mode_of(tmp_path / "run")
    make(tmp_path / "run")
    assert mode_of(tmp_path / "run") == before
