"""Images that a table lists, or that come in one file."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from pipeline.datasets import Entry, find
from pipeline.decoding import decode
from pipeline.preprocessing import Preprocessing
from tests.conftest import touch, write_digits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three scans."""
    return write_digits(tmp_path / "images", classes=2, per_class=3)


def table_entries(root: Path, text: str | bytes, name: str = "labels.csv") -> list[Entry]:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return find("csv", root, Path("unused"), name).entries


def archive_entries(archive: Path) -> list[Entry]:
    scratch = archive.parent / "scratch"
    scratch.mkdir()
    return find("archive", archive, scratch).entries


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(("path", "label"), [("path", "label"), ("File", "CLASS"), ("filename", "target")])
def test_a_table_in_any_dialect(root: Path, delimiter: str, bom: bytes, path: str, label: str) -> None:
    """Names of the columns, their order, the delimiter and a byte order mark do not matter; quotes are understood."""
    rows = [["note", label, path], ['"a, b; c"', "001", "digit-0/000.png"], ["", "NA", "digit-1/000.png"]]
    text = bom + "\r\n".join(delimiter.join(row) for row in rows).encode()
    assert table_entries(root, text, "my labels.csv") == [
        Entry("digit-0/000.png", "001", "", root / "digit-0" / "000.png"),
        Entry("digit-1/000.png", "NA", "", root / "digit-1" / "000.png"),
    ]


def test_splits_and_groups_are_kept(root: Path) -> None:
    """`valid` and `Validation` mean val; an empty one leaves it open."""
    touch(root, *"abcde")
    entries = table_entries(
        root,
        "image,class,split,group\na,x,train,p1\nb,y,,p2\nc,x,valid,\nd,x,Validation,\ne,y,TEST,p 3\n",
    )
    assert [entry.split for entry in entries] == ["train", "", "val", "val", "test"]
    assert [entry.group for entry in entries] == ["p1", "p2", "", "", "p 3"]


def test_a_file_may_be_listed_twice(root: Path) -> None:
    """With one label it is one image; with two labels both stay, as validation tells people about them."""
    touch(root, "a.png", "b.png")
    entries = table_entries(root, "path,label\na.png,x\n./a.png,x\nb.png,x\nb.png,y\n")
    assert [(entry.path, entry.label) for entry in entries] == [("a.png", "x"), ("b.png", "x"), ("b.png", "y")]


def test_rows_that_cannot_be_images_are_faults(root: Path, tmp_path: Path) -> None:
    """Each says why; a missing file is none of them, as reading it says so."""
    os.mkfifo(root / "fifo.png")
    rows = [
        "digit-0/000.png,a", "digit-1/000.png,b", "missing.png,b", f"{root}/digit-0/001.png,a", "digit-0/002.png",
        "digit-0/002.png,  ", ",a", f"{tmp_path}/elsewhere.png,a", "../up.png,a", "fifo.png,a", "one,more.png,a",
        "..odd.png,a",
    ]  # fmt: skip
    found = table_entries(root, "\n".join(["path,label", *rows]))
    outside = f"it lies outside {root}, which DVC watches"
    assert {entry.path: entry.fault for entry in found if entry.fault and entry.path != "digit-0/002.png"} == {
        f"{tmp_path}/elsewhere.png": outside,
        "../up.png": outside,
        "fifo.png": "not a regular file",
        "line 8": "no path in line 8",
        "one": "line 12 has more values than there are columns: quote what holds a delimiter",
    }
    assert [e.fault for e in found if e.path == "digit-0/002.png"] == ["no label in line 6", "no label in line 7"]
    sound = ["..odd.png", "digit-0/000.png", "digit-0/001.png", "digit-1/000.png", "missing.png"]
    assert [entry.path for entry in found if not entry.fault] == sound


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name;kind;label\n", r"labels.csv has the columns name, kind, label: in its first line there must be path"),
        ("", r"has the columns \(none\)"),
        (
            "path,label,split\na,x,train\nb,y,traning\n",
            r"labels.csv, line 3 has the split 'traning': it can be train, val",
        ),
        ('path,label\na,x\n"b,y\n', "labels.csv, line 3 cannot be read .*: mend its quotes"),
        ("path,label\nä,x\n".encode("latin-1"), "is not UTF-8 .*: save it as UTF-8"),
        ("path,label\n".encode("utf-16-le"), "is not a text"),
        ("path,label\n", r"labels\.csv has a header but no rows"),
        ("path,label,class\na,x,y\n", "columns label, class, each of which may be the label"),
        ("file,path,label\na,x,y\n", "columns file, path, each of which may be the path"),
        ("path,label,split\na,x,train\nb,y,train\nc,z,test\n", "class 'z' of test/ has no images in train/"),
    ],
)
def test_a_table_that_cannot_serve_is_named(root: Path, text: str | bytes, said: str) -> None:
    """Columns, splits, quotes, encodings: the table, the line and the mend."""
    touch(root, *"abc")
    with pytest.raises(ValueError, match=said):
        table_entries(root, text)


