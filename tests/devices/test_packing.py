"""Packing: amounts of memory, errors that mean a GPU is out of memory, how many members fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpbt_async.devices.gpu_sharing import Packing, out_of_memory
from gpbt_async.devices.nvml import GPU
from gpbt_async.formatting import UNITS, format_bytes, parse_bytes

GIB = 1 << 30


def card(gib, exclusive=False):
    return GPU(0, "GPU-0", "NVIDIA A100", total=int(gib * GIB), mode="exclusive" if exclusive else "default")


# --- amounts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("6GiB", 6 * GIB),
        ("6.5 GB", 6_500_000_000),
        ("500MiB", 500 << 20),
        ("1b", 1),
        ("0.5KiB", 512),
        ("2 tib", 2 << 40),
        ("3TB", 3 * 10**12),
        (" 6 gib ", 6 * GIB),
        ("007MB", 7_000_000),
        ("1.9B", 1),
    ],
)
def test_amounts(text, amount):
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(
    "text",
    ["1000000", "٣GiB",
     "", " ", "GiB", "0", "0GiB", "0.4", "-1GiB", "+1GiB", "1e9", "1,5GiB", "6X", "6 Gi B", "6GiB6", "6 6GiB", ".5GiB",
     "5.GiB", "1_000", "0x10", "auto", "nan", "inf", "infGiB", "6PiB", "6GiB/GPU", "½GiB"],
)  # fmt: skip
def test_texts_that_are_no_amount(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the text is its whole message
        parse_bytes(text)


def test_an_absurd_amount_is_a_value_error_too():
    with pytest.raises(ValueError):  # noqa: PT011
        parse_bytes("9" * 400)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 MiB"),
        (1 << 20, "1 MiB"),
        (512 << 20, "512 MiB"),
        (1 << 30, "1.0 GiB"),
        (int(39.6 * GIB), "39.6 GiB"),
        (80 * GIB, "80.0 GiB"),
        (1 << 40, "1024.0 GiB"),
    ],
)
def test_amounts_for_people(amount, text):
    assert format_bytes(amount) == text


@given(st.integers(1 << 20, 1 << 44))
def test_an_amount_that_is_shown_can_be_read_back(amount):
    assert abs(parse_bytes(format_bytes(amount)) - amount) <= (GIB if amount >= GIB else 1 << 20) * 0.0501 + (1 << 19)


@given(st.text(max_size=12), st.sampled_from(sorted(UNITS)))
def test_any_text_is_an_amount_above_0_or_a_value_error(text, unit):
    try:
        amount = parse_bytes(text + unit)
    except ValueError:
        return
    assert amount >= 1


# --- out of memory -----------------------------------------------------------------------------------------

TORCH = """Traceback (most recent call last):
  File "train.py", line 12, in train
    out = model(batch)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB of \
