"""Locks without a file system: an object with its owner's name, renewed while it works, taken over when it is not.

The object is written with `If-None-Match: *`; renewed every third of its lease, released and taken over with
`If-Match`, so that of two who want it one wins. It is free where it says so; where its owner was a process of this
machine that is gone, or this one, which could not reach the store to release it; or where nobody renewed it for as long
as it says, by this process's own clock. An owner that was away for so long (stopped, cut off) finds another name in it,
and writes nothing any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from typing import Any, Optional

from metric_learn_client.errors import MetricLearnError
from metric_learn_client.jobs.errors import OutputError, Stopped
from metric_learn_client.jobs.output.objects.store import Object, ObjectStore

_held: set[str] = set()  # owners in this process; what it could not release is not among them

_LEASE_S = 30.0  # so long a killed job on another machine is waited for
_POLL_S = 0.5


class Busy(Exception):
    """Somebody else holds it; says who."""


class Lease:
    """One lock object, held from `acquire` to `release`."""

    def __init__(self, store: ObjectStore, key: str, stop: threading.Event, lease_s: float = _LEASE_S) -> None:
        self.owner = uuid.uuid4().hex
        self._store = store
        self._key = key
        self._stop = stop
        self._lease_s = lease_s
        self._etag = ""
        self._beat = 0
        self._ended = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def acquire(self, *, wait: bool) -> None:
        """Raises Busy where another one holds it, unless it is to be waited for; Stopped."""
        _held.add(self.owner)
        try:
            etag = self._store.put(self._key, self._content(), replaces=None)
            if etag is None:
                etag = self._taken_over(wait)
        except BaseException:
            _held.discard(self.owner)
            raise
        self._etag = etag
        self._thread = threading.Thread(target=self._renew, name="job-lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Also where it is another's by now: then nothing is changed."""
        self._ended.set()
        _held.discard(self.owner)
        if self._thread is not None:
            self._thread.join(self._lease_s)
        with contextlib.suppress(MetricLearnError, Stopped):  # it runs out by itself
            self._store.put(self._key, json.dumps({"owner": None}).encode(), replaces=self._etag)

    def _taken_over(self, wait: bool) -> str:
        seen: Optional[str] = None
        since = time.monotonic()
        while True:
            found = self._store.get(self._key)
            replaces = None if found is None else found.etag
            if replaces != seen and seen is not None and not wait:
                raise Busy(_who(found))  # it was renewed while we looked
            if replaces != seen:
                seen, since = replaces, time.monotonic()
            if found is None or is_free(found, time.monotonic() - since):
                etag = self._store.put(self._key, self._content(), replaces=replaces)
                if etag is not None:
                    return etag
            elif not wait and _of_this_machine(_facts(found)):
                raise Busy(_who(found))
            if self._stop.wait(_POLL_S):
                raise Stopped

    def _renew(self) -> None:
        store = self._store.with_limit(self._lease_s / 3)
        while not self._ended.wait(self._lease_s / 3):
            self._beat += 1
            try:
                etag = store.put(self._key, self._content(), replaces=self._etag)
                if etag is None:  # another's, or an earlier renewal came through and its answer did not
                    found = store.get(self._key)
                    if found is None or owner_of(found) != self.owner:
                        return
                    etag = found.etag
                self._etag = etag
            except (MetricLearnError, Stopped):
                continue  # the store is away; whoever writes finds out whether the lock is still ours

    def _content(self) -> bytes:
        facts = {"owner": self.owner, "host": platform.node(), "lease_s": self._lease_s, "renewed": self._beat}
        return (json.dumps({**facts, "process": _process(os.getpid())}) + "\n").encode()


def check_owner(store: ObjectStore, key: str, owner: str) -> None:
    """Raises OutputError where the lock is not the owner's any more."""
    found = store.get(key)
    if found is None or owner_of(found) != owner:
        raise OutputError(
            f"{store.url}: another job has taken over, because this one was away for longer than its lock holds; it "
            "writes nothing any more"
        )


def owner_of(found: Object) -> Optional[str]:
    return _facts(found).get("owner")


def is_free(found: Object, unchanged_s: float) -> bool:
    """unchanged_s: for how long it was seen as it is now."""
    facts = _facts(found)
    if facts.get("owner") is None:
        return True
    if _of_this_machine(facts):
        process = facts["process"]
        gone = _process(process["pid"]) != process
        return gone or (process["pid"] == os.getpid() and facts["owner"] not in _held)
    return unchanged_s > float(facts.get("lease_s", _LEASE_S))


def wait_until_free(store: ObjectStore, key: str, stop: threading.Event) -> None:
    """Raises Busy where somebody renews it, Stopped."""
    first = store.get(key)
    since = time.monotonic()
    while first is not None and not is_free(first, time.monotonic() - since):
        if _of_this_machine(_facts(first)):
            raise Busy(_who(first))
        if stop.wait(_POLL_S):
            raise Stopped
        if (now := store.get(key)) is not None and now.etag != first.etag and owner_of(now) is not None:
            raise Busy(_who(now))
        first = now


def _facts(found: Object) -> dict[str, Any]:
    try:
        facts: Any = json.loads(found.content)
    except ValueError:
        facts = None
    return facts if isinstance(facts, dict) else {"owner": "unknown"}


def _who(found: Optional[Object]) -> str:
    return str(_facts(found).get("host", "unknown")) if found is not None else "unknown"


def _of_this_machine(facts: dict[str, Any]) -> bool:
    own = _process(os.getpid())
    other: Optional[dict[str, Any]] = facts.get("process")
    return own is not None and other is not None and all(bool(own[key] == other.get(key)) for key in ("boot", "space"))


def _process(pid: int) -> Optional[dict[str, Any]]:
    """What tells a process from every other one; None where it is gone, or /proc does not say. Source: proc(5)."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        if fields[0] in ("Z", "X"):
            return None
        return {"boot": boot, "space": os.readlink("/proc/self/ns/pid"), "pid": pid, "started": int(fields[19])}
    except (OSError, ValueError, IndexError):
        return None
