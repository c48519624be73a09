"""Where CANN is found, and the environment that MindSpore Serving gets from it. No CANN is needed."""

from pathlib import Path

import pytest

from servable.runtime import cann
from servable.runtime.cann import Cann, cann_environment, find_cann, serving_cann
from servable.runtime.child_environment import child_environment


@pytest.fixture
def ascend(tmp_path, monkeypatch):
    """An empty /usr/local/Ascend; install(PLACE) puts a CANN there."""
    monkeypatch.setattr(cann, "ASCEND", tmp_path)

    def install(place, version="6.3.T200"):
        (tmp_path / place / "lib64").mkdir(parents=True)
        (tmp_path / place / "compiler").mkdir()
        (tmp_path / place / "compiler" / "version.info").write_text(f"Version={version}\n")
        return tmp_path / place

    return install


def test_without_cann_none_is_found(ascend):
    assert find_cann({}) is None and serving_cann() is None


@pytest.mark.parametrize("place", ["nnae/latest", "ascend-toolkit/latest", "latest", "cann"])
def test_every_place_of_the_installers_is_searched(ascend, place):
    root = ascend(place)
    assert find_cann({}) == Cann(root)


def test_of_two_installations_it_is_the_one_that_mindspore_serving_takes(ascend):
    ascend("ascend-toolkit/latest")
    nnae = ascend("nnae/latest")
    found = find_cann({})
    assert found is not None and found.root == nnae == serving_cann()


@pytest.mark.parametrize("variable", ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"])
def test_a_variable_of_set_env_chooses_another(ascend, variable, tmp_path):
    ascend("nnae/latest")
    assert find_cann({variable: str(tmp_path / "own")}) == Cann(tmp_path / "own", variable)


def test_the_version_is_the_installers_before_that_of_a_component(ascend):
    root = ascend("cann", version="7.6.0.1.220")
    assert Cann(root).version == "7.6.0.1.220"
    (root / "x86_64-linux").mkdir()
    (root / "x86_64-linux" / "ascend_toolkit_install.info").write_text("package_name=toolkit\nversion=8.0.0\n")
    assert Cann(root).version == "8.0.0"


def test_the_child_gets_what_set_env_sets_and_keeps_what_it_inherits():
    root = Path("/opt/cann")
    inherited = {"PATH": "/bin", "PYTHONPATH": "/mine", "LD_LIBRARY_PATH": "/also", "NOTIFY_SOCKET": "/run/n", "A": "1"}
    got = child_environment(Path("/lite"), Cann(root), inherited)
    for name in ("ASCEND_HOME_PATH", "ASCEND_OPP_PATH", "ASCEND_AICPU_PATH", "TOOLCHAIN_HOME"):
        assert got[name] == cann_environment(root)[name]
    libraries = got["LD_LIBRARY_PATH"].split(":")
    assert libraries[0] == "/lite" and libraries[-1] == "/also" and "/opt/cann/lib64" in libraries
    assert "/opt/cann/python/site-packages" in got["PYTHONPATH"].split(":") and got["PYTHONPATH"].endswith(":/mine")
    assert got["PATH"].endswith(":/bin") and got["A"] == "1" and "NOTIFY_SOCKET" not in got


def test_on_a_cpu_nothing_of_cann_is_in_it_and_no_list_has_an_empty_entry():
    """An empty entry of a library path is the working directory."""
    got = child_environment(Path("/lite"), None, {})
    assert got["LD_LIBRARY_PATH"] == "/lite" and "ASCEND_HOME_PATH" not in got
    with_cann = child_environment(Path("/lite"), Cann(Path("/opt/cann")), {})
    assert "" not in with_cann["LD_LIBRARY_PATH"].split(":") + with_cann["PYTHONPATH"].split(":")


def test_freed_memory_stays_with_the_child_unless_the_operator_has_set_something_else():
    got = child_environment(Path("/lite"), None, {"MALLOC_TOP_PAD_": "0"})
    assert got["MALLOC_TOP_PAD_"] == "0" and int(got["MALLOC_TRIM_THRESHOLD_"]) > 0
