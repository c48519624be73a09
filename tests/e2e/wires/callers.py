"""Every client behind one face: `embed(server, pictures, ca=..., token=..., patient=...)` gives float32 [n, 2048].

A call that fails raises `Refused`, in the client's own words. A picture that fails where its form has a place for it is
a row of NaN, and its error is in `Rows.errors`. patient: the client tries again by itself, as far as it can.
"""

import base64
import contextlib
import json
import os
import re
import ssl
import subprocess
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

import httpx
import numpy as np
import openai
from tritonclient.utils import InferenceServerException

from ..conftest import REPOSITORY
from . import triton_client
from .child import Child

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks another host for prices
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litellm

litellm.suppress_debug_info = True
litellm.DEFAULT_MAX_RETRIES = 0  # its embedding() takes max_retries=0 for "as many as usual" (1.110), which are two
MODEL = "metric_learn"
TRIES = 30  # of a patient client: the hint of an overload is a second or so
JAVASCRIPT = REPOSITORY / "tests" / "e2e" / "javascript"
IN_A_PROCESS = 120


class Refused(Exception):
    """kind: what the client itself tells failures apart by. hint_s: when to come again, where the client shows it."""

    def __init__(self, kind: str, message: str, hint_s: Optional[float] = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.hint_s = hint_s


@dataclass
class Rows:
    rows: np.ndarray
    errors: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Client:
    """embed: see above. invalid, unauthenticated, overloaded: its kinds of Refused. hints: it shows when to come again.

    patient: it waits and tries again by itself where it is asked to. tools: what it needs beside Python.
    """

    embed: Callable[..., Rows]
    invalid: str
    unauthenticated: str
    overloaded: str
    hints: bool = False
    patient: bool = False
    needs: tuple[Path, ...] = ()


def uri(picture: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode()


def numbers(texts: list[str]) -> np.ndarray:
    """Rows as base64 of little-endian float32."""
    return np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in texts])


def by_openai(server, pictures, *, ca=None, token="unused", patient=False):
    url = f"{'https' if ca else 'http'}://{server.api_endpoint}/v1"
    verify = ssl.create_default_context(cafile=str(ca)) if ca else True
    retries = TRIES if patient else 0
    with httpx.Client(verify=verify, timeout=120) as http:
        client = openai.OpenAI(base_url=url, api_key=token, http_client=http, max_retries=retries)
        try:
            answer = client.embeddings.create(model=MODEL, input=[uri(each) for each in pictures])
        except openai.APIStatusError as error:
            raise _refused_by_status(error, error.response) from None
    return Rows(np.array([each.embedding for each in answer.data], np.float64).astype(np.float32))


def by_litellm(server, pictures, *, ca=None, token="unused", patient=False):
    try:
        answer = litellm.embedding(
            model=f"openai/{MODEL}",
            input=[uri(each) for each in pictures],
            api_base=f"{'https' if ca else 'http'}://{server.api_endpoint}/v1",
            api_key=token,
            max_retries=TRIES if patient else 0,
            timeout=120,
        )
    except openai.APIStatusError as error:  # litellm's errors are the package's
        raise _refused_by_status(error, error.response) from None
    rows = [each["embedding"] for each in answer.data]
    return Rows(numbers(rows) if isinstance(rows[0], str) else np.array(rows, np.float64).astype(np.float32))


def _refused_by_status(error, response):
    hint = response.headers.get("retry-after")
    return Refused(type(error).__name__, str(error), float(hint) if hint else None)


def by_tritonclient(kind):
    def embed(server, pictures, *, ca=None, token=""):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        tensor = triton_client.image_input(kind, pictures)
        try:
            result = triton_client.infer(kind, server, tensor, ca=ca, headers=headers)
        except InferenceServerException as error:
            raise Refused(error.status(), error.message()) from None
        return Rows(result.as_numpy("embedding"))

    return embed


