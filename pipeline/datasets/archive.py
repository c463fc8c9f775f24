"""`archive`: a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz of a folder of images, or of a table and its images.

It is unpacked into the scratch folder; what is read is the folder that a lone folder at the top leads to.
"""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.datasets import Found, can_be_learned, image_folder, table
from pipeline.datasets._folders import lineage, subfolders
from pipeline.errors import UserError

OTHERS = {
    **dict.fromkeys((".rar", ".7z"), "is an archive of a kind that is not read: unpack it and give the folder"),
    **dict.fromkeys(
        (".xlsx", ".xls", ".ods", ".parquet", ".feather", ".json", ".jsonl", ".txt"),
        "is not read: save it as CSV with the columns path and label",
    ),
    **dict.fromkeys(
        (".npy", ".npz", ".mat", ".h5", ".hdf5", ".pkl", ".tfrecord", ".tfrecords"),
        "is not read: write its images as image files, into a folder per class",
    ),
    **dict.fromkeys(image_folder.IMAGES, "is one image: give a folder that holds one sub-folder of images a class"),
}


def find(source: str, root: Path, scratch: Path, labels: str) -> Found:
    _unpack(root, scratch)
    inner = _inner(scratch, labels)
    listed = (inner / labels).is_file()
    find_in = table.find if listed else image_folder.find
    try:
        found = find_in(source, inner, scratch, labels)
        can_be_learned(inner, found.entries)
    except ValueError as error:  # people know the archive, not the folder that it was unpacked into
        others = " or ".join(str(path) for path, unfit in table.tables_in(inner).items() if not unfit and not listed)
        hint = f"; a table in an archive has to be called {labels} (ingest.labels): rename {others}" if others else ""
        raise UserError(f"{error}{hint}".replace(str(scratch), str(root))) from None
    return found


def _unpack(archive: Path, scratch: Path) -> None:
    if not archive.is_file():
        raise UserError(f"{archive} is not a file: give a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz of images")
    if archive.suffix.lower() in OTHERS:
        raise UserError(f"{archive} {OTHERS[archive.suffix.lower()]}")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened_zip:
                for member in opened_zip.infolist():  # some tools of Windows write its separators
                    member.filename = _name(member).replace("\\", "/")
                _refuse(archive, opened_zip.infolist())
                for member in opened_zip.infolist():
                    opened_zip.extract(member, scratch)
        else:
            with tarfile.open(archive) as opened_tar:
                opened_tar.extractall(scratch, filter="data")  # PEP 706: nothing outside, no devices
                while opened_tar.fileobj and opened_tar.fileobj.read(1 << 20):
                    pass  # the checksum of a .gz stands at its end, which tarfile leaves unread
    except tarfile.FilterError as error:
        raise UserError(f"{archive} is not unpacked, as it is not safe ({error}): pack it again") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise UserError(
            f"{archive} cannot be unpacked ({_line(error)}): damaged, or neither a .zip nor a .tar (.gz, .bz2, .xz)"
        ) from None
    except OSError as error:  # a checksum of gzip or bzip2; a full disk
        raise UserError(f"{archive} cannot be unpacked ({error}): is it damaged, or the disk full?") from None


def _name(member: zipfile.ZipInfo) -> str:
    """Names that are not said to be UTF-8 often are; others stay undecoded, and are set aside as those of a folder."""
    if member.flag_bits & 0x800:  # APPNOTE, 4.4.4: UTF-8
        return member.filename
    # zipfile's guess, taken back; it ends names at a zero, too
    raw, extra = member.orig_filename.partition("\0")[0].encode("cp437"), member.extra
    while len(extra) >= 9:
        kind, length, _, checksum = struct.unpack("<HHBI", extra[:9])
        if kind == 0x7075 and checksum == zlib.crc32(raw):  # APPNOTE, 4.6.9: the name in UTF-8
            raw = extra[9 : 4 + length]
        extra = extra[4 + length :]
    return raw.decode("utf-8", "surrogateescape")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _refuse(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"{archive} is not unpacked, as {member.filename!r} lies outside it: pack it again")
        if member.flag_bits & 0x1:  # PKWARE's APPNOTE, 4.4.4
            raise UserError(f"{archive} is protected by a password: unpack it and give the folder")


def _inner(folder: Path, labels: str) -> Path:
    """Descends while there is one folder alone that leads on to others or to a table, and is not train/."""
    while not (folder / labels).is_file():
        inside = subfolders(folder)
        if len(inside) != 1 or inside[0].is_symlink() or image_folder.holds_split(inside[0], lineage(folder)):
            return folder
        if not subfolders(inside[0]) and not (inside[0] / labels).is_file():
            return folder
        folder = inside[0]
    return folder
