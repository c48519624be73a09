"""When a lock object is free, by what it says and for how long it has said it."""

import json
import os
import subprocess
import sys

from metric_learn_client.jobs.output.objects import leases
from metric_learn_client.jobs.output.objects.leases import _process, is_free, owner_of
from metric_learn_client.jobs.output.objects.store import Object


def lock(**facts):
    return Object(json.dumps(facts).encode(), "etag")


def test_a_lock_without_an_owner_is_free():
    assert is_free(lock(owner=None), 0.0)


def test_a_lock_of_another_machine_is_free_when_it_was_not_renewed_for_its_lease():
    held = lock(owner="other", lease_s=30.0, process={"boot": "other", "space": "other"})
    assert not is_free(held, 29.0) and is_free(held, 31.0)


def test_a_lock_of_this_process_is_free_when_nothing_in_it_holds_it_any_more(monkeypatch):
    """As after an outage of the store in a notebook: it could not be released, and the same call is to go on."""
    own = lock(owner="own", lease_s=30.0, process=_process(os.getpid()))
    monkeypatch.setattr(leases, "_held", {"own"})
    assert not is_free(own, 1e6)
    leases._held.clear()
    assert is_free(own, 0.0)


def test_a_lock_of_a_process_of_this_machine_that_is_gone_is_free_at_once():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        held = lock(owner="gone", lease_s=30.0, process=_process(process.pid))
        assert not is_free(held, 1e6)
    assert is_free(held, 0.0)


def test_a_lock_that_cannot_be_read_is_somebodys_until_its_time_is_up():
    damaged = Object(b"no JSON", "etag")
    assert owner_of(damaged) == "unknown" and not is_free(damaged, 29.0) and is_free(damaged, 31.0)
