"""What the page and the manifest tell users to type exists."""

import re
from pathlib import Path

import pytest
import yaml

from metric_learn_client.cli.embed import command as embed
from metric_learn_client.cli.job import command as job
from metric_learn_client.jobs import __all__ as exported

REPOSITORY = Path(__file__).parents[4]
PAGE = REPOSITORY / "client" / "docs" / "jobs.md"
MANIFEST = REPOSITORY / "configs" / "deploy" / "kubernetes" / "embed-job.yaml"
KNOWN = {name for each in (embed, *job.commands.values()) for option in each.params for name in option.opts}


@pytest.mark.parametrize("path", [PAGE, MANIFEST], ids=["page", "manifest"])
def test_every_option_that_is_shown_exists(path):
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", path.read_text())) - {"--array", "--no-cache-dir"}
    assert len(shown) > 4 and shown <= KNOWN, shown - KNOWN


def test_the_manifest_divides_the_job_into_as_many_parts_as_it_has_pods():
    spec = yaml.safe_load(MANIFEST.read_text())["spec"]
    script = spec["template"]["spec"]["containers"][0]["args"][0]
    assert f"--num-shards {spec['completions']} " in script and spec["completionMode"] == "Indexed"


def test_what_the_package_exports_is_what_it_has():
    import metric_learn_client.jobs as jobs

    assert sorted(exported) == exported
    assert all(getattr(jobs, name) is not None for name in exported)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jobs.nothing  # noqa: B018


def test_every_error_of_a_job_is_exported():
    from metric_learn_client.errors import MetricLearnError
    from metric_learn_client.jobs import errors

    kinds = {name: kind for name, kind in vars(errors).items() if getattr(kind, "__module__", "") == errors.__name__}
    assert {name for name, kind in kinds.items() if issubclass(kind, MetricLearnError)} <= set(exported)
