"""Tables of the gateway's database, and the version they are at."""

from __future__ import annotations

import sqlalchemy as sa

#: Kept in PRAGMA user_version. A change of the tables below raises it, and brings its migration.
SCHEMA_VERSION = 2

metadata = sa.MetaData()

executions = sa.Table(
    "executions",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("name", sa.String, index=True),
    sa.Column("environment", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    # live while the gateway that made it has it open; then terminated, failed or lost
    sa.Column("status", sa.String, nullable=False, index=True),
    sa.Column("resources", sa.JSON, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),  # seconds since the epoch, as all times here
    sa.Column("last_active_at", sa.Float),
    sa.Column("ended_at", sa.Float),
    sa.Column("end_code", sa.String),
    sa.Column("end_reason", sa.String),
    # a number is never given twice, or a cursor could point at another row after pruning
    sqlite_autoincrement=True,
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, nullable=False),
    sa.Column("execution_id", sa.String, nullable=False, index=True),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("duration_s", sa.Float, nullable=False),
    sa.Column("exit_code", sa.Integer, nullable=False),
    sa.Column("error_code", sa.String),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("name", sa.String, unique=True),
    sa.Column("execution_id", sa.String, nullable=False, index=True),
    sa.Column("parent_id", sa.String),
    sa.Column("request_id", sa.String),
    sa.Column("environment", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("language", sa.String, nullable=False),
    sa.Column("resources", sa.JSON, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("layers", sa.JSON, nullable=False),
    # none, pending, ready or failed; only what is ready outlives the gateway that made it
    sa.Column("portable_status", sa.String, nullable=False),
    sa.Column("portable_bytes", sa.Integer, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Column("keep", sa.Boolean, nullable=False),
    sa.Column("gone_at", sa.Float, index=True),
    sa.Column("gone_reason", sa.String),
    sa.Column("gone_name", sa.String, index=True),
    sqlite_autoincrement=True,
)
