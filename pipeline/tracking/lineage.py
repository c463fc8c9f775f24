"""Where a training comes from, by git, by this machine and by DVC's lock."""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.artifacts import write_whole
from pipeline.config import PARAMS
from pipeline.machine import processor

LOCK = Path("dvc.lock")
DIFF = "uncommitted.diff"
NEW_BYTES = 5_000_000  # of files that git does not know in the difference: a folder of images is no code
NAMED = 30  # files in a tag
# What DVC itself writes
NOT_DVC = ("--", ".", ":(exclude)dvc.lock", ":(exclude,glob)**/.gitignore")
# Whatever ~/.gitconfig says
PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")


def code(keep: Path | None) -> dict[str, str]:
    """The commit, and what is not committed, new files too; as a file that `git apply` takes in the folder `keep`.
    A repository in a folder above, where git looks too, is not the project's."""
    ours = _line("rev-parse", "--show-toplevel") == str(Path.cwd())
    commit = _line("rev-parse", "--verify", "HEAD") if ours else ""
    if not commit:
        return {"git.commit": "none"}
    new = _paths(_git("ls-files", "--others", "--exclude-standard", "-z", *NOT_DVC))
    smallest = sorted(new, key=lambda path: path.lstat().st_size)
    totals = accumulate(path.lstat().st_size for path in smallest)
    kept = [path for path, total in zip(smallest, totals, strict=True) if total <= NEW_BYTES]
    with TemporaryDirectory() as folder:
        index = Path(folder) / "index"  # a copy: the developer's own stays as it is
        if (own := Path(_line("rev-parse", "--git-path", "index"))).exists():
            shutil.copy(own, index)
        add = ("--literal-pathspecs", "add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
        _git(*add, index=index, given=b"\0".join(os.fsencode(path) for path in kept))
        changed = {*_paths(_git("diff", "HEAD", "--name-only", "-z", *NOT_DVC, index=index)), *new}
        if keep is not None:
            write_whole(keep / DIFF, _git("diff", "HEAD", "--binary", *PLAIN, *NOT_DVC, index=index))
    files = {"git.files": changed, "git.left_out": {*new} - {*kept}}  # left_out: of the difference
    listed = {tag: _listed(sorted(paths)) for tag, paths in files.items() if paths}
    return {"git.commit": commit, "git.dirty": str(bool(changed)).lower(), **listed}


def machine() -> dict[str, str]:
    """What decides the weights beside code, data and params."""
    import torch

    packages = {name: version(name) for name in ("torch", "numpy", "onnxruntime")}
    return packages | {
        "python": platform.python_version(), "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads()),
    }  # fmt: skip


def device_name(device: str) -> str:
    """`cpu`, or a GPU with its name."""
    import torch

    return f"{device}, {torch.cuda.get_device_name()}" if device.startswith("cuda") else device


def locked(content: bytes, stage: str, checkpoint: Path) -> dict[str, dict[str, Any]]:
    """The entries of a dvc.lock for a stage and all that it comes from, by their names. None, unless that of the stage
    has the hash of this file, and each is of the very files that the others made: DVC writes it entry by entry."""
    try:
        entries: dict[str, dict[str, Any]] = (YAML(typ="safe").load(content) or {}).get("stages", {})
    except YAMLError:  # DVC is writing it
        return {}
    made = {out["path"]: (name, out.get("md5")) for name, entry in entries.items() for out in entry.get("outs", [])}
    with checkpoint.open("rb") as file:
        if made.get(checkpoint.as_posix()) != (stage, hashlib.file_digest(file, "md5").hexdigest()):
            return {}
    found: dict[str, dict[str, Any]] = {}
    waiting = [stage]
    while waiting:
        name = waiting.pop()
        found[name] = entries[name]
        for needed in entries[name].get("deps", []):
            path, md5 = needed["path"], needed.get("md5")
            if made.get(path, ("", md5))[1] != md5:
                return {}
            makers = {maker for out, (maker, _) in made.items() if out == path or out.startswith(f"{path}/")}
            waiting += makers - {*found}
    return found


def unchanged(entries: Mapping[str, dict[str, Any]]) -> set[str]:
    """The sections of params.yaml that these entries of dvc.lock go by, if all are as they were then; else none."""
    if not (entries and PARAMS.exists()):
        return set()
    present, then = YAML(typ="safe").load(PARAMS), [entry.get("params", {}) for entry in entries.values()]
    told = {key: value for params in then for key, value in params.get(PARAMS.name, {}).items()}
    for key, value in told.items():
        section, _, name = key.partition(".")
        if (present[section][name] if name else present[section]) != value:
            return set()
    return {key.partition(".")[0] for key in told}


def _git(*arguments: str, index: Path | None = None, given: bytes = b"") -> bytes:
    """What git says of the project, by another `index` if there is one; nothing where it is not installed or fails."""
    env = os.environ | ({"GIT_INDEX_FILE": str(index)} if index else {})
    try:
        done = subprocess.run(["git", *arguments], input=given, env=env, capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return done.stdout if done.returncode == 0 else b""


def _line(*arguments: str) -> str:
    return os.fsdecode(_git(*arguments)).strip()


def _listed(paths: list[Path]) -> str:
    names = [path.as_posix().encode(errors="replace").decode() for path in paths]
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _paths(listed: bytes) -> list[Path]:
    return [Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]
