"""The replicated log of a cluster with a quorum disk: :mod:`clussvc.quorum.disk_log` on a real device and clock."""
