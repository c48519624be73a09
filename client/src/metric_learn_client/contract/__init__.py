"""What the client, the gateway, the servable and the export must agree on: names and numbers here, rules in modules.

Needs the standard library and NumPy, nothing else, from Python 3.9 on.

image_codes  why one image has no embedding
digests      what files and models are told apart by
distance     how far an embedding is from its reference
whole_file   files that are whole or not there
exit_codes   how a command ended
version_manifest  what an exported version is made of
"""

from __future__ import annotations

import enum
from typing import Final

from metric_learn_client.contract.image_codes import ImageErrorCode as ImageErrorCode

SERVABLE_NAME: Final = "metric_learn"
EMBEDDING_DIM: Final = 2048

# Method `embed`: one encoded image file per instance, BYTES, shape [1], exactly one bytes_val.
METHOD_EMBED: Final = "embed"
ITEM_IMAGE: Final = "image"
# Method `embed_pixels`: one resized picture per instance, UINT8 [224, 224, 3], channels BGR, C order.
METHOD_EMBED_PIXELS: Final = "embed_pixels"
ITEM_PIXELS: Final = "pixels"
PIXELS_SHAPE: Final = (224, 224, 3)
# Both reply with one FLOAT32 [2048] item of unit norm.
ITEM_EMBEDDING: Final = "embedding"

# Full gRPC paths of the unary calls.
PREDICT_PATH: Final = "/mindspore.serving.proto.MSService/Predict"
HEALTH_CHECK_PATH: Final = "/grpc.health.v1.Health/Check"
GET_MODEL_PATH: Final = "/metric_learn.v1.ModelService/GetModel"

# Service names to ask grpc.health.v1 about; "" is the server as a whole.
HEALTH_SERVICE_ALL: Final = ""
HEALTH_SERVICE_PREDICT: Final = "mindspore.serving.proto.MSService"

# Metadata keys. Requests carry x-request-id and authorization; replies carry the others as trailing metadata.
METADATA_REQUEST_ID: Final = "x-request-id"
METADATA_AUTHORIZATION: Final = "authorization"  # "Bearer <token>"
METADATA_FINGERPRINT: Final = "x-metric-learn-fingerprint"
METADATA_VERSION: Final = "x-metric-learn-version"
METADATA_RETRY_AFTER_MS: Final = "x-metric-learn-retry-after-ms"  # on RESOURCE_EXHAUSTED and UNAVAILABLE

# Limits assumed of a server that has no ModelService; the gateway's defaults.
DEFAULT_MAX_INSTANCES: Final = 256
DEFAULT_MAX_REQUEST_BYTES: Final = 64 * 1024 * 1024
DEFAULT_MAX_IMAGE_BYTES: Final = 32 * 1024 * 1024
DEFAULT_MAX_IMAGE_PX: Final = 50_000_000

# gRPC's own limits: 4 MiB by default, too small for a batch. MindSpore Serving caps both at 512 MB.
MAX_MESSAGE_BYTES: Final = 512 * 1024 * 1024


class ServingCode(enum.IntEnum):
    """error_code inside a reply (MindSpore Serving 2.0.2, ccsrc/common/status.h)."""

    SUCCESS = 0
    FAILED = 1
    INVALID_INPUTS = 2
    SYSTEM_ERROR = 3
    WORKER_UNAVAILABLE = 4
    SERVABLE_UNAVAILABLE = 5


# What is done to an image before the network sees it (metric_learn_client.preprocess); part of the fingerprint, so any
# change to the pixels of a picture takes a new id.
PREPROCESSING_ID = "bgr-upright/short224-lanczos4/224x224-linear/opencv-2"
# Ids whose exported versions take the same pixels as input: such a version is served, under a fingerprint of its own.
FORMER_PREPROCESSING_IDS = frozenset(["bgr-exif/short224-lanczos4/224x224-linear/opencv-1"])