def by_kserve(wire):
    def embed(server, pictures, *, ca=None, token=""):
        endpoint = server.endpoint if wire == "grpc" else server.api_endpoint
        result = in_child("kserve_client", "infer", wire, endpoint, pictures, ca=ca, token=token).result(IN_A_PROCESS)
        if "error" in result:
            hint = float(result["retry_after"]) if result["retry_after"] else None
            raise Refused(str(result["error"]), result["message"], hint and hint / (1000 if wire == "grpc" else 1))
        return Rows(result["rows"])

    return embed


def by_curl(server, pictures, *, ca=None, token="", patient=False):
    with files_of(pictures) as files:
        options = [word for file in files for word in ("-F", f"file=@{file}")]
        options += ["--cacert", str(ca)] if ca else []
        options += ["-H", f"authorization: Bearer {token}"] if token else []
        options += ["--retry", str(TRIES)] if patient else []
        head, answer = files[0].parent / "head", files[0].parent / "answer"
        url = f"{'https' if ca else 'http'}://{server.api_endpoint}/embed"
        command = ["curl", "-sS", "--max-time", "120", "-D", head, "-o", answer, *options, url]
        subprocess.run([*command, "-H", "accept: application/x-npy"], capture_output=True, timeout=120, check=True)
        last = head.read_text().strip().split("\n\n")[-1]  # of the last try
        status = re.match(r"HTTP/1.1 (\d+)", last)[1]
        if status != "200":
            hint = re.search(r"^retry-after: (\d+)", last, re.MULTILINE)
            error = json.loads(answer.read_text())["error"]
            raise Refused(status, f"{error['param']} {error['message']}", float(hint[1]) if hint else None)
        return Rows(np.load(answer))


def by_grpc_js(server, pictures, *, ca=None, token=""):
    with files_of(pictures) as files:
        command = ["node", JAVASCRIPT / "call.mjs", server.endpoint, str(ca or ""), token, *files]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    answer = json.loads(done.stdout)
    if "code" in answer:
        hint = answer.get("retry_after_ms")
        raise Refused(answer["code"], answer["message"], float(hint) / 1000 if hint else None)
    errors = {index: text for index, text in enumerate(answer["errors"]) if text}
    nothing = base64.b64encode(np.full(2048, np.nan, "<f4").tobytes()).decode()
    return Rows(numbers([each or nothing for each in answer["rows"]]), errors)


@contextlib.contextmanager
def files_of(pictures):
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.jpg" for number in range(len(pictures))]
        for file, picture in zip(files, pictures):
            file.write_bytes(picture)
        yield files


in_child = Child(4)
_HTTP = {"invalid": "400", "unauthenticated": "401", "overloaded": "429"}
_GRPC = {"invalid": "INVALID_ARGUMENT", "unauthenticated": "UNAUTHENTICATED", "overloaded": "RESOURCE_EXHAUSTED"}
_TRITON_GRPC = {name: f"StatusCode.{code}" for name, code in _GRPC.items()}
_OPENAI = {"invalid": "BadRequestError", "unauthenticated": "AuthenticationError", "overloaded": "RateLimitError"}
CLIENTS = {
    "openai": Client(by_openai, **_OPENAI, hints=True, patient=True),
    "litellm": Client(by_litellm, **_OPENAI, patient=True),
    "tritonclient.http": Client(by_tritonclient("http"), **_HTTP),
    "tritonclient.http.aio": Client(by_tritonclient("http.aio"), **_HTTP),
    "tritonclient.grpc": Client(by_tritonclient("grpc"), **_TRITON_GRPC),
    "tritonclient.grpc.aio": Client(by_tritonclient("grpc.aio"), **_TRITON_GRPC),
    "kserve REST": Client(by_kserve("http"), **_HTTP, hints=True),
    "kserve gRPC": Client(by_kserve("grpc"), **_GRPC, hints=True),
    "curl": Client(by_curl, **_HTTP, hints=True, patient=True),
    "@grpc/grpc-js": Client(by_grpc_js, **_GRPC, hints=True, needs=(JAVASCRIPT / "node_modules",)),
}
