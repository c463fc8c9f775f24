"""docker/ without an engine: what its files say, and what its scripts do against stand-in programs."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE_TEXT = "".join(path.read_text() for path in sorted(DOCKER.glob("compose*.yaml")))
SERVICES: dict[str, dict[str, Any]] = YAML(typ="safe").load(DOCKER / "compose.yaml")["services"]


def test_every_variable_is_documented() -> None:
    """What compose asks of the environment stands in .env.example, and nothing else does."""
    documented = re.findall(r"^(\w+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE)
    assert set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT)) == set(documented)


def test_passwords_are_demanded_and_never_given() -> None:
    """Without a password compose stops with a sentence; no file here holds one."""
    passwords = set(re.findall(r"\$\{(\w+_PASSWORD)", COMPOSE_TEXT))
    assert "POSTGRES_PASSWORD" in passwords
    for name in passwords:
        assert re.search(rf"\$\{{{name}:\?\w", COMPOSE_TEXT), f"{name} may be left out unnoticed"
        assert not re.search(rf"\$\{{{name}:?-", COMPOSE_TEXT), f"{name} has a default"
        assert re.search(rf"^{name}=$", (DOCKER / ".env.example").read_text(), re.MULTILINE)


def test_services_listen_on_this_machine_only() -> None:
    """Docker's ports pass by most firewalls: each is bound to the loopback address, the database has none."""
    ports = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published)
    assert not ports["postgres"]


def test_services_are_watched_and_waited_for() -> None:
    """Each comes back after a crash, has a healthcheck, and starts once those it needs are healthy."""
    for name, service in SERVICES.items():
        assert service["restart"] == "unless-stopped", name
        own_image_and_command = "build" in service and "command" not in service
        assert "healthcheck" in service or (own_image_and_command and "HEALTHCHECK" in DOCKERFILE), name
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES, name
            assert how == {"condition": "service_healthy"}, name


def test_images_are_pinned() -> None:
    """Every image that is pulled or built carries a version of at least two numbers."""
    images = [service["image"] for service in SERVICES.values()]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert [image for image in images if not re.search(r":\d+\.\d+", image)] == []


def test_python_is_a_supported_one() -> None:
    """The image and the MLflow project use a Python that pyproject.toml allows."""
    allowed = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    versions = set(re.findall(r"^FROM python:([\d.]+)", DOCKERFILE, re.MULTILINE))
    assert len(versions) == 1, "the environment moves between the build stages, so both need the same Python"
    versions.add(str(YAML(typ="safe").load(ROOT / "python_env.yaml")["python"]))
    assert all(version in allowed for version in versions)


def test_what_the_build_copies_reaches_it() -> None:
    """Each file of the checkout that the Dockerfile copies exists, and .dockerignore lets it through."""
    copied = [
        source
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    ]
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied
    assert set(copied) == let_through
    assert all((ROOT / source).is_file() for source in copied)


def test_mounted_files_exist() -> None:
    """Docker makes an empty folder of a missing mount, and PostgreSQL then starts without databases."""
    mounts = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert all((DOCKER / mount).exists() for mount in mounts if mount.startswith("."))


def test_mlflow_knows_its_options() -> None:
    """The MLflow of the lock has every option that compose passes to its server."""
    from mlflow.cli import server

    passed = {argument.split("=")[0] for argument in SERVICES["mlflow"]["command"][2:]}
    known = {name for parameter in server.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert passed <= known


def run_script(
    name: str, stand_in: str, body: str, tmp_path: Path, **variables: str
) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run a script of docker/ with a stand-in for the program it calls; also returns what that was told."""
    program, log = tmp_path / stand_in, tmp_path / "log"
    program.write_text(f'#!/usr/bin/env bash\necho "$@" >>"{log}"\n{body}\n')
    program.chmod(0o755)
    (tmp_path / ".git").touch()
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **variables}
    words = ["bash", str(DOCKER / name)]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    return done, log.read_text() if log.exists() else ""


def test_each_server_gets_its_own_database(tmp_path: Path) -> None:
    """The init script makes a role and a database for either server, and shows no password to `ps`."""
    done, told = run_script(
        "postgres-init.sh",
        "psql",
        f'cat >>"{tmp_path}/sql"',
        tmp_path,
        POSTGRES_USER="postgres",
        MLFLOW_DB_PASSWORD="secret-m",
        PREFECT_DB_PASSWORD="secret-p",
    )
    assert done.returncode == 0, done.stderr
    for name in ("mlflow", "prefect"):
        assert f"name={name} --set variable={name.upper()}_DB_PASSWORD" in told
    assert "secret" not in told + (tmp_path / "sql").read_text()
    assert (tmp_path / "sql").read_text().count("create database") == 2


def test_a_failing_database_stops_the_init(tmp_path: Path) -> None:
    """When the first database cannot be made, PostgreSQL must not start as if all were well."""
    done, told = run_script("postgres-init.sh", "psql", "exit 3", tmp_path, POSTGRES_USER="postgres")
    assert done.returncode == 3
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("pool_exists", [True, False])
def test_worker_makes_a_missing_pool_only(tmp_path: Path, pool_exists: bool) -> None:
    """A pool that is there keeps its settings; then the worker deploys and takes work from that pool."""
    body = "" if pool_exists else '[[ "$2" != inspect ]]'
    done, told = run_script("worker.sh", "prefect", body, tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("work-pool create local --type process" in told) is not pool_exists
    assert told.splitlines()[-2].endswith("deploy --all")
    assert told.splitlines()[-1].startswith("worker start --pool local --type process")


def test_worker_does_not_start_undeployed(tmp_path: Path) -> None:
    """A deployment that fails ends the container, whose restart policy tries again."""
    done, told = run_script("worker.sh", "prefect", '[[ "$*" != *deploy* ]]', tmp_path)
    assert done.returncode != 0
    assert "worker start" not in told


def test_deployments_go_to_the_pool_of_the_worker() -> None:
    """Every deployment of prefect.yaml names the work pool that the worker polls."""
    pool = re.search(r"PREFECT_WORK_POOL:-(\w+)", (DOCKER / "worker.sh").read_text())
    deployments = YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]
    assert pool
    assert {deployment["work_pool"]["name"] for deployment in deployments} == {pool[1]}
