"""The configuration database of one node: the committed configuration and the event history, in SQLite."""
