"""Why a job does not start, or stops before its end.

MetricLearnError
|- JobError
|  |- InputError      the input cannot be listed, or says something that cannot be
|  |- RefusedError    the output directory belongs to another job: other input, options or model, or one that runs
|  |- AccessError     the output's store does not let this caller in: bucket, credentials, permission
|  `- OutputError     a file of the output could not be written or read
`- UnreachableError
   `- OutageError     the service, or the output's store, stayed away longer than max_outage_s
"""

from __future__ import annotations

from metric_learn_client.errors import MetricLearnError, UnreachableError


class JobError(MetricLearnError):
    pass


class InputError(JobError):
    pass


class RefusedError(JobError):
    pass


class AccessError(JobError):
    pass


class OutputError(JobError):
    pass


class OutageError(UnreachableError):
    pass


class Stopped(Exception):
    """The run ends; what was being sent, read or written is not needed any more. Never leaves the job."""


class RowError(Exception):
    """One row has no image. Never leaves the job: it becomes a row of `failures`. code: "E_NOT_FOUND" and the like."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
