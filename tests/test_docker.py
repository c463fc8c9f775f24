"""docker/ without an engine: what its files say, and what its scripts do against stand-in programs."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import PROJECT

DOCKER = PROJECT / "docker"
COMPOSE_TEXT = "".join(path.read_text() for path in sorted(DOCKER.glob("compose*.yaml")))
SERVICES: dict[str, dict[str, Any]] = YAML(typ="safe").load(DOCKER / "compose.yaml")["services"]


def test_every_variable_is_documented_and_no_password_has_a_default() -> None:
    """What compose asks of the environment stands in .env.example; without a password compose stops."""
    documented = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
    assert asked == set(documented)
    for name in (name for name in asked if name.endswith("_PASSWORD")):
        assert documented[name] == ""
        assert re.search(rf"\$\{{{name}:\?\w", COMPOSE_TEXT) and not re.search(rf"\$\{{{name}:?-", COMPOSE_TEXT)


def test_services_listen_on_this_machine_only() -> None:
    """Docker's ports pass by most firewalls: each is bound to the loopback address, the database has none."""
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published) and "ports" not in SERVICES["postgres"]


def test_what_is_copied_and_mounted_is_there() -> None:
    """.dockerignore lets nothing else through; Docker makes an empty folder of a missing mount."""
    copied = re.findall(r"^COPY (?!--from)(\S+) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    let_through = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert set(copied) == let_through and all((PROJECT / source).is_file() for source in copied)
    mounts = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert all((DOCKER / mount).exists() for mount in mounts if mount.startswith("."))


def run_script(name: str, folder: Path, body: str, **variables: str) -> tuple[int, str]:
    """Run a script of docker/ with stand-ins for the programs that it calls: its exit code, and what they were told."""
    for program in ("psql", "prefect", "dvc"):
        (folder / program).write_text(f'#!/usr/bin/env bash\necho "$@" >>"{folder}/log"\n{body}\n')
        (folder / program).chmod(0o755)
    environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **variables}
    done = subprocess.run(["bash", str(DOCKER / name)], env=environment, cwd=folder, check=False)
    return done.returncode, (folder / "log").read_text()


def test_each_server_gets_its_own_database(tmp_path: Path) -> None:
    """The init script makes a role and a database for either server, and shows no password to `ps`."""
    variables = {"MLFLOW_DB_PASSWORD": "secret-m", "PREFECT_DB_PASSWORD": "secret-p", "POSTGRES_USER": "postgres"}
    code, told = run_script("postgres-init.sh", tmp_path, f'cat >>"{tmp_path}/sql"', **variables)
    assert code == 0
    for name in ("mlflow", "prefect"):
        assert f"name={name} --set variable={name.upper()}_DB_PASSWORD" in told
    sql = (tmp_path / "sql").read_text()
    assert "secret" not in told + sql and sql.count("create database") == 2


@pytest.mark.parametrize(
    ("script", "body", "calls"), [("postgres-init", "exit 3", 1), ("worker", "! [[ $* =~ deploy ]]", 3)]
)
def test_a_failure_stops_the_script(tmp_path: Path, script: str, body: str, calls: int) -> None:
    """PostgreSQL must not start as if all were well, nor the worker without its deployments."""
    code, told = run_script(f"{script}.sh", tmp_path, body, POSTGRES_USER="postgres")
    assert code != 0 and len(told.splitlines()) == calls


@pytest.mark.parametrize("pool_exists", [True, False])
def test_worker_makes_a_missing_pool_only(tmp_path: Path, pool_exists: bool) -> None:
    """A pool that is there keeps its settings; then the worker deploys, and takes work from the deployments' pool."""
    code, told = run_script("worker.sh", tmp_path, "" if pool_exists else '[[ "$2" != inspect ]]')
    assert code == 0
    deployments = YAML(typ="safe").load(PROJECT / "prefect.yaml")["deployments"]
    (pool,) = {deployment["work_pool"]["name"] for deployment in deployments}
    create = [] if pool_exists else [f"work-pool create {pool} --type process"]
    assert told.splitlines() == [
        "config --local core.no_scm true",  # this folder has no git
        f"work-pool inspect {pool}",
        *create,
        "--no-prompt deploy --all",
        f"worker start --pool {pool} --type process --with-healthcheck",
    ]
