#!/usr/bin/env bash
# What the worker container does: it sees to its work pool, deploys prefect.yaml, and takes work until it is stopped.
set -euo pipefail

readonly pool="${PREFECT_WORK_POOL:-local}"

# DVC asks git for the project's root; an unpacked zip has no git.
[[ -e .git ]] || dvc config --local core.no_scm true
# Only when missing: `create --overwrite` would undo limits that somebody has set in the UI.
prefect work-pool inspect "$pool" >/dev/null 2>&1 || prefect work-pool create "$pool" --type process
prefect --no-prompt deploy --all
exec prefect worker start --pool "$pool" --type process --with-healthcheck