which 1.02 GiB is free. Process 4242 has 22.60 GiB memory in use."""


@pytest.mark.parametrize(
    "text",
    [
        TORCH,
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 23.69 GiB total)",
        "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.79 GiB total capacity)",
        # of the runtime, not of torch's own allocator: what a program meets that starts on a GPU that is full
        pytest.param("RuntimeError: CUDA error: out of memory", id="torch, CUDA error"),
        pytest.param(
            "torch.AcceleratorError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported "
            "at some other API call, so the stacktrace below might be incorrect.",
            id="torch, AcceleratorError",
        ),
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        pytest.param("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", id="cuDNN"),
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes.",
        "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes.",
        "E external/xla/xla/stream_executor/cuda/cuda_driver.cc:1] failed to allocate 2.0G (2147483648 bytes) from "
        "device: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating tensor with shape[64,3]",
        "cupy_backends.cuda.api.runtime.CUDARuntimeError: cudaErrorMemoryAllocation: out of memory",
        "cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 8,000,000,000 bytes",
    ],
)
def test_out_of_memory(text):
    assert out_of_memory(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "loss: nan",
        "MemoryError",
        "Killed",
        "ValueError: memory must be positive",
        "RuntimeError: CUDA error: device-side assert triggered",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
)
def test_other_errors_are_not_out_of_gpu_memory(text):
    assert not out_of_memory(text)


# --- how many fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "vram", "total", "most", "need"),
    [
        (None, None, 40, 1, 0),
        (3, None, 40, 3, 0),
        (3, None, 0, 3, 0),  # an unknown total
        (None, "10GiB", 40, 4, 10),
        (None, "10GiB", 39, 3, 10),
        (2, "10GiB", 40, 2, 10),
        (8, "10GiB", 40, 4, 10),
        (None, "40GiB", 40, 1, 40),
        (None, "41GiB", 40, 0, 41),
        (3, "41GiB", 40, 0, 41),
        (None, "10GiB", 0, 1, 10),
        (3, "10GiB", 0, 3, 10),
        (None, "auto", 40, 1, 0),  # not measured yet
        (3, "auto", 40, 1, 0),
    ],
)
def test_how_many_fit(share, vram, total, most, need):
    packing = Packing(share, vram)
    assert [packing.most(card(total)), packing.need] == [most, need * GIB]


@pytest.mark.parametrize("share", [None, 3])
def test_one_process_on_an_exclusive_gpu(share):
    assert Packing(share).most(card(40, exclusive=True)) == 1
    assert Packing(share, "10GiB").most(card(40, exclusive=True)) == 1
    assert Packing(share, "41GiB").most(card(40, exclusive=True)) == 0
    measured = Packing(share, "auto")
    measured.observe(GIB)
    assert measured.most(card(40, exclusive=True)) == 1


def test_a_peak_of_10_gib_on_40_makes_three_and_lowered_two():
    packing = Packing(None, "auto")
    assert not packing.measured
    assert packing.observe(10 * GIB)
    assert packing.measured
    assert packing.need == 11 * GIB
    assert packing.most(card(40)) == 3
    assert packing.lower(3)
    assert packing.most(card(40)) == 2


@pytest.mark.parametrize(
    ("peak", "total", "most"),
    [
        (10, 40, 3),
        (10, 11, 1),
        (10, 10.5, 1),  # without room for the margin
        (10, 10, 1),
        (10, 9.9, 0),
        (10, 0, 1),
        (1, 40, 36),
    ],
)
def test_a_measured_peak_fits_alone_whatever_the_margin(peak, total, most):
    packing = Packing(None, "auto")
    packing.observe(peak * GIB)
    assert packing.most(card(total)) == most


def test_share_limits_what_was_measured():
    packing = Packing(2, "auto")
    packing.observe(GIB)
    assert packing.most(card(40)) == 2


def test_only_a_greater_peak_changes_anything():
    packing = Packing(None, "auto")
    changed = [packing.observe(peak * GIB) for peak in (0, 5, 5, 4, 6, 1)]
    assert changed == [False, True, False, False, True, False]
    assert packing.peak == 6 * GIB


@pytest.mark.parametrize("vram", [None, "10GiB"])
def test_no_peak_matters_where_nothing_is_measured(vram):
    packing = Packing(None, vram)
    need = packing.need
    assert packing.measured
    assert not packing.observe(39 * GIB)
    assert packing.need == need


@pytest.mark.parametrize(
    ("share", "members", "lowered", "most"),
    [
        (3, 3, True, 2),
        (3, 2, True, 1),
        (3, 4, False, 3),  # what had been allowed before it was lowered
        (2, 3, False, 2),
        (1, 2, False, 1),
        (None, 2, False, 1),
    ],
)
def test_lowered(share, members, lowered, most):
    packing = Packing(share)
    assert packing.lower(members) is lowered
    assert packing.most(card(40)) == most


def test_lowered_again_and_never_below_one():
    packing = Packing(None, "5GiB")
    lowered = [(packing.lower(members), packing.most(card(40))) for members in (8, 8, 7, 3, 2, 2, 1)]
    assert lowered == [(True, 7), (False, 7), (True, 6), (True, 2), (True, 1), (False, 1), (False, 1)]


def test_lowered_before_it_was_measured():
    packing = Packing(4, "auto")
    packing.lower(3)
    packing.observe(GIB)
    assert packing.most(card(40)) == 2


@pytest.mark.parametrize("vram", ["", "much", "0", "AUTO"])
def test_texts_that_are_no_vram(vram):
    with pytest.raises(ValueError):  # noqa: PT011
        Packing(None, vram)


@given(
    share=st.sampled_from([None, 1, 2, 5]),
    vram=st.sampled_from([None, "3GiB", "auto"]),
    total=st.integers(0, 80),
    exclusive=st.booleans(),
    actions=st.lists(st.tuples(st.booleans(), st.integers(1, 60))),
)
def test_invariants(share, vram, total, exclusive, actions):
    packing, gpu = Packing(share, vram), card(total, exclusive)
    for finished, number in actions:
        measured, before = packing.measured, packing.most(gpu)
        if finished:
            packing.observe(number * GIB)
        else:
            packing.lower(number)
        most = packing.most(gpu)
        assert most <= before or not measured, "fewer and fewer, once it was measured"
        assert most <= (share or (1 if vram is None else 80))
        assert not exclusive or most <= 1
        assert not (packing.need and total) or most <= 1 or most * packing.need <= gpu.total
        assert most > 0 or (packing.need > gpu.total > 0)