@pytest.mark.parametrize(
    ("path", "is_there", "said"),
    [
        ("digit-0/000", "digit-0/000.png", "extension"),
        ("digit-0/000.jpg", "digit-0/000.png", "extension"),
        ("digit-0/000.PNG", "digit-0/000.png", "upper and lower case"),
        ("Digit-0/000.png", "digit-0/000.png", "upper and lower case"),
        ("images/digit-1/000.png", "digit-1/000.png", "folder"),
        ("000", "digit-1/000.png", "folder and extension"),
        ("C:\\data\\images\\digit-1\\000.png", "digit-1/000.png", "folder"),
        ("/home/bob/images/digit-1/000.png", "digit-1/000.png", "folder"),
    ],
)
def test_paths_that_are_written_differently_are_offered(root: Path, path: str, is_there: str, said: str) -> None:
    """Where most files are missing: the path that was looked for, the file that is meant, and in what they differ."""
    text = f"path,label\n{path},a\n{path.replace('000', '001')},b\ndigit-0/002.png,b\n"
    with pytest.raises(ValueError, match="2 of 3 files are not there") as raised:
        table_entries(root, text)
    assert (root / path.replace("\\", "/")).as_posix() in str(raised.value)
    assert f"but {is_there} is: correct the {said} " in str(raised.value)


def test_files_that_are_nowhere_are_named(root: Path) -> None:
    """With the path that was looked for, and nothing offered. Names that no file can have are no other case."""
    for name in ("x/nowhere.png", "n" * 300, "x\\" + "n" * 300):
        with pytest.raises(ValueError, match="2 of 2 files are not there") as raised:
            table_entries(root, f"path,label\n{name},a\n{name}2,b\n")
        assert f"{root}/{name}".replace("\\", "/") in str(raised.value)
        assert "correct" not in str(raised.value)


def test_a_few_missing_files_are_set_aside(root: Path) -> None:
    """Where most are there, the others are left to decoding, which gives the reason."""
    entries = table_entries(root, "path,label\ndigit-0/000.png,a\ndigit-1/000.png,b\ngone.png,b\n")
    block = decode(entries, Preprocessing(8, "crop", (255, 255, 255)))
    assert block.quarantined == [("gone.png", "b", "it cannot be opened: No such file or directory")]


def test_a_missing_table_is_named(root: Path) -> None:
    """The parameters that say where it should be."""
    with pytest.raises(ValueError, match=r"labels\.csv is not a file: ingest\.root is the table's folder"):
        find("csv", root, Path("unused"))


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "bztar", "xztar"])
@pytest.mark.parametrize("wrapped", [0, 2])
def test_an_archive_of_class_folders(root: Path, kind: str, wrapped: int) -> None:
    """Lone folders round it and what macOS adds are passed over; paths do not tell of the scratch folder."""
    content = root
    for level in range(wrapped):
        shutil.move(content, root.parent / f"level{level}" / content.name)
        content = root.parent / f"level{level}"
    (content / "__MACOSX").mkdir()
    (content / "__MACOSX" / "._000.png").write_bytes(b"x")
    archive = Path(shutil.make_archive(str(root.parent / "packed.v1"), kind, content))
    entries = archive_entries(archive)
    assert [entry.path for entry in entries] == [f"digit-{d}/00{n}.png" for d in (0, 1) for n in (0, 1, 2)]
    assert all(isinstance(entry.content, Path) and entry.content.is_file() for entry in entries)


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_archive_with_a_table(root: Path, wrapped: bool) -> None:
    """A labels.csv at the top counts, whatever folders there are."""
    (root / "labels.csv").write_text("path,label\ndigit-0/000.png,zero\ndigit-1/000.png,one\n")
    if wrapped:
        shutil.move(root, root.parent / "wrap" / "images")
    archive = shutil.make_archive(str(root.parent / "a"), "zip", root.parent / "wrap" if wrapped else root)
    entries = archive_entries(Path(archive))
    assert [entry.label for entry in entries] == ["zero", "one"]


def test_an_archive_of_train_alone_has_splits(root: Path) -> None:
    """A lone train/ is a layout, not a folder to pass through."""
    shutil.move(root, root.parent / "packed" / "set" / "train")
    entries = archive_entries(Path(shutil.make_archive(str(root.parent / "a"), "zip", root.parent / "packed")))
    assert {entry.split for entry in entries} == {"train"}


