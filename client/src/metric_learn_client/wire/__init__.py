"""The wire: the contract's names and numbers, and the messages. One definition for client, gateway and servable."""

from __future__ import annotations

from metric_learn_client.contract import *  # noqa: F403
from metric_learn_client.wire.messages import *  # noqa: F403
