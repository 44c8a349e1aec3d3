"""The history of the tables, one module for each step, applied when an older database is opened.

A new step is a module in ``versions`` whose ``down_revision`` is the step before it; ``tables.SCHEMA_REVISION`` names
the newest. A step that changes what a configuration holds sets ``applied.digest`` to the empty text, since the digest
of the older form can no longer agree. Steps lead upwards only: the way back is the log.
"""
