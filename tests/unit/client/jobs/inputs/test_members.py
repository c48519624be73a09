"""Every member of a tar file is a row, a failure, or counted; an archive that is not whole is refused."""

import gzip
import io
import random
import tarfile

import pytest

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.input_kinds import open_input
from metric_learn_client.jobs.options import InputSpec
from metric_learn_client.jobs.plan.plan import build
from metric_learn_client.jobs.work.reader import Reader

HARD, SOFT, FIFO, DEVICE = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE


def archive(path, members, form=tarfile.PAX_FORMAT):
    """members: (name, bytes), or (name, type, target)."""
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for name, *what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what[0], int) or len(what) == 2:
                info.type, info.linkname = what
                tar.addfile(info)
            else:
                info.size = len(what[0])
                tar.addfile(info, io.BytesIO(what[0]))
    return path


def images_of(folder, *names, **options):
    """{path below the archive: its bytes, or the code of its failure}, and what was not taken."""
    spec = InputSpec(tuple(map(str, names)), **options)
    plan = build(open_input(spec), spec, 1000, folder / "plan")
    reader, rows = Reader(plan, 1 << 20), plan.read(0)
    images = reader.read(rows)
    reader.close()
    paths = [path.partition(".tar/")[2] for path in rows.column(0).to_pylist()]
    return dict(zip(paths, [getattr(image, "code", image) for image in images])), plan.skipped


def test_links_have_the_picture_that_they_lead_to(tmp_path):
    name = archive(
        tmp_path / "s.tar",
        [
            ("later.jpg", SOFT, "x/one.jpg"),
            ("x/one.jpg", b"1"),
            ("x/hard.jpg", HARD, "x/one.jpg"),
            ("x/beside.jpg", SOFT, "one.jpg"),
            ("y/chain.jpg", SOFT, "../x/beside.jpg"),
            ("./dotted.jpg", HARD, "./x/one.jpg"),
        ],
    )
    found, _ = images_of(tmp_path, name)
    assert found == dict.fromkeys(
        ["later.jpg", "x/one.jpg", "x/hard.jpg", "x/beside.jpg", "y/chain.jpg", "./dotted.jpg"], b"1"
    )


def test_a_hard_link_leads_to_the_member_before_it_and_a_symbolic_one_to_the_last(tmp_path):
    name = archive(
        tmp_path / "s.tar",
        [("a.jpg", b"old"), ("hard.jpg", HARD, "a.jpg"), ("soft.jpg", SOFT, "a.jpg"), ("a.jpg", b"new")],
    )
    assert images_of(tmp_path, name)[0] == {"a.jpg": b"old", "hard.jpg": b"old", "soft.jpg": b"new", "a.jpg#2": b"new"}


def test_a_member_without_bytes_of_its_own_fails_and_its_neighbours_do_not(tmp_path):
    name = archive(
        tmp_path / "s.tar",
        [
            ("1.jpg", b"1"),
            ("gone.jpg", HARD, "nothing.jpg"),
            ("outside.jpg", SOFT, "/etc/passwd"),
            ("above.jpg", SOFT, "../../etc/passwd"),
            ("loop.jpg", SOFT, "loop.jpg"),
            ("pipe.jpg", FIFO, ""),
            ("device.jpg", DEVICE, ""),
            ("2.jpg", b"2"),
        ],
    )
    failed = dict.fromkeys(["gone.jpg", "outside.jpg", "above.jpg", "loop.jpg", "pipe.jpg", "device.jpg"], "E_READ")
    assert images_of(tmp_path, name)[0] == {"1.jpg": b"1", **failed, "2.jpg": b"2"}


def test_a_sparse_member_fails_because_its_bytes_are_not_the_pictures(tmp_path):
    content = bytearray(archive(tmp_path / "s.tar", [("a.jpg", b"x" * 512), ("b.jpg", b"2")]).read_bytes())
    content[156:157] = b"S"  # the member's type: GNU sparse, with one region of 512 bytes
    content[386:398], content[398:410], content[483:495] = b"%011o\0" % 0, b"%011o\0" % 512, b"%011o\0" % 2048
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "s.tar").write_bytes(content)
    assert images_of(tmp_path, tmp_path / "s.tar")[0] == {"a.jpg": "E_READ", "b.jpg": b"2"}


