"""Parts of a form, and what a stranger may write at their head."""

import pytest

from servable.gateway.errors import CallError
from servable.gateway.http.forms.upload import MOST_PARAMETERS, named, split_multipart

CONTENT_TYPE = "multipart/form-data; boundary=edge"


def names(*dispositions, content_type=CONTENT_TYPE):
    parts = [b"--edge\r\nContent-Disposition: form-data; %s\r\n\r\nx\r\n" % each for each in dispositions]
    return [upload.name for upload in named(split_multipart(b"".join(parts) + b"--edge--\r\n", content_type, 256))]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'name="file"; filename="a.jpg"', "a.jpg"),
        (b"name=file; filename*=utf-8''%e2%82%ac.jpg", "\u20ac.jpg"),
        ('filename="b\u00e4d.jpg"'.encode(), "b\u00e4d.jpg"),
        (b"name=field", "field"),
        (b"filename*0*=a; filename*1=b", "ab"),
    ],
)
def test_a_part_is_named_by_its_file_or_its_field(disposition, name):
    assert names(disposition) == [name]


@pytest.mark.parametrize(
    "disposition",
    [b"filename*=undefined''x", b"filename*=idna''%ff", b"name=a; filename*=\x00''abc"],
    ids=["undefined", "idna", "NUL"],
)
def test_a_name_in_a_character_set_that_is_none_is_the_callers_fault(disposition):
    with pytest.raises(CallError, match="UTF-8") as caught:
        names(b"name=a", disposition)
    assert caught.value.field == "files[1]"


def test_so_is_such_a_boundary():
    with pytest.raises(CallError, match="UTF-8") as caught:
        names(b"name=a", content_type="multipart/form-data; boundary*=undefined''x")
    assert caught.value.field == "content-type"


@pytest.mark.parametrize("filler", [b";", b";a", b';";"'], ids=["semicolons", "parameters", "quoted"])
def test_a_header_of_many_parameters_is_refused_unread(filler):
    with pytest.raises(CallError, match=f"the most is {MOST_PARAMETERS}"):
        names(b'name="' + filler * 1000)
