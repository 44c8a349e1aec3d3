"""This cluster service beside others, on the same machines, with the same faults, the same client, the same server."""
