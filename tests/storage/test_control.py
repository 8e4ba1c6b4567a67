"""Control requests: what a line of the FIFO asks for, and how it gets from the client to the scheduler."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gpbt_async.errors import FolderError
from gpbt_async.storage.control import GPU_REQUESTS, ControlListener, ControlRequest, send, write_line
from gpbt_async.storage.folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("request_", ControlRequest)
def test_what_is_sent_is_what_is_parsed(request_: ControlRequest) -> None:
    gpu = "GPU-1234" if request_ in GPU_REQUESTS else ""
    assert ControlRequest.parse(f"{request_} {gpu}".strip()) == (request_, gpu)


@pytest.mark.parametrize("line", ["", "halt", "stop now", "drain", "drain ", "go", "go on GPU-1", "STOP", "return"])
def test_a_line_that_is_no_request(line: str) -> None:
    assert ControlRequest.parse(line) is None


# ---- the FIFO


async def test_lines_go_from_any_process_to_the_listener(tmp_path: Path) -> None:
    fifo = tmp_path / "control"
    assert write_line(fifo, "stop") is False  # no FIFO yet
    lines: asyncio.Queue[str] = asyncio.Queue()
    control = ControlListener(fifo, lines.put_nowait)
    script = (
        "import sys\nfrom gpbt_async.storage.control import write_line\nprint(write_line(sys.argv[1], 'from afar'))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, fifo, stdout=subprocess.PIPE)
    assert await lines.get() == "from afar"
    assert (await process.communicate())[0] == b"True\n"
    for n in range(3):
        assert write_line(fifo, f"stop {n} – now") is True
    assert [await lines.get() for _ in range(3)] == [f"stop {n} – now" for n in range(3)]
    control.close()
    control.close()
    assert write_line(fifo, "stop") is False  # the FIFO exists, but no process reads it
    control = ControlListener(fifo, lines.put_nowait)
    assert write_line(fifo, "again") is True
    assert await lines.get() == "again"
    control.close()


async def test_a_line_that_is_written_in_pieces_is_one_line(tmp_path: Path) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    control = ControlListener(tmp_path / "control", lines.put_nowait)
    fifo = os.open(tmp_path / "control", os.O_WRONLY | os.O_NONBLOCK)
    os.write(fifo, b"st")
    await asyncio.sleep(0)
    os.write(fifo, b"op\n\xff\n")
    assert [await lines.get(), await lines.get()] == ["stop", "\ufffd"]
    os.close(fifo)
    control.close()


async def test_a_full_fifo_takes_no_line(tmp_path: Path) -> None:
    control = ControlListener(tmp_path / "control", print)
    line = "x" * 4000
    assert sum(write_line(tmp_path / "control", line) for _ in range(40)) < 20
    control.close()


async def test_an_invalid_line_and_a_file_instead_of_the_fifo(tmp_path: Path) -> None:
    for line in ("two\nlines", "x" * 5000):
        with pytest.raises(ValueError, match="one line"):
            write_line(tmp_path / "control", line)
    (tmp_path / "control").write_text("")
    assert write_line(tmp_path / "control", "stop") is False
    with pytest.raises(FolderError, match="not a FIFO"):
        ControlListener(tmp_path / "control", print)


async def test_a_request_is_refused_unless_a_scheduler_listens(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "r")
    with pytest.raises(FolderError, match="r is not running"):
        send(folder, ControlRequest.STOP)
    lock = await folder.lock()
    with pytest.raises(FolderError, match="does not listen yet"):
        send(folder, ControlRequest.STOP)
    lines: asyncio.Queue[str] = asyncio.Queue()
    control = ControlListener(folder.control, lines.put_nowait)
    send(folder, ControlRequest.GO_ON)
    send(folder, ControlRequest.DRAIN, "GPU-1234")
    assert [await lines.get(), await lines.get()] == ["go on", "drain GPU-1234"]
    control.close()
    lock.release()