def write_zip(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(name, "x" * 100)


def write_tar(path: Path, member: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz") as opened:
        member.size = 0 if member.type != tarfile.REGTYPE else 1
        opened.addfile(member, io.BytesIO(b"x"))


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def test_an_archive_that_leads_outside_is_refused(tmp_path: Path) -> None:
    """Nothing is written beside the scratch folder: no ../, no absolute path, no link out."""
    archive = tmp_path / "bad"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name in ("../out.png", f"{tmp_path}/out.png", "..\\out.png"):
        write_zip(archive, name)
        with pytest.raises(ValueError, match=r"bad is not unpacked, as .* lies outside it: pack it again"):
            find("archive", archive, scratch)
    for member in (tarfile.TarInfo("../out.png"), link("a", "../../out"), link("b", "/etc")):
        write_tar(archive, member)
        with pytest.raises(ValueError, match=r"bad is not unpacked, as it is not safe .*: pack it again"):
            find("archive", archive, scratch)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad", "scratch"]


def test_links_inside_an_archive_are_followed(root: Path, tmp_path: Path) -> None:
    """A class that links to another one's folder is read; a lone link back to the top ends in a sentence."""
    (root / "again").symlink_to("digit-1")
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "tar", root))
    assert "again/000.png" in {entry.path for entry in archive_entries(archive)}
    shutil.rmtree(tmp_path / "scratch")
    write_tar(tmp_path / "loop", link("a", "."))
    with pytest.raises(
        ValueError, match=r"loop: a classifier needs .* \(a: a link to a folder that holds it \(loop\)\)"
    ):
        archive_entries(tmp_path / "loop")


def test_an_archive_with_a_password_is_refused(tmp_path: Path) -> None:
    """The flag of an encrypted member is set, as by `zip -e`."""
    archive = tmp_path / "secret.zip"
    write_zip(archive, "a.png")
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # local header
    content[content.index(b"PK\1\2") + 8] |= 1  # central directory
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"secret\.zip is protected by a password: unpack it and give the folder"):
        archive_entries(archive)


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "bztar", "xztar"])
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_damaged_archive_is_named(root: Path, kind: str, harm: str) -> None:
    """Cut off in the middle, or with wrong bytes in it."""
    noise = b"".join(os.urandom(1000) for _ in range(20))  # does not compress: the damage falls into it
    (root / "digit-0" / "000.png").write_bytes(noise)
    archive = Path(shutil.make_archive(str(root.parent / "packed"), kind, root))
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2
    if harm == "cut":
        content = content[: middle + 1]
    elif kind == "tar":
        content[148:156] = b"\xff" * 8  # a checksum is all that an uncompressed tar has
    else:
        content[middle : middle + 50] = bytes(255 - byte for byte in content[middle : middle + 50])
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be unpacked .*damaged"):
        archive_entries(archive)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "is not a file: give a .zip"), (b"", "cannot be unpacked"), (b"hello" * 1000, "neither a .zip nor a .tar")],
)
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A missing file, an empty one, a text."""
    if content is not None:
        (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        archive_entries(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *[(name, "unpack it and give the folder") for name in ("a.rar", "a.7z", "a.7Z")],
        *[(name, "as CSV") for name in ("a.xlsx", "a.parquet", "a.json")],
        *[(name, "one image") for name in ("a.jpg", "a.PNG", "a.heic")],
        *[(name, "as image files") for name in ("a.npy", "a.npz", "a.h5", "a.tfrecord")],
    ],
)
def test_formats_that_are_no_source_are_named(tmp_path: Path, name: str, said: str) -> None:
    """In one sentence with what to do instead."""
    (tmp_path / name).write_bytes(b"Rar!\x1a\x07\x01\x00")
    with pytest.raises(ValueError, match=f"{name} .*{said}"):
        archive_entries(tmp_path / name)


@pytest.mark.parametrize("images", ["", "train_images"])
def test_the_tables_of_an_archive_are_named(root: Path, images: str) -> None:
    """Images without class folders and a table of another name: what it must be called, and which ones there are."""
    packed = root.parent / "packed"
    shutil.copytree(root / "digit-0", packed / images)
    (packed / "train.csv").write_text("path,label\n000.png,a\n001.png,b\n")
    (packed / "sample.csv").write_text("id,guess\n1,2\n")
    with pytest.raises(ValueError, match=r"called labels\.csv .*a\.zip/train\.csv$"):
        archive_entries(Path(shutil.make_archive(str(root.parent / "a"), "zip", packed)))


class RawName(zipfile.ZipInfo):
    """A member whose name is written as it is, without the flag of UTF-8, as old tools do."""

    raw: bytes

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802  # of zipfile
        return self.raw, self.flag_bits & ~0x800


def old_zip(archive: Path, image: Path, raw: bytes, extra: bytes = b"") -> Path:
    """The classes zero, one and `raw`, with an image each."""
    with zipfile.ZipFile(archive, "w") as opened:
        for folder in (b"zero", b"one", raw):
            member = RawName((folder + b"/000.png").decode("cp437"))
            member.raw, member.extra = folder + b"/000.png", extra if folder is raw else b""
            opened.writestr(member, image.read_bytes())
    return archive


def unicode_path(raw: bytes, name: str) -> bytes:
    """Info-ZIP's extra field (APPNOTE, 4.6.9) of a member that is called `raw` in the old encoding."""
    content = struct.pack("<BI", 1, zlib.crc32(raw)) + name.encode()
    return struct.pack("<HH", 0x7075, len(content)) + content


