"""The output of a job as objects below a prefix: leases for locks, and commits by conditional writes.

1. The shard's files are written to `.partial/<shard>-<unique>/`.
2. `.commit/<shard>.json` is written where there is none: the moment from which the shard is there. It names the files,
   what is in them, and which objects they replace.
3. The files are written to their places, each over the object that it replaces and no other, the stats last; then what
   the shard has not any more, 2 and 1 are removed.

As in a folder, whoever comes next repeats 3. Step 3 sends what 1 has sent once more, because a copy within the store is
not conditional everywhere. The lock is looked at before each write of step 3. What is left: a writer that is stopped
right after it looked, until another one has replaced the same shard with an older file's very bytes, replaces that
file once more, because an ETag is a digest of the content; `job verify` finds it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional

from metric_learn_client.errors import MetricLearnError
from metric_learn_client.jobs.errors import OutputError, RefusedError, Stopped
from metric_learn_client.jobs.output.durable import output_errors
from metric_learn_client.jobs.output.layout import (
    DATA_FOLDERS,
    FILES,
    OWN_FOLDERS,
    is_shards,
    name_of,
    names_of,
    stats_file,
)
from metric_learn_client.jobs.output.objects.leases import Busy, Lease, check_owner, wait_until_free
from metric_learn_client.jobs.output.objects.store import ObjectStore
from metric_learn_client.jobs.output.output import Output
from metric_learn_client.jobs.scratch import Scratch

_PLAN = ".locks/plan"
_LOG_TRIES = 5  # parts of a divided job may add their lines at one time


class Bucket(Output):
    def __init__(self, url: str) -> None:
        self._store = ObjectStore(url)
        self.name = self._store.url
        self._stop = threading.Event()
        self._lock: Optional[tuple[str, str]] = None  # the job's: (key, owner)
        # name -> (ETag, SHA-256), as this run last saw it
        self._known: dict[str, tuple[Optional[str], Optional[bytes]]] = {}
        self._scratch: Optional[Scratch] = None
        self._plan_is_here = False
        self._plan_of_job: Optional[Path] = None  # a worker's, where the job that started it is on the same machine

    def __getstate__(self) -> dict[str, Any]:
        plan = self._folder() / "plan" if self._plan_is_here else None
        return {"name": self.name, "lock": self._lock, "plan": plan}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["name"])  # type: ignore[misc]
        self._lock = state["lock"]
        self._plan_of_job = state["plan"]

    def attach(self, limit_s: float, stop: threading.Event, notice: Callable[[str], None]) -> None:
        self._stop = stop
        self._store = ObjectStore(self.name, limit_s, stop, notice)

    def check(self) -> None:
        self._store.probe()
        other = self._store.any_other_than(tuple(f"{folder}/" for folder in OWN_FOLDERS))
        # In this order: another part may be making the job now, and job.json is the first that it writes here.
        if other is not None and self.read("job.json") is None:
            raise RefusedError(f"{self.name} is not empty and holds no job ({other}); name another prefix")

    @contextmanager
    def job_lock(self, num_shards: int, shard_index: int) -> Iterator[None]:
        key = f".locks/part-{shard_index}-of-{num_shards}"
        lease = Lease(self._store, key, self._stop)
        try:
            lease.acquire(wait=False)
        except Busy as busy:
            part = f" part {shard_index} of" if num_shards > 1 else ""
            raise RefusedError(
                f"{self.name}: another job works on{part} this directory, on {busy}; wait for it, or name another one"
            ) from None
        try:
            for other in self._store.list(".locks/part-"):
                if not other.endswith(f"-of-{num_shards}"):
                    wait_until_free(self._store, other, self._stop)
            self._lock = (key, lease.owner)
            yield
        except Busy as busy:
            raise RefusedError(
                f"{self.name}: a job of another number of parts works on this directory, on {busy}; wait for it"
            ) from None
        finally:
            self._lock = None
            lease.release()
            self._end()

    @contextmanager
    def plan_lock(self) -> Iterator[None]:
        lease = Lease(self._store, _PLAN, self._stop)
        lease.acquire(wait=True)
        try:
            yield
        finally:
            lease.release()

    def read(self, name: str) -> Optional[bytes]:
        found = self._store.get(name)
        self._known[name] = (None, None) if found is None else (found.etag, hashlib.sha256(found.content).digest())
        return None if found is None else found.content

    def write(self, name: str, content: bytes) -> None:
        if name not in self._known:
            self.read(name)
        etag, sha256 = self._known[name]
        if sha256 == hashlib.sha256(content).digest():
            return
        etag = self._store.put(name, content, replaces=etag)
        if etag is None:
            raise self._changed(name)
        self._known[name] = (etag, hashlib.sha256(content).digest())

    def log(self, line: str) -> None:
        with suppress(MetricLearnError, Stopped):
            for _ in range(_LOG_TRIES):
                found = self._store.get("runs.jsonl")
                content = (b"" if found is None else found.content) + f"{line}\n".encode()
                if self._store.put("runs.jsonl", content, replaces=found and found.etag) is not None:
                    return

    def plan(self) -> Path:
        if self._plan_of_job is not None and self._plan_of_job.is_dir():
            return self._plan_of_job
        folder = self._folder() / "plan"
        if not self._plan_is_here:
            with output_errors(folder):
                folder.mkdir(exist_ok=True)
                for key in self._store.list(".plan/"):
                    (folder / key.rpartition("/")[2]).write_bytes(self.read(key) or b"")
            self._plan_is_here = True
        return folder

    def save_plan(self) -> None:
        for path in sorted(self.plan().iterdir(), key=lambda path: (path.suffix == ".json", path.name)):
            if path.suffix in (".json", ".arrow"):
                with output_errors(path):
                    content = path.read_bytes()
                self.write(f".plan/{path.name}", content)

    def committed(self) -> list[int]:
        names = (key.rpartition("/")[2] for key in self._store.list("stats/"))
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())

    def open(self, name: str, shard: int) -> BinaryIO:
        for _ in range(2):  # the commit may end between the two
            record = self._record(shard)
            key = record["files"].get(name, {}).get("from", name) if record else name
            found = self._store.get(key)
            if found is not None:
                return BytesIO(found.content)
        raise FileNotFoundError(f"{self._store.shown(name)}: no such object")

    def replacing(self, shard: int) -> bool:
        return self._store.etag(_record_key(shard)) is not None

    def recover(self, shards: Optional[Iterable[int]] = None) -> None:
        mine = None if shards is None else set(shards)
        for key in self._store.list(".commit/"):
            shard = int(key[len(".commit/") : -len(".json")])
            if mine is None or shard in mine:
                self._put_in_place(shard)
        for key in self._store.list(".partial/"):
            if mine is None or int(key[len(".partial/") :].split("-")[0]) in mine:
                self._store.delete(key)

    def begin(self, shard: int) -> Path:
        folder = self._folder() / f"{shard:05d}-{uuid.uuid4().hex}"
        with output_errors(folder):
            folder.mkdir()
        return folder

    def finish(self, shard: int, folder: Path) -> None:
        self._check_lock()
        staged = f".partial/{folder.name}/"
        try:
            contents = {path.name: path.read_bytes() for path in folder.iterdir()}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._put_in_place(shard)  # what another run committed and did not finish
        wanted = {name_of(base): base for base in contents}
        files = {
            name: {
                "from": staged + base,
                "sha256": hashlib.sha256(contents[base]).hexdigest(),
                "replaces": self._store.etag(name),  # also of a file whose mark somebody removed
            }
            for name, base in sorted(wanted.items(), key=lambda each: (each[0].startswith("stats/"), each[0]))
        }
        gone = [name for name in names_of(shard) if name not in wanted and self._store.etag(name) is not None]
        for base, content in contents.items():
            self._store.put(staged + base, content, replaces=None)
        record = json.dumps({"token": folder.name, "files": files, "gone": gone}).encode()
        if self._store.put(_record_key(shard), record, replaces=None) is None:
            raise OutputError(f"{self.name}: another job commits shard {shard}; run the same command again")
        self._put_in_place(shard, contents)
        if not self._is_in_place(stats_file(shard), files[stats_file(shard)]):
            raise self._changed(stats_file(shard))

    def clear(self) -> None:
        folders = ("stats", *OWN_FOLDERS, *DATA_FOLDERS)
        keys = [key for folder in folders if folder != ".locks" for key in self._store.list(f"{folder}/")]
        for key in [*keys, *FILES]:
            if is_shards(key) or not key.startswith((*(f"{folder}/" for folder in DATA_FOLDERS), ".seen/")):
                self._store.delete(key)
        self._known.clear()
        self._end()

    def _put_in_place(self, shard: int, contents: Optional[dict[str, bytes]] = None) -> None:
        """Step 3, from wherever it was left; contents: of the files by their base names, where they are at hand."""
        record = self._record(shard)
        if record is None:
            return
        if self._is_current(record):
            for name, facts in record["files"].items():
                content = self._content(facts, contents)
                self._check_lock()
                written = content is not None and self._store.put(name, content, replaces=facts["replaces"]) is not None
                if not written and not self._is_in_place(name, facts):
                    self._remove_strays(shard)
                    raise self._changed(name)
            for name in record["gone"]:
                if self._record(shard) == record:  # a run that lost its lock here must not remove what is new
                    self._store.delete(name)
        if self._record(shard) == record:
            self._store.delete(_record_key(shard))
        for key in self._store.list(f".partial/{record['token']}/"):
            self._store.delete(key)

    def _check_lock(self) -> None:
        if self._lock is not None:
            check_owner(self._store, *self._lock)

    def _remove_strays(self, shard: int) -> None:
        """What this run put where the shard, which another one has replaced, has no file any more."""
        stats = self._store.get(stats_file(shard))
        kept = [] if stats is None else json.loads(stats.content)["files"]
        for name in names_of(shard):
            if stats is not None and name.startswith(DATA_FOLDERS[:-1]) and name not in kept:
                self._store.delete(name)

    def _is_current(self, record: dict[str, Any]) -> bool:
        """Whether every file is what the commit replaces, or what it puts there. Else it is the late one of a run that
        lost its lock, and the shard has been replaced since."""
        files = record["files"].items()
        return all(
            self._store.etag(name) == facts["replaces"] or self._is_in_place(name, facts) for name, facts in files
        )

    def _is_in_place(self, name: str, facts: dict[str, Any]) -> bool:
        found = self._store.get(name)
        return found is not None and hashlib.sha256(found.content).hexdigest() == facts["sha256"]

    def _content(self, facts: dict[str, Any], contents: Optional[dict[str, bytes]]) -> Optional[bytes]:
        base = facts["from"].rpartition("/")[2]
        given = None if contents is None else contents.get(base)
        if given is not None and hashlib.sha256(given).hexdigest() == facts["sha256"]:
            return given  # else the record is another run's
        found = self._store.get(facts["from"])
        return None if found is None else found.content

    def _record(self, shard: int) -> Optional[dict[str, Any]]:
        found = self._store.get(_record_key(shard))
        record: Optional[dict[str, Any]] = None if found is None else json.loads(found.content)
        return record

    def _changed(self, name: str) -> OutputError:
        return OutputError(f"{self._store.shown(name)}: somebody else changed it; run the same command again")

    def _folder(self) -> Path:
        if self._scratch is None:
            self._scratch = Scratch()
        return self._scratch.folder

    def _end(self) -> None:
        """The copies on this machine go."""
        self._plan_is_here = False
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None


def _record_key(shard: int) -> str:
    return f".commit/{shard:05d}.json"
