#!/usr/bin/env bash
# PostgreSQL runs this once, on an empty data volume: one database for each server, each owned by a role of its own.
# The owner of a database may create trusted extensions in it, which is all that Prefect needs for pg_trgm.
set -euo pipefail

for name in mlflow prefect; do
    # \getenv keeps the password off the command line, where `ps` would show it.
    psql --username "$POSTGRES_USER" --dbname postgres --no-psqlrc --quiet \
        --set ON_ERROR_STOP=1 --set name="$name" --set variable="${name^^}_DB_PASSWORD" <<'SQL'
\getenv password :variable
create role :"name" login password :'password';
create database :"name" owner :"name";
revoke connect on database :"name" from public;
SQL
done
