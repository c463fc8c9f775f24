"""Images under DVC as docs/data-versioning.md tells: versions, remotes, imports, a second machine."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]  # ships no types
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import write_digits
from tests.project import Project, clone

pytestmark = pytest.mark.slow
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
RAW = "data/raw"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of a running S3 server, on a free port, with the bucket `bucket`."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    address, keys = "http://{}:{}".format(*server.get_host_and_port()), {key.lower(): KEYS[key] for key in KEYS}
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="bucket")
    yield client
    server.stop()


def upload(s3: Any, folder: Path) -> None:
    for name, content in files(folder).items():
        s3.put_object(Bucket="bucket", Key=f"images/{name}", Body=content)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A clone whose `ingest` reads data/raw, committed; the images are not there yet."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)  # the developer's own account
    made = clone(tmp_path / "clone")
    made.change("source: digits", "source: image_folder")
    made.change('root: "data/downloads"', f'root: "{RAW}"')
    for command in ("git init -q -b main", "git add -A", "git commit -qm start"):
        made.run(command)
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def commit_images(project: Project) -> dict[str, bytes]:
    """`dvc add` and a commit; what was committed."""
    project.run(f"dvc add {RAW}")
    project.run("git commit -qm images")
    return files(project.root / RAW)


def test_git_holds_the_pointer_and_never_the_images(project: Project) -> None:
    """Not even by `git add -A` before `dvc add`. DVC sees the pointer too, which in an ignored folder it would not."""
    data = project.root / "data"
    write_digits(data / "raw", classes=2, per_class=6)
    for name in ("downloads/archive.zip", "reference/profile.json"):
        (data / name).write_text("{}")
    for command in ("git add -A", "git commit -qm profile", f"dvc add {RAW}", "git add -A"):
        project.run(command)
    tracked = {"downloads/README.md", "reference/README.md", "reference/profile.json", ".gitignore", "raw.dvc"}
    assert set(project.run("git ls-files data").split()) == {f"data/{name}" for name in tracked}
    assert '"data/raw.dvc" -> "ingest"' in project.run("dvc dag --dot")


def test_images_come_back_from_the_remote_in_any_version(project: Project, s3: Any) -> None:
    """Two versions are pushed, cache and images are lost; the new one is pulled, and the old one is a checkout away."""
    project.run("dvc remote add -d storage s3://bucket/project")
    project.run(f"dvc remote modify storage endpointurl {s3.meta.endpoint_url}")
    project.run("dvc remote modify --local storage access_key_id key")
    project.run("dvc remote modify --local storage secret_access_key secret")
    project.run("git commit -qam remote")
    raw = write_digits(project.root / RAW, classes=2, per_class=6)
    old = commit_images(project)
    shutil.copy(raw / "digit-0" / "001.png", raw / "digit-0" / "002.png")
    (raw / "digit-1" / "000.png").rename(raw / "digit-1" / "new.png")
    new = commit_images(project)
    project.run("dvc push --all-commits")

    shutil.rmtree(raw)
    shutil.rmtree(project.root / ".dvc" / "cache")
    project.run(f"dvc pull --all-commits {RAW}.dvc")
    assert files(raw) == new
    project.run("git checkout -q HEAD~1")
    project.run(f"dvc checkout {RAW}.dvc")
    assert files(raw) == old


def test_images_are_imported_from_s3(project: Project, s3: Any, tmp_path: Path) -> None:
    """The bucket by its name in .dvc/config, which holds the address; the keys from the environment."""
    images = write_digits(tmp_path / "source", classes=2, per_class=6)
    project.env |= KEYS
    project.run("dvc remote add source s3://bucket")
    project.run(f"dvc remote modify source endpointurl {s3.meta.endpoint_url}")
    for command in (f"dvc import-url remote://source/images {RAW}", f"dvc update {RAW}.dvc"):
        upload(s3, images)
        project.run(command)
        assert files(project.root / RAW) == files(images)
        shutil.copy(images / "digit-0" / "001.png", images / "digit-1" / "new.png")


def test_another_machine_takes_results_over(project: Project, tmp_path: Path) -> None:
    """It needs git and the remote alone: nothing is left to do after `dvc pull`, and `repro --pull` does both."""
    write_digits(project.root / RAW, classes=2, per_class=6)
    project.run(f"dvc remote add -d storage {tmp_path / 'storage'}")
    project.run("git add .dvc/config")
    commit_images(project)
    assert project.ran(project.run("dvc repro ingest")) == {"ingest"}
    project.run("git commit -qm results")
    project.run("dvc push")
    for name, pull in (("a", f"dvc pull {RAW}.dvc ingest"), ("b", "dvc repro --pull ingest")):
        other = Project(tmp_path / name)
        project.run(f"git clone -q . {other.root}")
        output = other.run(pull) + other.run("dvc repro ingest")
        assert other.ran(output) == set() and "up to date" in output
        for folder in (RAW, "artifacts/ingest"):
            assert files(other.root / folder) == files(project.root / folder)
        assert other.run("git status --short") == ""
