"""`--check` on a simulated Ascend host: what would keep it from serving is one line, with the remedy."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .simulated_host import SERVER_PYTHON, SimulatedHost

OWN = "/usr/local/Ascend/own"
NO_MORE_THAN_OTHERS = "--bounding-set=-dac_override,-dac_read_search"  # what root may without these
CASES = {}


def case(*words, config="configs/ascend310.yaml", flags=()):
    """The decorated function breaks the host; every word must be in the one line that says so."""

    def add(function):
        CASES[function.__name__.lstrip("_")] = (function, config, flags, words)
        return function

    return add


@case(
    "lacks the driver (/usr/local/Ascend/driver",
    "container",
    "device 3 of backend.device_ids",
    "there are 2",
    flags=["backend.device_ids=[0,3]"],
)
def _no_driver_and_more_device_ids_than_devices(host):
    host.set(NO_DRIVER=1, DEVICES=2)


@case("an Ascend device (/dev/davinci*)", "configs/cpu.yaml")
def _no_device(host):
    host.set(DEVICES=0)


@case("lacks CANN 6.3", "ASCEND_HOME_PATH")
def _no_cann(host):
    host.set(INSTALLED="")


@case("ASCEND_HOME_PATH = /nowhere", "no lib64 in it")
def _a_variable_that_names_no_cann(host):
    host.environment["ASCEND_HOME_PATH"] = "/nowhere"


@case(f"ASCEND_HOME_PATH = {OWN}", "MindSpore Serving takes CANN from /usr/local/Ascend/nnae/latest", "unset")
def _two_installations_and_a_variable_that_names_the_other(host):
    host.set(INSTALLED="nnae/latest=6.3.T200,own=6.3.T200")
    host.environment["ASCEND_HOME_PATH"] = OWN


@case("CANN 7.0.T10 in /usr/local/Ascend/ascend-toolkit/latest", "cannot load it", "undefined symbol", "CANN 6.3")
def _a_cann_of_another_version(host):
    host.set(INSTALLED="ascend-toolkit/latest=7.0.T10", FOREIGN=1)


@case("CANN 8.5.0 in /usr/local/Ascend/cann no longer compiles for a 310", "install CANN 6.3")
def _a_310_with_a_cann_that_left_it_behind(host):
    host.set(INSTALLED="cann=8.5.0")


@case("CANN 6.3.T200", "libge_runner.so is not there", "install toolkit or nnae")
def _a_missing_library_that_the_kernel_plugin_does_not_need(host):
    host.set(MISSING="libge_runner.so")


@case("libacl_cblas.so is not there", "install toolkit or nnae")
def _a_missing_library_of_the_kernel_plugin(host):
    host.set(MISSING="libacl_cblas.so")


@case("static TLS block", "LD_PRELOAD=", "libgomp.so.1")
def _no_room_for_another_librarys_thread_storage(host):
    host.set(FULL_TLS=1)


@case("cannot load it (it ended the interpreter)", "install that")
def _a_library_that_aborts(host):
    host.set(ABORT=1)


@case("the device is an Ascend910B3", "the 910A alone", config="configs/ascend910.yaml")
def _a_910b(host):
    host.set(SOC="Ascend910B3")


@case("backend.target = ascend310: the device is an Ascend910A", "set it to ascend910")
def _another_chip_than_the_configuration_says(host):
    host.set(SOC="Ascend910A")


def lines(host, versions, *flags):
    done = host.check(f"model.directory={versions}", *flags)
    assert done.returncode == 4, done.stdout + done.stderr
    return done.stderr.splitlines()


def test_two_problems_of_the_device_are_a_line_each(host, versions):
    host.set(NODE_MODE="000", TE_IMPORTS="json,no_such_package")
    host.prefix = ["setpriv", NO_MORE_THAN_OTHERS]
    rights, te = lines(host, versions)
    for words in (
        "/dev/davinci0, /dev/davinci_manager",
        "user root (0) may not read and write",
        "mode 000",
        "--group-add 0",
    ):
        assert words in rights
    for words in "imports te, which needs no_such_package", ".venv/engine/bin/python", "make engine-env":
        assert words in te


def test_two_problems_of_the_hosts_resources_are_a_line_each(host, versions):
    host.set(SHM="8m")
    host.prefix = ["sh", "-c", 'ulimit -n 100; exec "$@"', "sh"]
    said = lines(host, versions, "backend.workers=9")
    assert len(said) == 2, said
    for words in (
        ("backend.workers = 9", "MB in /dev/shm, 8 are free", "--shm-size"),
        ("ulimit -n = 100", "LimitNOFILE"),
    ):
        assert any(all(word in line for word in words) for line in said), said


@pytest.fixture(scope="module")
def checked(libraries, versions, tmp_path_factory):
    """What `--check` says of each case, two hosts at a time: a check is one process after the other."""

    def check(host, name):
        function, config, flags, _ = CASES[name]
        function(host)
        return host.check(f"model.directory={versions}", *flags, config=config)

    hosts = [SimulatedHost(libraries, tmp_path_factory.mktemp(name)) for name in CASES]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CASES, pool.map(check, hosts, CASES)))


@pytest.mark.parametrize("name", CASES)
def test_it_names_the_problem_in_one_line(checked, name):
    done, words = checked[name], CASES[name][-1]
    assert done.returncode == 4, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("soc", "config"), [("Ascend310", "ascend310"), ("Ascend310P3", "ascend310"), ("Ascend910A", "ascend910")]
)
def test_a_host_on_which_everything_is_right_passes(host, versions, soc, config):
    done = host.set(SOC=soc).check(f"model.directory={versions}", config=f"configs/{config}.yaml")
    assert done.returncode == 0 and done.stdout == f"ok: version 1, stand-in weights, {config}\n", done.stderr
    assert not done.stderr and not host.run_dir.exists()


@pytest.mark.parametrize(
    "installed", ["nnae/latest=6.3.T200", "own=6.3.T200", "nnae/latest=6.3,ascend-toolkit/latest=7"]
)
def test_other_places_of_cann_pass_too(host, versions, installed):
    if installed.startswith("own"):
        host.environment["ASCEND_HOME_PATH"] = OWN
    done = host.set(INSTALLED=installed).check(f"model.directory={versions}")
    assert done.returncode == 0, done.stderr


def test_what_nobody_is_known_to_have_tried_is_a_warning(host, versions):
    host.set(INSTALLED="nnae/latest=7.0.T10").environment["HOME"] = "/proc"
    host.prefix = ["setpriv", NO_MORE_THAN_OTHERS]
    done = host.check(f"model.directory={versions}")
    version, home = done.stderr.splitlines()
    assert version.startswith("warning: CANN 7.0.T10 in /usr/local/Ascend/nnae/latest: ") and "built for 6.3" in version
    assert home.startswith("warning: HOME = /proc: it cannot be written") and done.returncode == 0


def test_nothing_of_the_simulated_host_is_seen_outside(host):
    there = "import os; print(os.path.exists('/usr/local/Ascend/driver'))"
    assert host.run(SERVER_PYTHON, "-c", there).stdout == "True\n"
    assert "Ascend" not in Path("/proc/self/mounts").read_text()
    assert "davinci" not in " ".join(os.listdir("/dev")) and not Path("/usr/local/Ascend/driver").exists()
