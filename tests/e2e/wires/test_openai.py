"""The official openai package and litellm against the real server's /v1/embeddings, beyond what every client does
(test_clients.py)."""

import httpx
import numpy as np
import openai
import pytest

from .callers import MODEL, litellm, numbers, uri

LITELLMS_OWN_WARNINGS = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"http://{server.api_endpoint}/v1", api_key="unused", max_retries=0) as made:
        yield made


def rows_of(answer):
    return np.array([each.embedding for each in answer.data], np.float64).astype(np.float32)


def same(rows, expected):
    return rows.shape == expected.shape and (rows.view(np.uint32) == expected.view(np.uint32)).all()


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["default", "float"])
def test_golden_pictures_give_the_rows_of_predict_bit_for_bit(client, pictures, grpc_rows, options):
    answer = client.embeddings.create(model=MODEL, input=[uri(each) for each in pictures], **options)
    assert same(rows_of(answer), grpc_rows)
    assert (answer.object, answer.model, answer.usage.total_tokens) == ("list", MODEL, 0)
    assert [each.index for each in answer.data] == list(range(len(pictures)))


def test_the_default_of_the_package_is_base64(client, server, pictures):
    sent = []
    with httpx.Client(event_hooks={"request": [lambda request: sent.append(request.read())]}) as http:
        spied = openai.OpenAI(base_url=f"http://{server.api_endpoint}/v1", api_key="unused", http_client=http)
        spied.embeddings.create(model=MODEL, input=uri(pictures[0]))
    assert b'"encoding_format":"base64"' in sent[0]


def test_the_answers_headers_name_the_model_and_the_request(client, pictures):
    answer = client.embeddings.with_raw_response.create(
        model=MODEL, input=uri(pictures[0]), extra_headers={"x-request-id": "mine"}
    )
    assert answer.request_id == "mine" and answer.headers["x-metric-learn-version"] == "1"
    assert len(answer.headers["x-metric-learn-fingerprint"]) == 64


def test_one_bad_picture_is_null_where_asked(client, pictures, grpc_rows):
    given = [uri(pictures[0]), uri(b"no picture"), uri(pictures[1])]
    answer = client.embeddings.with_raw_response.create(
        model=MODEL, input=given, encoding_format="float", extra_body={"on_error": "null"}
    ).http_response.json()
    assert answer["data"][1]["embedding"] is None and answer["data"][1]["error"]["code"] == "E_UNSUPPORTED"
    rows = np.array([answer["data"][index]["embedding"] for index in (0, 2)]).astype(np.float32)
    assert same(rows, grpc_rows[:2])


def test_another_model_text_and_a_url_have_errors_of_their_own(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="text-embedding-3-small", input="a shoe")
    assert caught.value.code == "model_not_found"
    for text, words in (("a shoe", "embeds pictures, not text"), ("https://example.org/a.jpg", "never fetched")):
        with pytest.raises(openai.BadRequestError, match=words):
            client.embeddings.create(model=MODEL, input=text)


def test_the_models_are_listed(client):
    assert [each.id for each in client.models.list()] == [MODEL, f"{MODEL}@1"]
    assert client.models.retrieve(MODEL).owned_by == "metric-learn-serving"


@LITELLMS_OWN_WARNINGS
@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["default", "float"])
def test_litellm_passes_data_uris_through(server, pictures, grpc_rows, options):
    answer = litellm.embedding(
        model=f"openai/{MODEL}",
        input=[uri(each) for each in pictures[:2]],
        api_base=f"http://{server.api_endpoint}/v1",
        api_key="unused",
        **options,
    )
    rows = [each["embedding"] for each in answer.data]
    found = numbers(rows) if isinstance(rows[0], str) else np.array(rows, np.float64).astype(np.float32)
    assert same(found, grpc_rows[:2])
