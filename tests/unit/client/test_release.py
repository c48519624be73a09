"""A release is made of what is committed, or refused with what to do."""

import datetime
import importlib.util
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "client" / "release" / "release.py"
DATE = datetime.date(2026, 11, 30)
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n- A thing.\n\n## [0.1.0] - 2026-01-01\n\n- The first.\n"
IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@b"]


@pytest.fixture(scope="module")
def release():
    spec = importlib.util.spec_from_file_location("release", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path, release):
    """A clean checkout whose version is 0.2.0, with something in the changelog."""
    (tmp_path / release.VERSION_FILE).parent.mkdir(parents=True)
    (tmp_path / release.VERSION_FILE).write_text('__version__ = "0.2.0"\n')
    (tmp_path / release.CHANGELOG).write_text(CHANGELOG)
    for command in (["init", "-q"], ["add", "."], [*IDENTITY, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_what_is_unreleased_becomes_the_version_with_its_date(release):
    text = release.released(CHANGELOG, "0.2.0", DATE)
    assert text == CHANGELOG.replace("## [Unreleased]\n", "## [Unreleased]\n\n## [0.2.0] - 2026-11-30\n")


def test_a_changelog_that_has_the_version_stays(release):
    assert release.released(CHANGELOG, "0.1.0", DATE) is None


def test_a_version_without_a_line_for_users_is_refused(release):
    with pytest.raises(release.ReleaseError, match="write what users will notice"):
        release.released(CHANGELOG.replace("### Added\n- A thing.\n", ""), "0.2.0", DATE)


def test_a_clean_checkout_of_the_version_is_released(release, repository):
    assert "## [0.2.0] - " in release.checked(repository, "0.2.0", dry_run=False)


def test_a_version_that_the_source_does_not_have_is_refused(release, repository):
    with pytest.raises(release.ReleaseError, match=r"_version\.py says 0\.2\.0, not 0\.3\.0"):
        release.checked(repository, "0.3.0", dry_run=False)


@pytest.mark.parametrize("version", ["", "1.2", "v1.2.3", "1.2.3rc1"])
def test_a_version_that_is_not_three_numbers_is_refused(release, repository, version):
    with pytest.raises(release.ReleaseError, match="must be three numbers"):
        release.checked(repository, version, dry_run=False)


def test_a_tree_with_changes_is_refused(release, repository):
    (repository / "new.txt").write_text("not committed")
    with pytest.raises(release.ReleaseError, match=r"new\.txt"):
        release.checked(repository, "0.2.0", dry_run=False)


def test_a_tag_that_is_there_is_refused(release, repository):
    subprocess.run(["git", "tag", "v0.2.0"], cwd=repository, check=True)
    with pytest.raises(release.ReleaseError, match="take the next version"):
        release.checked(repository, "0.2.0", dry_run=False)


def test_a_tag_that_is_there_can_be_built_again(release, repository):
    subprocess.run(["git", "tag", "v0.2.0"], cwd=repository, check=True)
    assert release.checked(repository, "0.2.0", dry_run=True)