def test_names_in_a_zip_without_the_flag_of_utf8(root: Path, tmp_path: Path) -> None:
    """macOS writes UTF-8 without saying so; Info-ZIP writes it beside an old name, which may have changed since."""
    old = "Hänsel".encode("cp850")
    right, stale = unicode_path(old + b"/000.png", "Hänsel/000.png"), unicode_path(b"other", "other/000.png")
    for raw, extra in (("Hänsel".encode(), b""), (old, right), ("Hänsel".encode(), stale)):
        entries = archive_entries(old_zip(tmp_path / "old.zip", root / "digit-0" / "000.png", raw, extra))
        assert {(entry.label, entry.fault) for entry in entries} == {("Hänsel", ""), ("one", ""), ("zero", "")}
        shutil.rmtree(tmp_path / "scratch")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_in_an_unknown_encoding_are_no_classes(root: Path, tmp_path: Path, kind: str) -> None:
    """They are asked about, not learned as something that nobody wrote: the class is a fault, as in a folder."""
    archive = old_zip(tmp_path / "old.zip", root / "digit-0" / "000.png", "Hänsel".encode("latin-1"))
    if kind == "tar":
        with zipfile.ZipFile(archive) as opened, tarfile.open(tmp_path / "old.tar", "w", encoding="latin-1",
                                                              format=tarfile.GNU_FORMAT) as tar:  # fmt: skip
            for member in opened.infolist():
                packed = tarfile.TarInfo(member.filename.encode("cp437").decode("latin-1"))
                packed.size = member.file_size
                tar.addfile(packed, io.BytesIO(opened.read(member)))
        archive = tmp_path / "old.tar"
    assert {entry.label: entry.fault for entry in archive_entries(archive)} == {
        "zero": "",
        "one": "",
        "H\\xe4nsel": "its name is not UTF-8: rename it",
    }


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_a_tar_with_fifos_or_devices_is_refused(tmp_path: Path, kind: bytes) -> None:
    """None is made, and none is opened."""
    member = tarfile.TarInfo("cat/a.jpg")
    member.type = kind
    write_tar(tmp_path / "odd.tar", member)
    with pytest.raises(ValueError, match=r"odd\.tar is not unpacked, as it is not safe"):
        archive_entries(tmp_path / "odd.tar")


def test_a_fifo_is_never_opened(root: Path) -> None:
    """In the place of an archive, of a table, and of images."""
    os.mkfifo(root / "labels.csv")
    for source, place in (("archive", root / "labels.csv"), ("csv", root), ("image_folder", root / "labels.csv")):
        with pytest.raises(ValueError, match=r"is not a (file|folder)"):
            find(source, place, Path("unused"))


def test_what_is_wrong_inside_is_said_of_the_archive(root: Path) -> None:
    """People know nothing of the scratch folder."""
    archive = Path(shutil.make_archive(str(root.parent / "flat"), "zip", root / "digit-0"))
    with pytest.raises(ValueError, match=r"flat\.zip holds images but no class folders"):
        archive_entries(archive)


def test_names_with_the_separators_of_windows_are_found(root: Path, tmp_path: Path) -> None:
    """In tables, and in archives that some tools of Windows write."""
    (entry,) = [e for e in table_entries(root, "path,label\ndigit-0\\000.png,a\ndigit-1/000.png,b\n") if e.label == "a"]
    assert (entry.path, entry.fault) == ("digit-0/000.png", "")
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.writestr("photos\\" + str(file.relative_to(root)).replace("/", "\\"), file.read_bytes())
    assert [e.path for e in archive_entries(tmp_path / "windows.zip")][:2] == ["digit-0/000.png", "digit-0/001.png"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_spaces_after_the_delimiter_do_not_matter(root: Path, end: str) -> None:
    """Old spreadsheets end a line with a carriage return alone."""
    text = end.join(["path, label", 'digit-0/000.png, "a, b"', "digit-1/000.png, c", ""])
    assert [entry.label for entry in table_entries(root, text)] == ["a, b", "c"]
