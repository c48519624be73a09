"""The official openai package and litellm against the real server's /v1/embeddings."""

import base64
import os
import ssl
import threading
import warnings

import httpx
import numpy as np
import openai
import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks another host for prices
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litellm

MODEL = "metric_learn"
LITELLMS_OWN_WARNINGS = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"http://{server.api_endpoint}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def guarded(secured):
    """`guarded(token, **options)` is a client of the server with TLS, tokens and little room."""
    made = []

    def make(token=secured.token, **options):
        http = httpx.Client(verify=ssl.create_default_context(cafile=str(secured.ca)))
        options.setdefault("max_retries", 0)
        url = f"https://{secured.server.api_endpoint}/v1"
        made.append(openai.OpenAI(base_url=url, api_key=token, http_client=http, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def uri(picture):
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode()


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


def test_one_bad_picture_is_a_bad_request_that_names_it(client, pictures):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input=[uri(pictures[0]), uri(b"no picture")])
    assert (caught.value.param, caught.value.code) == ("input[1]", "E_UNSUPPORTED")


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


def test_tls_with_the_right_token_answers_and_a_wrong_token_is_refused(guarded, pictures, grpc_rows):
    answer = guarded().embeddings.create(model=MODEL, input=uri(pictures[0]))
    assert same(rows_of(answer), grpc_rows[:1])
    for call in (
        lambda: guarded("another-token-of-16-or-more").embeddings.create(model=MODEL, input=uri(pictures[0])),
        lambda: guarded("another-token-of-16-or-more").models.list(),
    ):
        with pytest.raises(openai.AuthenticationError) as caught:
            call()
        assert caught.value.code == "invalid_api_key"


def together(count, call):
    """What `count` calls gave that began at the same time: answers or errors."""
    outcomes, barrier = [], threading.Barrier(count)

    def run():
        barrier.wait(30)
        try:
            outcomes.append(call())
        except openai.APIStatusError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert len(outcomes) == count
    return outcomes


def test_overload_is_a_rate_limit_error_with_a_hint_which_the_package_honours(guarded, pictures, grpc_rows):
    """There is room for one of these calls."""
    given = [uri(each) for each in pictures]
    impatient = guarded()
    outcomes = together(4, lambda: impatient.embeddings.create(model=MODEL, input=given))
    refused = [each for each in outcomes if isinstance(each, openai.APIStatusError)]
    assert refused and len(refused) < 4 and {type(each) for each in refused} == {openai.RateLimitError}
    assert 1 <= int(refused[0].response.headers["retry-after"]) <= 5
    patient = guarded(max_retries=30)
    outcomes = together(3, lambda: patient.embeddings.create(model=MODEL, input=given))
    assert all(same(rows_of(each), grpc_rows) for each in outcomes)


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
    if isinstance(rows[0], str):
        found = np.stack([np.frombuffer(base64.b64decode(each), "<f4") for each in rows])
    else:
        found = np.array(rows, np.float64).astype(np.float32)
    assert same(found, grpc_rows[:2])


@LITELLMS_OWN_WARNINGS
def test_litellm_tells_a_bad_picture_from_a_wrong_token(server, secured, pictures):
    with pytest.raises(litellm.exceptions.BadRequestError, match="E_UNSUPPORTED"):
        litellm.embedding(
            model=f"openai/{MODEL}",
            input=[uri(b"no picture")],
            api_base=f"http://{server.api_endpoint}/v1",
            api_key="unused",
        )
    http = httpx.Client(verify=ssl.create_default_context(cafile=str(secured.ca)))
    wrong = openai.OpenAI(
        base_url=f"https://{secured.server.api_endpoint}/v1", api_key="wrong" * 5, http_client=http, max_retries=0
    )
    with wrong, pytest.raises(litellm.exceptions.AuthenticationError):
        litellm.embedding(model=f"openai/{MODEL}", input=[uri(pictures[0])], client=wrong, api_key="wrong" * 5)
