"""python -m tests.e2e.wires.kserve_models FILE...: what of the manifests KServe's own model classes do not take.

A process of its own: the kserve package and tritonclient register the same messages, which one process takes once.
"""

import json
import re
import sys
from pathlib import Path

import kubernetes.client.models
import yaml
from kserve import models

KINDS = {"ClusterServingRuntime": "V1alpha1ClusterServingRuntime", "InferenceService": "V1beta1InferenceService"}


def problems(value, kind, place):
    """Keys that the class `kind` does not have, values of another type, and required ones that are missing."""
    listed = re.fullmatch(r"list\[(.*)\]", kind)
    mapped = re.fullmatch(r"dict\(str, (.*)\)", kind)
    if listed:
        return _wrong(place, kind) if type(value) is not list else _below(enumerate(value), listed[1], place)
    if mapped:
        return _wrong(place, kind) if type(value) is not dict else _below(value.items(), mapped[1], place)
    model = getattr(models, kind, None) or getattr(kubernetes.client.models, kind, None)
    if model is None:
        plain = {"str": str, "int": int, "bool": bool}.get(kind, object)
        return [] if isinstance(value, plain) else _wrong(place, kind)
    if type(value) is not dict:
        return _wrong(place, kind)
    names = {written: name for name, written in model.attribute_map.items()}
    found = [f"{place}.{key}: unknown to {kind}" for key in value if key not in names]
    known = {names[key]: each for key, each in value.items() if key in names}
    for name, each in known.items():
        found += problems(each, model.openapi_types[name], f"{place}.{model.attribute_map[name]}")
    try:
        model(**known)  # its setters refuse what is required and None
    except ValueError as error:
        found.append(f"{place}: {error}")
    return found


def _below(items, kind, place):
    return [problem for key, each in items for problem in problems(each, kind, f"{place}[{key}]")]


def _wrong(place, kind):
    return [f"{place}: is not {kind}"]


if __name__ == "__main__":
    documents = [each for name in sys.argv[1:] for each in yaml.safe_load_all(Path(name).read_text())]
    json.dump(
        [problem for each in documents for problem in problems(each, KINDS[each["kind"]], each["kind"])], sys.stdout
    )
