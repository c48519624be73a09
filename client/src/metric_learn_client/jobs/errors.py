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
    """A job does not start, or stops before its end; raised as one of the kinds below."""


class InputError(JobError):
    """The input cannot be listed, or says something that cannot be. Nothing was sent.

    Cause: a name, a column or a format of the input.
    Do: what the message says.
    """


class RefusedError(JobError):
    """The output directory belongs to another job: other input, options or model, or one that runs.

    Cause: an input, an option or a model that changed, or a second run at the same time.
    Do: `if_exists="extend"` for an input that grew, "overwrite" to begin anew, or another directory.
    """


class AccessError(JobError):
    """The output's store does not let this caller in.

    Cause: a bucket that is not there, credentials, or what they allow.
    Do: what the message says; the same call goes on.
    """


class OutputError(JobError):
    """A file of the output could not be written or read.

    Cause: a full disk, missing rights, or a file that was changed.
    Do: mend that; the same call goes on, for committed shards stay.
    """


class OutageError(UnreachableError):
    """The service stayed away longer than `max_outage_s`.

    Cause: as of UnreachableError.
    Do: the same call again goes on where it was.
    """


class Stopped(Exception):
    """The run ends; what was being sent, read or written is not needed any more. Never leaves the job."""


class RowError(Exception):
    """One row has no image. Never leaves the job: it becomes a row of `failures`. code: "E_NOT_FOUND" and the like."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
