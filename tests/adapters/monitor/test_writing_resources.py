"""The examples of the page on writing resources run as they are printed."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from clussvc.model.monitoring import TakeOffline
from clussvc.model.states import ResourceState
from tests.adapters.monitor.conftest import Driver, spec

PAGE = Path(__file__).parents[3] / "docs" / "writing-resources.md"


def block(label: str) -> str:
    """The code block of that label."""
    found = re.search(rf"^```\w+ {label}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None, f"the page has no block {label}"
    return found[1]


def test_script(driver: Driver, tmp_path: Path) -> None:
    """The script asks for its property, then serves, then stops."""
    script = tmp_path / "store.py"
    script.write_text(block("script"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = spec("store", "Generic Script", ScriptFilepath=str(script), Port=port)
    assert "set the property DataFolder first" in driver.online(store).detail

    store = spec("store", "Generic Script", ScriptFilepath=str(script), Port=port, DataFolder=str(tmp_path))
    report = driver.online(store)
    assert ResourceState.ONLINE is report.state, report
    driver.send(TakeOffline(resource=store.resource, epoch=1))
    assert "" == driver.wait_state(store, ResourceState.OFFLINE).detail


def test_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The type is found through its entry point, as if its package were installed."""
    site = tmp_path / "site"
    metadata = site / "marker_file-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "marker_file.py").write_text(block("type"))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: marker-file\nVersion: 1.0\n")
    entry = block("entry-point").splitlines()[1].replace('"', "")
    (metadata / "entry_points.txt").write_text(f"[clussvc.resource_types]\n{entry}\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    driver = Driver(tmp_path / "run").start()
    try:
        marker = tmp_path / "marker"
        resource = spec("m", "Marker File", Path=str(marker))
        report = driver.online(resource)
        assert ResourceState.ONLINE is report.state, report
        assert marker.exists()
        driver.send(TakeOffline(resource=resource.resource, epoch=1))
        assert "" == driver.wait_state(resource, ResourceState.OFFLINE).detail
        assert not marker.exists()
    finally:
        driver.finish()
