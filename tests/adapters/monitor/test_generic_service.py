"""Generic Service with a real init script: its daemon belongs to the resource though the script has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from clussvc.model.monitoring import ResourceSpec, TakeOffline, TerminateResource
from clussvc.model.states import ResourceState
from tests.adapters.monitor.conftest import Driver, alive, read_pid, spec

pytestmark = pytest.mark.skipif(
    Path("/run/systemd/system").is_dir(), reason="systemd runs this machine, so init scripts are not used"
)

INIT_SCRIPT = """#!/bin/sh
cd "$(dirname "$0")"
case "$1" in
    start) setsid sh -c 'echo $$ > pid; exec sleep 1000' > /dev/null 2>&1 & echo "$2" > arguments
           while [ ! -s pid ]; do sleep 0.01; done ;;
    stop) kill "$(cat pid)"; rm pid; echo stopped > stopped ;;
    status) kill -0 "$(cat pid 2> /dev/null)" 2> /dev/null || exit 3 ;;
esac
"""


@pytest.fixture
def service(tmp_path: Path) -> ResourceSpec:
    """An installed service."""
    script = tmp_path / "sleeper"
    script.write_text(INIT_SCRIPT)
    script.chmod(0o755)
    return spec(
        "svc",
        "Generic Service",
        ServiceName="sleeper",
        StartupParameters="--fast",
        InitScriptFolder=str(tmp_path),
    )


def test_start_and_stop(driver: Driver, service: ResourceSpec, tmp_path: Path) -> None:
    """The init script is called to start and to stop."""
    report = driver.online(service)
    assert ResourceState.ONLINE is report.state, report
    assert "--fast\n" == (tmp_path / "arguments").read_text()
    pid = read_pid(tmp_path / "pid")

    driver.send(TakeOffline(resource=service.resource, epoch=1))

    assert "" == driver.wait_state(service, ResourceState.OFFLINE).detail
    assert (tmp_path / "stopped").exists()
    assert not alive(pid)


def test_death_and_terminate(driver: Driver, service: ResourceSpec, tmp_path: Path) -> None:
    """A dead daemon is noticed by asking for the status; terminate kills it without the script."""
    driver.online(service)
    pid = read_pid(tmp_path / "pid")
    driver.send(TerminateResource(resource=service.resource, epoch=1))
    driver.wait_state(service, ResourceState.OFFLINE)
    assert not alive(pid) and not (tmp_path / "stopped").exists()

    (tmp_path / "pid").unlink()
    driver.online(service)
    (tmp_path / "pid").rename(tmp_path / "gone")
    driver.wait_state(service, ResourceState.FAILED)


def test_missing_service_is_named(driver: Driver, tmp_path: Path) -> None:
    """Neither systemd nor an init script: the error says what to do."""
    failed = driver.online(spec("svc", "Generic Service", ServiceName="nothing", InitScriptFolder=str(tmp_path)))
    assert f"no init script {tmp_path}/nothing" in failed.detail
