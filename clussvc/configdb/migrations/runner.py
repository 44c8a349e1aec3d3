"""Runs the steps with Alembic, inside the caller's transaction: a step that is interrupted leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_HERE: Final = Path(__file__).parent


def knows(revision: str) -> bool:
    """Whether this release has a way from that revision to the newest one."""
    return any(script.revision == revision for script in ScriptDirectory(_HERE).walk_revisions())


def newest() -> str | None:
    """The revision that the steps lead to."""
    return ScriptDirectory(_HERE).get_current_head()


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to that revision, by default the newest. The caller has begun a transaction and commits it."""
    config = AlembicConfig()
    # The percent sign is special in Alembic's settings.
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
