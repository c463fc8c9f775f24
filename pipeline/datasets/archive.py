"""`archive`: a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz of a folder of images, or of a table and its images."""

import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline import datasets
from pipeline.datasets import image_folder, table
from pipeline.datasets._folders import subfolders
from pipeline.errors import UserError

KINDS = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz")
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


def find(source: str, root: Path, scratch: Path, labels: str) -> datasets.Found:
    if not root.is_file() or root.suffix.lower() not in KINDS:
        raise UserError(
            f"{root} is not a file to unpack: give a .zip, .tar, .tar.gz, .tar.bz2, .tar.xz, a folder, a .csv"
        )
    try:
        _unpack(root, scratch)
    except BROKEN as error:  # RuntimeError: a password, or a compression that zipfile does not know
        said = f"{root} cannot be unpacked ({' '.join(str(error).split())}): it is damaged, unsafe, has a password or"
        raise UserError(f"{said} is too large for the disk: pack it again, or unpack it and give the folder") from None
    inner = _inner(scratch, labels)
    listed = (inner / labels).is_file()
    try:
        return datasets.find("csv" if listed else "image_folder", inner, scratch, labels)
    except UserError as error:  # people know the archive, not the folder that it was unpacked into
        others = " or ".join(str(path) for path, unfit in table.tables_in(inner).items() if not unfit and not listed)
        hint = f"; a table in an archive has to be called {labels} (ingest.labels): rename {others}" if others else ""
        raise UserError(f"{error}{hint}".replace(str(scratch), str(root))) from None


def _unpack(root: Path, scratch: Path) -> None:
    if zipfile.is_zipfile(root):
        with zipfile.ZipFile(root) as opened_zip:
            for member in opened_zip.infolist():
                member.filename = _name(member).replace("\\", "/")  # some tools of Windows write its separators
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts:
                    raise zipfile.BadZipFile(f"{member.filename!r} lies outside it")
            opened_zip.extractall(scratch, opened_zip.infolist())  # by members, as their names are new
        return
    with tarfile.open(root) as opened_tar:
        opened_tar.extractall(scratch, filter="data")  # PEP 706: nothing outside, no devices
        while opened_tar.fileobj and opened_tar.fileobj.read(1 << 20):
            pass  # the checksum of a .gz stands at its end, which tarfile leaves unread


def _name(member: zipfile.ZipInfo) -> str:
    """Names that are not said to be UTF-8 often are; others stay undecoded, and are set aside as those of a folder."""
    if member.flag_bits & 0x800:  # APPNOTE, 4.4.4: UTF-8
        return member.filename
    # zipfile's guess, taken back; it ends names at a zero, too
    return member.orig_filename.partition("\0")[0].encode("cp437").decode("utf-8", "surrogateescape")


def _inner(folder: Path, labels: str) -> Path:
    """Descends while there is one folder alone that leads on to others or to a table, and is not train/."""
    inside = subfolders(folder)
    if (folder / labels).is_file() or len(inside) != 1 or inside[0].is_symlink():
        return folder
    leads_on = subfolders(inside[0]) and inside[0].name.lower() not in image_folder.SPLITS
    return _inner(inside[0], labels) if leads_on or (inside[0] / labels).is_file() else folder
