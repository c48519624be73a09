"""The command before anything of the server is imported."""

import sys

import pytest

from servable import serving_server


def test_a_python_older_than_3_9_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    with pytest.raises(SystemExit) as ended:
        serving_server.main()
    assert ended.value.code == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "Python 3.8" in line and "needs 3.9 or newer" in line and ".venv/server/bin/python" in line
