"""From the tables of an earlier gateway to those of `schema`, keeping the rows."""

from __future__ import annotations

import sqlalchemy as sa

from faas_gateway.store import schema


def migrate(connection: sa.Connection) -> int:
    """Make the tables in a new database, bring those of an old one up to date.

    Returns:
        The version that the database is at then; one of a newer gateway is left alone.
    """
    version: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version >= schema.SCHEMA_VERSION:
        return version
    if version == 0:
        schema.metadata.create_all(connection)
    if version == 1:
        _add_snapshots(connection)
    connection.exec_driver_sql(f"PRAGMA user_version={schema.SCHEMA_VERSION}")
    return schema.SCHEMA_VERSION


def _add_snapshots(connection: sa.Connection) -> None:
    """1 to 2. What executions know of snapshots stands in their `detail`, which takes anything."""
    schema.snapshots.create(connection)
