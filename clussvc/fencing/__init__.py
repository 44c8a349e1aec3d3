"""Switching machines off: this one by its own means, others through fence agents. Nothing here decides."""
