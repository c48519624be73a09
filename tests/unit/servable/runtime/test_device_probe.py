"""What a process that asks CANN may do: say nothing, end, hang."""

from pathlib import Path

import pytest

from servable.runtime import device_probe
from servable.runtime.cann import Cann


@pytest.mark.parametrize(
    ("script", "dead"),
    [
        ("""echo CANN says something; echo '["opened", "", null]'""", {}),
        (
            """echo '["opened", "OSError: aclrtSetDevice gives error 107001", null]'""",
            "aclrtSetDevice gives error 107001",
        ),
        ("kill -9 $$", "it does not come back, or ends the process"),
        ("exec sleep 60", "it does not come back, or ends the process"),
    ],
    ids=["opened", "an error", "a crash", "a hang"],
)
def test_a_device_is_dead_unless_it_was_opened(tmp_path, monkeypatch, script, dead):
    monkeypatch.setattr(device_probe, "DEVICE_S", 2.0)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    found = device_probe.dead_devices(python, Cann(Path("/c")), [0, 3])
    assert found == ({0: dead, 3: dead} if dead else {})
