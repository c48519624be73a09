"""A web application that embeds uploads: one client for the whole process, opened and closed with it.

Run it with `fastapi run client/examples/fastapi_app.py`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, File, HTTPException

from metric_learn_client import AsyncEmbeddingClient, ImagesFailedError, OverloadedError

clients: dict[str, AsyncEmbeddingClient] = {}


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with AsyncEmbeddingClient("127.0.0.1:5500", deadline_s=5.0) as clients["embed"]:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/embed")
async def embed(image: Annotated[bytes, File()]) -> dict[str, Any]:
    try:
        embedding = await clients["embed"].embed_one(image)
    except ImagesFailedError as error:
        raise HTTPException(422, str(error)) from error
    except OverloadedError as error:
        raise HTTPException(503, "busy", headers={"Retry-After": "1"}) from error
    return {"embedding": embedding.tolist()}
