"""For every wire: `server` is that of tests/e2e (one a session); the golden pictures, and the rows that gRPC gives."""

import grpc
import numpy as np
import pytest

from ..load import IMAGES, OPTIONS, predict_on, request_of, rows_of


@pytest.fixture(scope="session")
def pictures():
    """The golden pictures' files, in the order of `grpc_rows`."""
    return IMAGES


@pytest.fixture(scope="session")
def grpc_rows(server):
    """float32 [n, 2048]: MSService/Predict's rows, which every wire must give bit for bit."""
    with grpc.insecure_channel(server.endpoint, options=OPTIONS) as channel:
        reply = predict_on(channel)(request_of(range(len(IMAGES))), timeout=120)
    assert not reply.error_msg
    rows = np.stack(rows_of(reply))
    assert rows.shape == (len(IMAGES), 2048)
    return rows
