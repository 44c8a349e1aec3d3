"""A resource script that teaches: copy it, and fill in your own service.

A script is a file of functions. The resource monitor calls them, one at a time, in a thread of this resource; only
``terminate`` may come while another one still runs. Every function receives the *resource*:

    resource.name                    its name
    resource.properties["Port"]      a private property; resource.Port is the same
    resource.add_property("Port")    makes one, so that administrators can set it:  cluster res NAME /priv Port=80
    resource.log_information(text)   writes to the cluster log; log_warning and log_error likewise
    resource.report_progress(n)      while coming online or going offline: "still busy"; each new n gives more time
    resource.start_process([...])    starts a program that belongs to the resource: it is killed with the resource, and
                                     its end while the resource is online is a failure, noticed at once
    resource.run([...])              runs a command to its end; the answer has .status and .output
    resource.failed(why)             the resource has failed, from wherever you notice it

Success is True, 0 or None; anything else, and any exception, is a failure with its text in the log. In ``looks_alive``
and ``is_alive`` a true value means healthy. Keep scripts on a local disk of every node. The annotations are for readers
and type checkers; a script works without them.

This one pretends to be a service whose state is a file. Its properties make it fail or stall on request:

    FailOn    names of functions that shall fail, such as  FailOn=online,is_alive
    StallOn   names of functions that shall not return
    DelayMs   how long online and offline take; progress is reported meanwhile
    StateFile where the state is kept (default: a file in the folder for temporary files)
"""

import os
import tempfile
import time
from typing import Any


def open(resource: Any) -> None:
    """Called when the monitor learns of the resource, on every node that may own it, and before each online.

    Check what can be checked, make the properties that administrators are to see, and start nothing: the resource may
    be running on another node.
    """
    for name in ("FailOn", "StallOn", "StateFile"):
        resource.add_property(name, "")
    resource.add_property("DelayMs", 0)
    _misbehave(resource, "open")


def online(resource: Any) -> None:
    """Start the service, and return when it serves. Should do no harm when it runs already."""
    _take_time(resource)
    _misbehave(resource, "online")
    with os.fdopen(os.open(_state_file(resource), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as state:
        state.write("online")
    resource.log_information("the template is online")


def offline(resource: Any) -> None:
    """Stop the service gracefully. Processes that are left afterwards are killed."""
    _take_time(resource)
    _misbehave(resource, "offline")
    _remove_state(resource)


def terminate(resource: Any) -> None:
    """Stop the service at once; there is no time for grace. Called after failures, and when the node must let go."""
    _misbehave(resource, "terminate")
    _remove_state(resource)


def looks_alive(resource: Any) -> bool:
    """A quick look, every few seconds. When it says no, is_alive is asked at once."""
    _misbehave(resource, "looks_alive")
    return os.path.exists(_state_file(resource))


def is_alive(resource: Any) -> bool:
    """A thorough look, once a minute. When it says no, the resource has failed."""
    _misbehave(resource, "is_alive")
    return os.path.exists(_state_file(resource))


def close(resource: Any) -> None:
    """Called when the resource is deleted, and before open is called anew."""
    _misbehave(resource, "close")


# Everything below is this script's own. Names that start with an underscore are never called by the monitor.


def _misbehave(resource: Any, function: str) -> None:
    if function in _names(resource.properties.get("FailOn")):
        raise RuntimeError(f"{function} fails because FailOn says so")
    while function in _names(resource.properties.get("StallOn")):
        time.sleep(0.1)


def _names(text: object) -> list[str]:
    return [name.strip() for name in str(text or "").split(",")]


def _take_time(resource: Any) -> None:
    """Wait for DelayMs in small steps, and say at each step that there is progress."""
    for step in range(int(resource.properties.get("DelayMs") or 0) // 100):
        time.sleep(0.1)
        resource.report_progress(step + 1)


def _state_file(resource: Any) -> str:
    named = resource.properties.get("StateFile")
    return str(named) if named else os.path.join(tempfile.gettempdir(), f"clussvc-template-{resource.id}")


def _remove_state(resource: Any) -> None:
    if os.path.exists(_state_file(resource)):
        os.unlink(_state_file(resource))
