"""Each client that others wrote, by each case that callers meet: one table, so that no cell of it is missing."""

import shutil
import threading

import numpy as np
import pytest

from .callers import CLIENTS, Refused, in_child, litellm

TOOLS = {"curl": "curl", "@grpc/grpc-js": "node"}
TOGETHER = 4  # calls, where there is room for one
pytestmark = pytest.mark.filterwarnings("ignore")  # these clients' own


@pytest.fixture(scope="module", autouse=True)
def processes():
    yield
    in_child.close()


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


def test_golden_pictures_give_the_rows_of_predict_bit_for_bit(client, server, pictures, grpc_rows):
    assert same(client.embed(server, pictures).rows, grpc_rows)


def test_one_bad_picture_among_good_ones_is_named_by_its_number_and_code(client, server, pictures, grpc_rows):
    """By the call's error, or by an error in its place beside the others' rows."""
    refused = None
    try:
        answer = client.embed(server, [pictures[0], b"no picture", pictures[1]])
    except Refused as error:
        refused = error
    if refused is not None:
        assert refused.kind == client.invalid
        assert "[1]" in str(refused) and "E_UNSUPPORTED" in str(refused)
    else:
        assert same(answer.rows[[0, 2]], grpc_rows[:2]) and np.isnan(answer.rows[1]).all()
        assert answer.errors.keys() == {1} and answer.errors[1].startswith("E_UNSUPPORTED: ")


def test_over_tls_with_the_right_token_a_call_is_answered(client, secured, trusted, pictures, grpc_rows):
    assert same(client.embed(secured.server, pictures[:2], **trusted).rows, grpc_rows[:2])


def test_without_the_authority_no_call_is_made(client, secured, pictures):
    with pytest.raises(Exception) as caught:  # noqa: PT011  each client's own
        client.embed(secured.server, pictures[:1], ca=None, token=secured.token)
    assert not isinstance(caught.value, (AssertionError, KeyError, TypeError))


def test_a_wrong_token_is_an_error_of_its_own(client, secured, trusted, pictures):
    with pytest.raises(Refused) as caught:
        client.embed(secured.server, pictures[:1], **{**trusted, "token": "another-token-of-16-or-more"})
    assert caught.value.kind == client.unauthenticated


def together(call):
    """What calls gave that began at the same time: rows or refusals."""
    outcomes, barrier = [], threading.Barrier(TOGETHER)

    def run():
        barrier.wait(30)
        try:
            outcomes.append(call().rows)
        except Refused as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(TOGETHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(outcomes) == TOGETHER
    return outcomes


def test_overload_is_an_error_of_its_own_with_a_hint(client, server, secured, trusted, pictures, grpc_rows):
    """There is room for one of these calls: of those sent together some are refused, and none is lost."""
    together(lambda: client.embed(server, pictures[:1]))  # the processes that some clients need are there
    outcomes = together(lambda: client.embed(secured.server, pictures, **trusted))
    refused = [each for each in outcomes if isinstance(each, Refused)]
    assert refused and {each.kind for each in refused} == {client.overloaded}
    assert all(same(each, grpc_rows) for each in outcomes if not isinstance(each, Refused))
    assert len(refused) < TOGETHER
    for each in refused:
        assert "try again later" in str(each)
        assert (each.hint_s is not None and 0 < each.hint_s <= 5) if client.hints else True


@pytest.mark.parametrize("client", [name for name, each in CLIENTS.items() if each.patient], indirect=True)
def test_a_client_that_tries_again_by_itself_honours_the_hint(client, secured, trusted, pictures, grpc_rows):
    outcomes = together(lambda: client.embed(secured.server, pictures, patient=True, **trusted))
    assert all(same(each, grpc_rows) for each in outcomes)
