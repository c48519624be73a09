"""Names of files as text: nothing lost, nothing that a terminal would act on."""

from hypothesis import given
from hypothesis import strategies as st

from metric_learn_client.printable import escaped, printable, unescaped

NAMES = st.one_of(
    st.binary(), st.text().map(str.encode), st.from_regex(rb"(\\x[0-9a-f]{2}|\\|x|5c|\xff)*", fullmatch=True)
)


@given(NAMES)
def test_a_name_comes_back_from_its_text(name):
    assert unescaped(escaped(name)) == name
    escaped(name).encode("utf-8")


@given(NAMES, NAMES)
def test_two_names_never_share_a_text(first, second):
    assert (escaped(first) == escaped(second)) == (first == second)


@given(st.text().filter(lambda text: "\\x" not in text))
def test_a_name_that_is_text_is_its_own_text(name):
    assert escaped(name.encode()) == name == escaped(name)


def test_what_is_shown_has_no_control_characters():
    assert printable("a\nb\x1b[31m\udcff") == "a\\nb\\x1b[31m\\xff"
    assert printable("\ud800") == "\\ud800"
