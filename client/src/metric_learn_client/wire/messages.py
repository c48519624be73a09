"""The message classes, built once at import. Types are in messages.pyi, which a test holds equal to the table."""

from __future__ import annotations

from metric_learn_client.wire.schema import build_classes

_CLASSES = build_classes()

PredictRequest = _CLASSES["PredictRequest"]
PredictReply = _CLASSES["PredictReply"]
ErrorMsg = _CLASSES["ErrorMsg"]
Instance = _CLASSES["Instance"]
Tensor = _CLASSES["Tensor"]
TensorShape = _CLASSES["TensorShape"]
ShmTensorData = _CLASSES["ShmTensorData"]
ServableSpec = _CLASSES["ServableSpec"]
HealthCheckRequest = _CLASSES["HealthCheckRequest"]
HealthCheckResponse = _CLASSES["HealthCheckResponse"]
GetModelRequest = _CLASSES["GetModelRequest"]
GetModelReply = _CLASSES["GetModelReply"]