@pytest.mark.parametrize("between", [b"", bytes(512), bytes(5000 * 512)], ids=["none", "a block", "2.5 MB"])
def test_archives_behind_one_another_are_read_to_the_end_of_the_file(tmp_path, between):
    one = archive(tmp_path / "1.tar", [("a.jpg", b"1"), ("b.jpg", HARD, "a.jpg")]).read_bytes()
    two = archive(tmp_path / "2.tar", [("c.jpg", b"2"), ("d.jpg", HARD, "c.jpg")]).read_bytes()
    (tmp_path / "both.tar").write_bytes(one + between + two + one)
    found, _ = images_of(tmp_path, tmp_path / "both.tar")
    assert found == {"a.jpg": b"1", "b.jpg": b"1", "c.jpg": b"2", "d.jpg": b"2", "a.jpg#2": b"1", "b.jpg#2": b"1"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length_form_and_encoding_are_rows(tmp_path, form):
    names = ["/absolute.jpg", "../above.jpg", "./here.jpg", "ü/é.jpg", "UPPER.JPG"]
    names += [] if form == tarfile.USTAR_FORMAT else ["long/" * 60 + "a.jpg", "\udcff.jpg"]
    name = archive(tmp_path / "s.tar", [(each, b"%d" % index) for index, each in enumerate(names)], form)
    found, _ = images_of(tmp_path, name)
    assert list(found.values()) == [b"%d" % index for index in range(len(names))]
    assert list(found)[:5] == names[:5]


def test_what_is_no_picture_is_counted_by_its_kind(tmp_path):
    inner = archive(tmp_path / "inner.tar", [("a.jpg", b"1")]).read_bytes()
    name = archive(
        tmp_path / "s.tar",
        [("a.jpg", b"1"), ("a.txt", b"t"), ("b.jpg.gz", gzip.compress(b"1")), ("inner.tar", inner), ("._a.jpg", b"m")],
    )
    found, skipped = images_of(tmp_path, name)
    assert found == {"a.jpg": b"1"}
    assert {kind: each["count"] for kind, each in skipped.items()} == {".txt": 1, ".gz": 1, ".tar": 1, "._*": 1}
    assert skipped[".gz"]["example"] == f"{name}/b.jpg.gz"


def test_an_archive_without_members_gives_no_rows_and_an_empty_file_is_refused(tmp_path):
    empty, full = archive(tmp_path / "0.tar", []), archive(tmp_path / "1.tar", [("a.jpg", b"1")])
    assert images_of(tmp_path, empty, full)[0] == {"a.jpg": b"1"}
    (tmp_path / "2.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"2.tar: not a whole"):
        images_of(tmp_path, full, tmp_path / "2.tar")


@pytest.mark.parametrize(
    "damage",
    [
        lambda tar: tar + b"not a member".ljust(512, b"!"),
        lambda tar: gzip.compress(tar),
        lambda tar: tar + gzip.compress(tar),
        lambda tar: tar[:1024] + b"\1" * 512 + tar[1536:],
    ],
    ids=["rubbish behind", "compressed", "compressed behind", "a broken header"],
)
def test_an_archive_with_anything_else_in_it_is_refused(tmp_path, damage):
    content = archive(tmp_path / "s.tar", [("a.jpg", b"1"), ("b.jpg", b"2")]).read_bytes()
    (tmp_path / "s.tar").write_bytes(damage(content))
    with pytest.raises(InputError, match=r"s.tar: not a whole, uncompressed tar file"):
        images_of(tmp_path, tmp_path / "s.tar")


def header(name, size, kind=tarfile.REGTYPE):
    """With whatever number of bytes, as base-256 where octal has no room, and a right checksum."""
    field = b"%011o\0" % size if 0 <= size < 1 << 33 else (size % 256**12 if size < 0 else size | 1 << 95).to_bytes(12)
    return summed(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"%011o\0" % 0 + b" " * 8 + kind)


def summed(block):
    block = bytearray(block.ljust(512, b"\0"))
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extended(**records):
    """A pax header with these records, for the member behind it."""
    content = b""
    for key, value in records.items():
        record = f" {key.replace('_', '.')}={value}\n".encode()
        length = next(n for n in range(len(record), len(record) + 9) if len(str(n)) + len(record) == n)
        content += str(length).encode() + record
    return header(b"pax", len(content), tarfile.XHDTYPE) + content.ljust(-(-len(content) // 512) * 512, b"\0")


ONE = header(b"one.jpg", 3) + b"pic".ljust(512, b"\0")


@pytest.mark.parametrize(
    "damaged",
    [
        header(b"two.jpg", -512),
        header(b"two.jpg", 1 << 80),
        header(b"long name", -512, tarfile.GNUTYPE_LONGNAME) + bytes(512),
        header(b"long name", 1 << 80, tarfile.GNUTYPE_LONGNAME) + bytes(512),
        extended(size=-1536) + ONE,  # back to this header, and round for ever
        extended(size="9" * 400) + ONE,
        extended(path="two.jpg") * 2000 + ONE,
        extended(GNU_sparse_map="a,b", GNU_sparse_size=3) + ONE,
    ],
    ids=["negative", "huge", "negative name", "huge name", "loop", "huge in pax", "nested", "sparse map"],
)
@pytest.mark.timeout(30)
def test_numbers_in_a_header_that_cannot_be_are_refused_in_one_line(tmp_path, damaged):
    (tmp_path / "s.tar").write_bytes(ONE + damaged + ONE + bytes(1024))
    with pytest.raises(InputError, match=r"s.tar: not a whole, uncompressed tar file: ") as caught:
        images_of(tmp_path, tmp_path / "s.tar")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.timeout(120)
def test_whatever_is_in_a_header_gives_rows_or_a_refusal(tmp_path):
    chance, refused = random.Random(18), 0
    members = [
        ("one.jpg", b"1" * 700),
        ("x" * 60 + "/" + "y" * 60 + ".jpg", b"2"),
        ("two.jpg", SOFT, "one.jpg"),
        ("ü.jpg", b"4"),
    ]
    whole = {form: archive(tmp_path / "s.tar", members, form).read_bytes() for form in (0, 1, 2)}
    for _ in range(200):
        content = bytearray(whole[chance.choice((0, 1, 2))])
        for _ in range(chance.choice((1, 1, 2))):
            block = 512 * chance.randrange(len(content) // 512 - 2)
            place = block + chance.choice([*range(124, 136), *range(345)])
            content[place : place + 3] = chance.randbytes(chance.randrange(4)).ljust(3, b"0")
            if chance.random() < 0.9 and content[block : block + 512].strip(b"\0"):
                content[block : block + 512] = summed(content[block : block + 512])
        (tmp_path / "s.tar").write_bytes(content)
        try:
            found, _ = images_of(tmp_path, tmp_path / "s.tar")
        except InputError:
            refused += 1
        else:
            assert all(isinstance(image, (bytes, str)) for image in found.values())
    assert 30 < refused < 180


def test_a_folder_of_archives_takes_them_whatever_the_case_of_their_names(tmp_path):
    archive(tmp_path / "ONE.TAR", [("a.jpg", b"1")])
    archive(tmp_path / "._ONE.TAR", [("a.jpg", b"1")])
    (tmp_path / "two.tar.gz").write_bytes(b"x")
    spec = InputSpec((str(tmp_path),), input_format="tar")
    source = open_input(spec)
    assert sum(batch.num_rows for batch in source.batches()) == 1
    assert {kind: each["count"] for kind, each in source.skipped.as_json().items()} == {"._*": 1, ".gz": 1}
