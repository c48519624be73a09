"""Of whatever input: its rows are the embedded and the failed ones, each once, or it is refused before any work."""

import shutil
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, seed, settings

from metric_learn_client.jobs import InputError, embed_dataset, verify
from metric_learn_client.jobs.inputs.input_kinds import open_input
from metric_learn_client.jobs.options import InputSpec
from metric_learn_client.jobs.plan.plan import build
from metric_learn_client.jobs.work.reader import Reader
from metric_learn_client.testing import fake_embeddings
from tests.integration.client.jobs.conftest import shard_contents
from tests.integration.client.jobs.generated_inputs import FAILED, KINDS, write_pictures

MOST_REFUSED = 0.1  # of the inputs that have rows: what is refused proves nothing
LONG = pytest.mark.long, pytest.mark.timeout(7200)


def pieces(few, many):
    """(how many inputs, seed): few, and in the long tier many, in pieces: with their number hypothesis gets slower."""
    return [
        pytest.param(few, 18, id="few"),
        *(pytest.param(*each, marks=LONG, id="{} by {}".format(*each)) for each in many),
    ]


def run(kind, examples, number, folder, check):
    """check(made, folder) for so many inputs, each in a folder of its own; True where one with rows was refused."""
    refused = []
    write_pictures(folder / "pictures")

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(KINDS[kind])
    def each(made):
        own = folder / "own"
        own.mkdir()
        try:
            refused.append(check(made, own))
        finally:
            shutil.rmtree(own)

    each()
    assert sum(refused) <= MOST_REFUSED * len(refused), f"{sum(refused)} of {len(refused)} refused"


def planned(made, folder):
    """Stage by stage, as far as the images that would be sent."""
    plan = None
    for stage in (0, 1):
        made.write(folder, stage)
        names = tuple(f"{folder}/{name}" for name in made.names)
        spec = InputSpec(names, root=str(folder.parent / "pictures"), **made.options)
        try:
            plan = build(open_input(spec), spec, 3, folder / "plan", before=plan)
        except InputError:
            if made.expected[stage]:
                return True
            continue
        reader, found, paths = Reader(plan, 1 << 20), Counter(), []
        for shard in range(plan.shards):
            rows = plan.read(shard)
            images = reader.prepare(rows)
            found.update(each if isinstance(each, bytes) else FAILED for each in images or reader.read(rows))
            paths += rows.column("image_path").to_pylist()
        reader.close()
        assert found == made.expected[stage]
        assert not plan.in_sources or len(set(paths)) == len(paths)
    return False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("examples", "number"), pieces(60, [(1_000, number) for number in range(20)]))
def test_every_row_of_an_input_is_planned_once_and_has_its_own_picture_or_fails(tmp_path, kind, examples, number):
    run(kind, examples, number, tmp_path, planned)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("examples", "number"), pieces(8, [(200, number) for number in range(10)]))
def test_every_row_of_an_input_ends_in_embeddings_or_failures(tmp_path, fake, kind, examples, number):
    def whole_job(made, folder):
        begun = False
        for stage in (0, 1):
            made.write(folder, stage)
            names, sent = [f"{folder}/{name}" for name in made.names], fake.images
            options = {"shard_size": 3, "batch_size": 2, "if_exists": "extend" if begun else "resume", **made.options}
            root = str(folder.parent / "pictures")
            try:
                summary = embed_dataset(names, folder / "out", endpoint=fake.endpoint, root=root, **options)
            except InputError:
                assert fake.images == sent
                if made.expected[stage]:
                    return True
                continue
            begun = True
            assert summary.succeeded + summary.failed == summary.rows == sum(made.expected[stage].values())
            assert embeddings_of(folder / "out") == embedded(made.expected[stage])
            found = verify(folder / "out", with_input=True)
            assert (found.problems, found.input_rows, found.complete) == ((), summary.rows, True)
        return False

    run(kind, examples, number, tmp_path, whole_job)


def embeddings_of(out):
    return Counter(embedding.tobytes() for content in shard_contents(out) for embedding in content.embeddings)


def embedded(expected):
    """What of the pictures gets an embedding: an empty file does not."""
    pictures = [picture for picture in expected.elements() if picture]
    return Counter(row.tobytes() for row in fake_embeddings(pictures)) if pictures else Counter()
