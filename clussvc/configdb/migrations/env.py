"""What Alembic runs to apply the steps; the connection comes from the runner."""

from __future__ import annotations

from alembic import context

from clussvc.configdb.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
