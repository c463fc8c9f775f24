"""Images that a table lists, or that come in one file."""

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.datasets import Entry, find
from pipeline.decoding import decode
from pipeline.errors import UserError
from pipeline.preprocessing import Preprocessing
from tests.conftest import touch, write_digits

KINDS = ["zip", "tar", "gztar", "bztar", "xztar"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three scans."""
    return write_digits(tmp_path / "images", classes=2, per_class=3)


def table_entries(root: Path, text: str | bytes, name: str = "labels.csv") -> list[Entry]:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return find("csv", root, Path("unused"), name).entries


def archive_entries(archive: Path) -> list[Entry]:
    scratch = archive.parent / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    return find("archive", archive, scratch).entries


def packed(folder: Path, kind: str = "zip") -> Path:
    return Path(shutil.make_archive(str(folder.parent / "packed.v1"), kind, folder))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", ", "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("bom", "path", "label"), [("", "path", "label"), ("\ufeff", "File", "CLASS")])
def test_a_table_in_any_dialect(root: Path, delimiter: str, end: str, bom: str, path: str, label: str) -> None:
    """Names and order of the columns, delimiter, ends of lines and a byte order mark do not matter; quotes do."""
    rows = [["note", label, path], ['"a, b; c"', "001", "digit-0/000.png"], ["", "NA", "digit-1/000.png"]]
    text = bom + end.join(delimiter.join(row) for row in rows)
    assert table_entries(root, text, "my labels.csv") == [
        Entry("digit-0/000.png", "001", "", root / "digit-0" / "000.png"),
        Entry("digit-1/000.png", "NA", "", root / "digit-1" / "000.png"),
    ]


def test_splits_and_groups_are_read(root: Path) -> None:
    """`valid` and `Validation` mean val; an empty one leaves it open."""
    touch(root, *"abcde")
    rows = "a,x,train,p1\nb,y,,p2\nc,x,valid,\nd,x,Validation,\ne,y,TEST,p 3\n"
    found = [(entry.split, entry.group) for entry in table_entries(root, f"image,class,split,group\n{rows}")]
    assert found == [("train", "p1"), ("", "p2"), ("val", ""), ("val", ""), ("test", "p 3")]


def test_a_file_may_be_listed_twice(root: Path) -> None:
    """With one label it is one image; with two labels both stay, as validation tells people about them."""
    touch(root, "a.png", "b.png")
    entries = table_entries(root, "path,label\na.png,x\n./a.png,x\nb.png,x\nb.png,y\n")
    assert [(entry.path, entry.label) for entry in entries] == [("a.png", "x"), ("b.png", "x"), ("b.png", "y")]


def test_rows_that_cannot_be_images_are_faults(root: Path, tmp_path: Path) -> None:
    """Each says why; a missing file is none of them, as reading it says so."""
    rows = [
        "digit-0/000.png,a", "digit-1/000.png,b", "missing.png,b", f"{root}/digit-0/001.png,a", "digit-0/002.png",
        "digit-0/002.png,  ", ",a", f"{tmp_path}/elsewhere.png,a", "../up.png,a", "one,more.png,a", "..odd.png,a",
        "digit-1\\001.png,b",
    ]  # fmt: skip
    found = table_entries(root, "\n".join(["path,label", *rows]))
    outside = f"it lies outside {root}, which DVC watches"
    assert {entry.path: entry.fault.split(":")[0] for entry in found if entry.fault} == {
        f"{tmp_path}/elsewhere.png": outside,
        "../up.png": outside,
        "digit-0/002.png": "no label in line 7",
        "line 8": "no path in line 8",
        "one": "line 11 has more values than there are columns",
    }
    sound = ["..odd.png", *(f"digit-0/00{n}.png" for n in (0, 1)), *(f"digit-1/00{n}.png" for n in (0, 1))]
    assert [entry.path for entry in found if not entry.fault] == [*sound, "missing.png"]
    block = decode(found, Preprocessing(8, "crop", (255, 255, 255)))
    assert ("missing.png", "b", "it cannot be opened: No such file or directory") in block.quarantined


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name;kind;label\n", "name, kind, label"),
        ("", "none"),
        ("path,label,split\na,x,train\nb,y,traning\n", "line 3 .*'traning'"),
        ('path,label\na,x\n"b,y\n', "line 3"),
        ("path,label\nä,x\n".encode("latin-1"), "UTF-8"),
        ("path,label\n", "no rows"),
        ("path,label,class\na,x,y\n", "label, class"),
        ("file,path,label\na,x,y\n", "file, path"),
        ("path,label,split\na,x,train\nb,y,train\nc,z,test\n", "class 'z' of test/"),
    ],
)
def test_a_table_that_cannot_serve_is_named(root: Path, text: str | bytes, said: str) -> None:
    """Columns, splits, quotes, encodings: the table, the line and the fix."""
    touch(root, *"abc")
    with pytest.raises(UserError, match=said):
        table_entries(root, text)
    with pytest.raises(UserError, match=r"none\.csv.*ingest\.labels"):
        find("csv", root, Path("unused"), "none.csv")


@pytest.mark.parametrize(
    ("path", "is_there"),
    [
        ("digit-0/000", "digit-0/000.png"),
        ("Digit-0/000.PNG", "digit-0/000.png"),
        ("C:\\data\\images\\digit-1\\000.png", "digit-1/000.png"),
        ("/home/bob/images/digit-1/000.png", "digit-1/000.png"),
        ("x\\" + "n" * 300, ""),
    ],
)
def test_where_most_files_are_missing_the_one_that_is_meant_is_offered(root: Path, path: str, is_there: str) -> None:
    """And the path that was looked for is named."""
    with pytest.raises(UserError, match="2 of 3 files") as raised:
        table_entries(root, f"path,label\n{path},a\n{path}2,b\ndigit-0/002.png,b\n")
    assert (root / path.replace("\\", "/")).as_posix() in str(raised.value)
    assert f"but {is_there} is" in str(raised.value) or not is_there


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner", ["", "one/two", "one/train"])
def test_an_archive_of_class_folders(root: Path, kind: str, inner: str) -> None:
    """Lone folders round it and what macOS adds are passed over; paths do not tell of the scratch folder."""
    shutil.copytree(root, root.parent / "top" / inner)
    touch(root.parent / "top", "__MACOSX/._000.png")
    entries = archive_entries(packed(root.parent / "top", kind))
    split = "train/" if inner.endswith("train") else ""  # a lone train/ is a layout, not a folder to pass through
    assert [entry.path for entry in entries] == [f"{split}digit-{d}/00{n}.png" for d in (0, 1) for n in (0, 1, 2)]
    assert all(isinstance(entry.content, Path) and entry.content.is_file() for entry in entries)


@pytest.mark.parametrize("inner", ["", "images"])
def test_an_archive_with_a_table(root: Path, inner: str) -> None:
    """A labels.csv at the top counts, whatever folders there are."""
    (root / "labels.csv").write_text("path,label\ndigit-0/000.png,zero\ndigit-1/000.png,one\n")
    shutil.copytree(root, root.parent / "top" / inner)
    assert [entry.label for entry in archive_entries(packed(root.parent / "top"))] == ["zero", "one"]


def write_tar(path: Path, name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Path:
    with tarfile.open(path, "w:gz") as opened:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, target, int(kind == tarfile.REGTYPE)
        opened.addfile(member, io.BytesIO(b"x"))
    return path


def test_an_archive_that_is_not_safe_is_refused(tmp_path: Path) -> None:
    """Nothing is written beside the scratch folder: no ../, no absolute path, no link out; no FIFO, no device."""
    for name in ("../out.png", f"{tmp_path}/out.png", "..\\out.png"):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as opened:
            opened.writestr(name, "x" * 100)
        with pytest.raises(UserError, match=r"bad\.zip cannot be unpacked"):
            archive_entries(tmp_path / "bad.zip")
    members = [("a", tarfile.SYMTYPE, "../../out"), ("b", tarfile.SYMTYPE, "/etc"), ("../out.png", tarfile.REGTYPE, "")]
    for member in [*members, *(("cat/a.jpg", kind, "") for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE))]:
        with pytest.raises(UserError, match=r"bad\.tar cannot be unpacked"):
            archive_entries(write_tar(tmp_path / "bad.tar", *member))
    assert {path.name for path in tmp_path.rglob("*") if not path.is_dir()} == {"bad.zip", "bad.tar"}


def test_links_inside_an_archive_are_followed(root: Path, tmp_path: Path) -> None:
    """A class that links to another one's folder is read; a lone link back to the top ends in a sentence."""
    (root / "again").symlink_to("digit-1")
    assert "again/000.png" in {entry.path for entry in archive_entries(packed(root, "tar"))}
    with pytest.raises(UserError, match=r"loop\.tar: a classifier .*a: a link to"):
        archive_entries(write_tar(tmp_path / "loop.tar", "a", tarfile.SYMTYPE, "."))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_damaged_archive_is_named(root: Path, kind: str, harm: str) -> None:
    """Cut off in the middle, or with wrong bytes in it."""
    (root / "digit-0" / "000.png").write_bytes(os.urandom(20_000))  # does not compress: the damage falls into it
    archive = packed(root, kind)
    content = archive.read_bytes()
    place = 148 if kind == "tar" else len(content) // 2  # a checksum of headers is all that an uncompressed tar has
    wrong = bytes(255 - byte for byte in content[place : place + 8])
    archive.write_bytes(
        content[: len(content) // 2] if harm == "cut" else content.replace(content[place : place + 8], wrong)
    )
    with pytest.raises(UserError, match="cannot be unpacked"):
        archive_entries(archive)


def test_an_archive_with_a_password_is_refused(tmp_path: Path) -> None:
    """The flag of an encrypted member is set, as by `zip -e`."""
    with zipfile.ZipFile(tmp_path / "secret.zip", "w") as opened:
        opened.writestr("a.png", "x")
        opened.filelist[0].flag_bits |= 1
    with pytest.raises(UserError, match=r"secret\.zip .*password"):
        archive_entries(tmp_path / "secret.zip")


@pytest.mark.parametrize("name", ["gone.zip", "empty.zip", "text.zip", "a.rar", "a.7Z", "a.xlsx", "a.npz", "a.jpg"])
def test_what_is_no_archive_is_named(tmp_path: Path, name: str) -> None:
    """Missing, empty, a text, or of a kind that is no source: one sentence says what to give instead."""
    if not name.startswith("gone"):
        (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"hello" * 1000)
    with pytest.raises(UserError, match=rf"{name} .*give"):
        archive_entries(tmp_path / name)


@pytest.mark.parametrize("images", ["", "train_images"])
def test_the_tables_of_an_archive_are_named(tmp_path: Path, images: str) -> None:
    """Images without class folders and a table of another name: what it must be called, and which ones there are."""
    touch(tmp_path / "top", f"./{images}/000.png")
    (tmp_path / "top" / "train.csv").write_text("path,label\n000.png,a\n")
    (tmp_path / "top" / "sample.csv").write_text("id,guess\n1,2\n")
    with pytest.raises(UserError, match=r"called labels\.csv .*packed\.v1\.zip/train\.csv$"):
        archive_entries(packed(tmp_path / "top"))


class RawName(zipfile.ZipInfo):
    """A member whose name is written as it is, without the flag of UTF-8, as old tools do."""

    raw: bytes

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802  # of zipfile
        return self.raw, self.flag_bits & ~0x800


def test_names_in_a_zip_without_the_flag_of_utf8(root: Path, tmp_path: Path) -> None:
    """macOS writes UTF-8 without saying so. A class whose name is in another encoding is a fault, as in a folder."""
    fault = "its name is not UTF-8: rename it"
    for encoding, said in (("utf-8", ("Hänsel", "")), ("latin-1", ("H\\xe4nsel", fault))):
        with zipfile.ZipFile(tmp_path / "old.zip", "w") as opened:
            for folder in ("zero", "one", "Hänsel"):
                member = RawName(folder)
                member.raw = f"{folder}\\000.png".encode(encoding)  # Windows' separator, which some tools write
                opened.writestr(member, b"x")
        entries = archive_entries(tmp_path / "old.zip")
        assert {(entry.label, entry.fault) for entry in entries} == {said, ("one", ""), ("zero", "")}
