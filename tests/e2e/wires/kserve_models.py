"""What of a manifest KServe's own model classes do not take. A process of its own runs it: see kserve_client.py."""

import re

import kubernetes.client.models
from kserve import models

KINDS = {"ClusterServingRuntime": "V1alpha1ClusterServingRuntime", "InferenceService": "V1beta1InferenceService"}


def problems_of(manifest):
    return _problems(manifest, KINDS[manifest["kind"]], manifest["kind"])


def _problems(value, kind, place):
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
        found += _problems(each, model.openapi_types[name], f"{place}.{model.attribute_map[name]}")
    try:
        model(**known)  # its setters refuse what is required and None
    except ValueError as error:
        found.append(f"{place}: {error}")
    return found


def _below(items, kind, place):
    return [problem for key, each in items for problem in _problems(each, kind, f"{place}[{key}]")]


def _wrong(place, kind):
    return [f"{place}: is not {kind}"]
