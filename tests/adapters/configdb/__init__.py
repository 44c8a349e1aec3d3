"""The configuration database."""
