"""Communication: streams over mutual TLS, authenticated heartbeats, and the certificates behind both."""
