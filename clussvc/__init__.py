"""clussvc: a failover cluster service for Linux."""

__version__ = "0.1.0"
