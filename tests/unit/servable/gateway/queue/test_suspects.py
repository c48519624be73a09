"""What is remembered of images that were in a backend when it ended, and for how long."""

from servable.gateway.call.methods import METHODS
from servable.gateway.queue.suspects import MAX_REMEMBERED, REMEMBERED_S, Known, Suspects
from tests.clock import Clock

EMBED, PIXELS = METHODS["embed"], METHODS["embed_pixels"]


def view(data):
    return memoryview(data)


def test_a_verdict_is_known_by_content_and_method():
    suspects = Suspects()
    assert suspects.look(EMBED, view(b"killer")) is None
    suspects.note(EMBED, view(b"killer"), Known.GUILTY)
    assert suspects.look(EMBED, view(bytearray(b"killer"))) is Known.GUILTY
    assert suspects.look(EMBED, view(b"Killer")) is None
    assert suspects.look(PIXELS, view(b"killer")) is None


def test_it_tells_the_sha256():
    assert Suspects().note(EMBED, view(b"abc"), Known.SUSPECT).startswith("ba7816bf8f01cfea")


def test_content_with_the_same_size_and_middle_is_told_apart():
    suspects = Suspects()
    suspects.note(EMBED, view(b"a" + bytes(1000)), Known.GUILTY)
    assert suspects.look(EMBED, view(b"b" + bytes(1000))) is None


def test_a_verdict_outlives_a_suspicion_and_passes_with_time():
    clock = Clock()
    suspects = Suspects(clock)
    suspects.note(EMBED, view(b"killer"), Known.GUILTY)
    suspects.note(EMBED, view(b"killer"), Known.SUSPECT)
    assert suspects.look(EMBED, view(b"killer")) is Known.GUILTY
    clock.now = REMEMBERED_S + 1
    assert suspects.look(EMBED, view(b"killer")) is None


def test_time_takes_each_by_its_own():
    clock = Clock()
    suspects = Suspects(clock)
    suspects.note(EMBED, view(b"1"), Known.GUILTY)
    suspects.note(EMBED, view(b"2"), Known.GUILTY)
    clock.now = REMEMBERED_S / 2
    suspects.note(EMBED, view(b"1"), Known.GUILTY)  # it happened once more
    clock.now = REMEMBERED_S + 1
    assert suspects.look(EMBED, view(b"1")) is Known.GUILTY
    assert suspects.look(EMBED, view(b"2")) is None


def test_who_came_through_alone_is_forgotten():
    suspects = Suspects()
    suspects.note(EMBED, view(b"innocent"), Known.SUSPECT)
    suspects.forget(EMBED, view(b"innocent"))
    suspects.forget(EMBED, view(b"never seen"))
    assert suspects.look(EMBED, view(b"innocent")) is None


def test_memory_is_bounded_and_the_oldest_goes_first():
    suspects = Suspects()
    for index in range(MAX_REMEMBERED + 10):
        suspects.note(EMBED, view(b"%d" % index), Known.GUILTY)
    assert suspects.look(EMBED, view(b"9")) is None
    assert suspects.look(EMBED, view(b"10")) is Known.GUILTY
    assert len(suspects) == MAX_REMEMBERED
