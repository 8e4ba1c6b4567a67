"""A request for devices: options and a member's needs put together, and errors in the words of the user."""

from __future__ import annotations

import dataclasses

import pytest

from gpbt_async.declaration import run_options as options_module
from gpbt_async.declaration.resources import Resources
from gpbt_async.declaration.run_options import RunOptions, option_text
from gpbt_async.devices.request import DeviceRequest, check_options, member_needs
from gpbt_async.errors import DeviceError, ExperimentError, GPBTError


def request(**options):
    return DeviceRequest.of(RunOptions(**options), Resources(gpus=2, share=3, cpus=4), 25)


@pytest.fixture
def command_line(monkeypatch):
    monkeypatch.setattr(options_module, "on_command_line", True)


def test_options_that_were_not_given_leave_what_the_experiment_says():
    wanted = request()
    assert wanted == DeviceRequest(resources=Resources(gpus=2, share=3, cpus=4), population=25)
    assert (wanted.affinity, wanted.wait_for_gpus, wanted.others_may_use) == (True, False, None)


def test_options_win():
    wanted = request(
        share=1, vram="6GiB", gpus="0", wait_for_gpus=True, xids={79: "member"}, others_may_use="2GiB", affinity=False
    )  # fmt: skip
    assert wanted.resources == Resources(gpus=2, share=1, vram="6GiB", cpus=4)
    assert (wanted.gpus, wanted.wait_for_gpus, wanted.xids) == ("0", True, {79: "member"})
    assert (wanted.others_may_use, wanted.affinity) == (2 << 30, False)


def test_an_option_that_is_reset_brings_back_what_the_experiment_declares():
    """At a resume the resources have the launch's options applied, and the declaration is known beside them."""
    applied, declared = Resources(share=3, vram="6GiB"), Resources(share=2)
    reset = RunOptions(share="none", vram="none", nvml_library="none")
    wanted = DeviceRequest.of(reset, applied, 25, declared=declared)
    assert (wanted.resources, wanted.nvml_library) == (declared, None)
    check_options(dataclasses.replace(reset, gpus="none"))


@pytest.mark.parametrize(
    ("options", "gpus", "cpu"),
    [({}, 1, False), ({}, 0, True), ({"slots": 2}, 1, True), ({"gpus": "none"}, 1, True), ({"gpus": "all"}, 0, False)],
)
def test_cpu_slots_are_wanted(options, gpus, cpu):
    assert DeviceRequest.of(RunOptions(**options), Resources(gpus=gpus), 25).wants_cpu is cpu


WRONG = [
    ({"others_may_use": "2"}, "others_may_use: got '2'; must be an amount", "--others-may-use: got '2'; must be"),
    ({"vram": "6"}, "vram: got '6'; must be an amount of at least 1MiB", "--vram: got '6'; must be an amount"),
    ({"share": 0}, "share: got 0; must be a whole number of at least 1", "--share: got 0; must be a whole number"),
    ({"slots": 0}, "slots=0: must be a whole number of at", "--slots 0: must be a whole number of at least 1"),
    ({"slots": 2, "gpus": "0"}, "slots=2 asks for CPU slots and gpus='0'", "--slots 2 asks for CPU slots and --gpus"),
    ({"gpus": "0,"}, "gpus: got '0,'; must be indices", "--gpus: got '0,'; must be indices"),
    ({"xids": {79: "crd"}}, "xids: got {79: 'crd'}; must be one of 'member', 'card', 'nobody'", "xids: got"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "keyword", "typed"), WRONG)
def test_an_error_names_the_keyword_of_an_application(options, keyword, typed):
    with pytest.raises(GPBTError) as error:
        request(**options)
    assert str(error.value).startswith(keyword)


@pytest.mark.parametrize(("options", "keyword", "typed"), WRONG)
def test_an_error_names_the_option_of_the_command_line(command_line, options, keyword, typed):
    with pytest.raises(GPBTError) as error:
        request(**options)
    assert str(error.value).startswith(typed)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"slots": 2, "share": 2}, "share is about GPUs, and slots=2 asks for the CPU"),
        ({"gpus": "none", "vram": "6GiB"}, "vram is about GPUs, and gpus='none' asks for the CPU"),
        ({"gpus": "none", "wait_for_gpus": True}, "wait_for_gpus is about GPUs, and gpus='none' asks for the CPU"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options, text):
    with pytest.raises(DeviceError, match=text):
        check_options(RunOptions(**options))
    assert request(**options), "but one of them may be kept from an earlier session"


def test_options_that_agree_are_accepted():
    for options in ({}, {"slots": 2}, {"gpus": "0", "share": 2}, {"slots": 2, "affinity": False}):
        check_options(RunOptions(**options))


def test_a_need_that_is_wrong_blames_no_line_of_a_script():
    with pytest.raises(ExperimentError) as error:
        member_needs(RunOptions(share=0), Resources())
    assert "test_request.py" not in str(error.value)


def test_an_option_is_written_as_its_user_writes_it(monkeypatch):
    assert option_text("others_may_use") == "others_may_use"
    assert option_text("gpus", "none") == "gpus='none'"
    monkeypatch.setattr(options_module, "on_command_line", True)
    assert option_text("others_may_use", "2GiB") == "--others-may-use 2GiB"
    assert option_text("wait_for_gpus", True) == "--wait-for-gpus"
