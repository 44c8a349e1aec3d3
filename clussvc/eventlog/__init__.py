"""The log of the service; the event history itself is in the configuration database."""
