"""Control requests: what a line of the FIFO asks for."""

from __future__ import annotations

import pytest

from gpbt_async.storage.control import GPU_REQUESTS, ControlRequest


@pytest.mark.parametrize("request_", ControlRequest)
def test_what_is_sent_is_what_is_parsed(request_: ControlRequest) -> None:
    gpu = "GPU-1234" if request_ in GPU_REQUESTS else ""
    assert ControlRequest.parse(f"{request_} {gpu}".strip()) == (request_, gpu)


@pytest.mark.parametrize("line", ["", "halt", "stop now", "drain", "drain ", "go", "go on GPU-1", "STOP", "return"])
def test_a_line_that_is_no_request(line: str) -> None:
    assert ControlRequest.parse(line) is None
