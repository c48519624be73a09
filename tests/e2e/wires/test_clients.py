"""Each client that others wrote, by each case that callers meet: one table, so that no cell of it is missing."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest

from .callers import CLIENTS, Refused, in_child, litellm

TOOLS = {"curl": "curl", "@grpc/grpc-js": "node"}
TOGETHER = 4  # calls, where there is room for one
pytestmark = pytest.mark.filterwarnings("ignore")  # these clients' own


@pytest.fixture(scope="module", autouse=True)
def processes():
    yield
    in_child.close()
    for kept in litellm.in_memory_llm_clients_cache.cache_dict.values():  # with their connections, for ten minutes
        if isinstance(kept, openai.OpenAI):
            kept.close()
    litellm.in_memory_llm_clients_cache.flush_cache()


@pytest.fixture(params=CLIENTS)
def client(request):
    found, tool = CLIENTS[request.param], TOOLS.get(request.param)
    missing = [str(path) for path in found.needs if not path.exists()]
    missing += [tool] if tool and shutil.which(tool) is None else []
    if missing:
        pytest.skip(f"not here: {', '.join(missing)}; .ci/run installs it")
    return found


@pytest.fixture
def trusted(secured, monkeypatch):
    """What a call to the server with TLS and tokens needs. litellm is told of the authority once for all its calls."""
    monkeypatch.setattr(litellm, "ssl_verify", str(secured.ca))
    return {"ca": secured.ca, "token": secured.token}


def same(found, expected):
    return found.dtype == np.float32 and found.tobytes() == expected.tobytes()


def outcome(call):
    """What the call gives, or the Refused that it raises."""
    try:
        return call()
    except Refused as error:
        return error


def test_golden_pictures_give_the_rows_of_predict_bit_for_bit(client, server, pictures, grpc_rows):
    assert same(client.embed(server, pictures).rows, grpc_rows)


def test_one_bad_picture_among_good_ones_is_named_by_its_number_and_code(client, server, pictures, grpc_rows):
    """By the call's error, or by an error in its place beside the others' rows."""
    answer = outcome(lambda: client.embed(server, [pictures[0], b"no picture", pictures[1]]))
    if isinstance(answer, Refused):
        assert answer.kind == client.invalid
        assert "[1]" in str(answer) and "E_UNSUPPORTED" in str(answer)
    else:
        assert same(answer.rows[[0, 2]], grpc_rows[:2]) and np.isnan(answer.rows[1]).all()
        assert answer.errors.keys() == {1} and answer.errors[1].startswith("E_UNSUPPORTED: ")


def test_over_tls_with_the_right_token_a_call_is_answered(client, secured, trusted, pictures, grpc_rows):
    assert same(client.embed(secured.server, pictures[:2], **trusted).rows, grpc_rows[:2])


def test_a_wrong_token_is_an_error_of_its_own(client, secured, trusted, pictures):
    with pytest.raises(Refused) as caught:
        client.embed(secured.server, pictures[:1], **{**trusted, "token": "another-token-of-16-or-more"})
    assert caught.value.kind == client.unauthenticated


def together(call):
    """The outcomes of calls that began at the same time. Raises what any of them raises beside Refused."""
    barrier = threading.Barrier(TOGETHER)

    def run():
        barrier.wait(30)
        return outcome(call)

    with ThreadPoolExecutor(TOGETHER) as pool:
        return [each.result(120) for each in [pool.submit(run) for _ in range(TOGETHER)]]


def test_overload_is_an_error_of_its_own_with_a_hint(client, server, secured, trusted, pictures, grpc_rows):
    """There is room for one of these calls: of those sent together some are refused, and none is lost."""
    together(lambda: client.embed(server, pictures[:1]))  # the processes that some clients need are there
    outcomes = together(lambda: client.embed(secured.server, pictures, **trusted))
    refused = [each for each in outcomes if isinstance(each, Refused)]
    assert refused and {each.kind for each in refused} == {client.overloaded}
    assert all(same(each.rows, grpc_rows) for each in outcomes if not isinstance(each, Refused))
    assert len(refused) < TOGETHER
    for each in refused:
        assert "try again later" in str(each)
        assert (each.hint_s is not None and 0 < each.hint_s <= 5) if client.hints else True


@pytest.mark.parametrize("client", [name for name, each in CLIENTS.items() if each.patient], indirect=True)
def test_a_client_that_tries_again_by_itself_honours_the_hint(client, secured, trusted, pictures, grpc_rows):
    outcomes = together(lambda: client.embed(secured.server, pictures, patient=True, **trusted))
    assert [str(each) for each in outcomes if isinstance(each, Refused)] == []
    assert all(same(each.rows, grpc_rows) for each in outcomes)
