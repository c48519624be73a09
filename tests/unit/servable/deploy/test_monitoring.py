"""Alerts and dashboard: they parse, and every metric and label in them is one that the gateway exposes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from servable.config.sections import LimitsSection
from servable.gateway.backends import Backends
from servable.gateway.limits.admission import Admission
from servable.gateway.observe.metrics import GatewayMetrics

TARGET_LABELS = {"job", "instance"}  # Prometheus adds them to everything
EXTRA = {"up": TARGET_LABELS}  # Prometheus' own
INTERVAL = re.compile(r"\$__rate_interval")


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Series name -> its labels, of a gateway's own registry; each labelled metric is touched once."""
    metrics = GatewayMetrics(Admission(LimitsSection(), time.monotonic), _served(), lambda: {16: (2, 20)}, lambda: 1)
    metrics.watch_certificate(lambda: 0.0)
    for metric in vars(metrics).values():
        labels = getattr(metric, "_labelnames", ())
        if labels:
            metric.labels(*labels)
    series: dict[str, set[str]] = dict(EXTRA)
    for family in metrics.registry.collect():
        for sample in family.samples:
            series.setdefault(sample.name, set(TARGET_LABELS)).update(sample.labels)
    return series


def _served() -> Backends:
    backends = Backends(1)
    backends.default.backend = _Backend()  # type: ignore[assignment]
    return backends


class _Backend:
    """What the identity metric reads."""

    fingerprint, weights, preprocessing = "f", "published", "p"


def selectors(expression: Any) -> Iterator[Any]:
    """The vector selectors below a node of a parsed query."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("lhs", "rhs", "expr", "param", "vector_selector", "args"):
        child = getattr(expression, name, None)
        for item in child if isinstance(child, list) else [child]:
            if item is not None:
                yield from selectors(item)


def check(query: str, exposed: dict[str, set[str]]) -> None:
    """Raises AssertionError for a metric or a label that the gateway does not expose, ValueError for bad PromQL."""
    parsed = promql_parser.parse(INTERVAL.sub("5m", query))
    used = list(selectors(parsed))
    assert used, query
    known: set[str] = set()
    for selector in used:
        assert selector.name in exposed, f"{query}: no metric {selector.name}; there are {sorted(exposed)}"
        known |= exposed[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in exposed[selector.name], f"{query}: {selector.name} has no label {matcher.name}"
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query):
        for label in filter(None, map(str.strip, group.split(","))):
            assert label in known, f"{query}: no metric in it has a label {label}"


@pytest.fixture(scope="module")
def alerts(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    folder = Path(request.config.rootpath) / "configs" / "deploy" / "prometheus"
    (group,) = yaml.safe_load((folder / "alerts.yaml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.fixture(scope="module")
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    file = Path(request.config.rootpath) / "configs" / "deploy" / "grafana" / "metric-learn-serving.json"
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def test_every_alert_uses_metrics_that_exist(alerts: list[dict[str, Any]], exposed: dict[str, set[str]]) -> None:
    for rule in alerts:
        check(rule["expr"], exposed)


def test_every_alert_says_how_bad_it_is_and_what_to_do(alerts: list[dict[str, Any]]) -> None:
    names = [rule["alert"] for rule in alerts]
    assert len(names) == len(set(names))
    for rule in alerts:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"].keys() == {"severity"} and rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "0m"))


def test_every_label_in_an_alerts_text_is_one_that_its_query_gives(
    alerts: list[dict[str, Any]], exposed: dict[str, set[str]]
) -> None:
    for rule in alerts:
        text = " ".join(rule["annotations"].values())
        used = set(re.findall(r"\$labels\.(\w+)", text))
        kept = re.match(r"\s*(?:sum|count|histogram_quantile\([^,]*, sum) by \(([^)]*)\)", rule["expr"])
        first = next(selectors(promql_parser.parse(rule["expr"])))
        given = {label.strip() for label in kept.group(1).split(",")} if kept else exposed[first.name]
        assert used <= given, f"{rule['alert']}: {used - given}"


def test_every_alert_has_a_case_in_which_it_fires(alerts: list[dict[str, Any]], deploy: Path) -> None:
    document = yaml.safe_load((deploy / "prometheus" / "alerts.test.yaml").read_text())
    cases = [case for test in document["tests"] for case in test["alert_rule_test"] if case["exp_alerts"]]
    assert {case["alertname"] for case in cases} == {rule["alert"] for rule in alerts}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_itself_fires_the_alerts_as_the_cases_say(deploy: Path) -> None:
    for arguments in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]):
        done = subprocess.run(
            ["promtool", *arguments], cwd=deploy / "prometheus", capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_panel_uses_metrics_that_exist(dashboard: dict[str, Any], exposed: dict[str, set[str]]) -> None:
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    assert len(queries) > 20
    for query in queries:
        assert "$job" in query and "$instance" in query  # every panel follows the selection
        check(query, exposed)


def test_the_dashboard_shows_every_metric_of_the_gateway(
    dashboard: dict[str, Any], exposed: dict[str, set[str]]
) -> None:
    text = json.dumps(dashboard)
    families = {
        re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exposed if name.startswith("metric_learn")
    }
    assert {name for name in families if name not in text} == set()


def test_panels_lie_side_by_side_and_have_their_own_ids(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + column, place["y"] + line) for column in range(place["w"]) for line in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_data_source_is_chosen_in_the_dashboard(dashboard: dict[str, Any]) -> None:
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert names == {"datasource", "job", "instance"}
    for panel in dashboard["panels"]:
        for holder in [panel, *panel.get("targets", [])] if panel["type"] != "row" else []:
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
