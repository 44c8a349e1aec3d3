"""The log of the service."""
