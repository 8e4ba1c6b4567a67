"""Selection: what --gpus and CUDA_VISIBLE_DEVICES choose, MIG instances too, and which GPUs cannot be chosen at all."""

from __future__ import annotations

import pytest

from gpbt_async.devices.gpu_selection import choose, hides_all, names, usable
from gpbt_async.devices.nvml import GPU
from gpbt_async.errors import DeviceError

CARD = "GPU-cccc0000-1111"
OTHER = "GPU-cccd0000-2222"
WHOLE = GPU(0, "GPU-aaaa0000-0000", "NVIDIA A100")
#: two instances of card 1, in the first and third place, and one of card 2
ONE = GPU(1, "MIG-1111aaaa", "NVIDIA A100 MIG 3g.20gb", slice=0, card=CARD)
TWO = GPU(1, "MIG-1111bbbb", "NVIDIA A100 MIG 3g.20gb", slice=2, card=CARD)
THREE = GPU(2, "MIG-2222cccc", "NVIDIA A100 MIG 7g.40gb", slice=0, card=OTHER)
PRESENT = (WHOLE, ONE, TWO, THREE)
A, B, C = THREE_CARDS = (
    GPU(0, "GPU-aaaa1111-0000", "NVIDIA A100"),
    GPU(1, "GPU-aaaa2222-0000", "NVIDIA A100"),
    GPU(2, "GPU-bbbb3333-0000", "NVIDIA A100"),
)


def chosen(asked=None, visible=None, present=PRESENT, **environ):
    warnings = []
    if visible is not None:
        environ["CUDA_VISIBLE_DEVICES"] = visible
    if present is PRESENT:  # their names differ, which would be warned of
        environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return choose(present, asked, environ, warnings.append), warnings


#: what is asked for, what CUDA_VISIBLE_DEVICES says, and what is chosen then; of whole cards, and of instances
CARDS = [
    (None, None, [A, B, C]),
    ("all", None, [A, B, C]),
    ("2,0", None, [C, A]),
    ("GPU-bbbb3333-0000, 1", None, [C, B]),
    ("GPU-b", None, [C]),
    ("gpu-AAAA2", None, [B]),
    (None, "2,0", [C, A]),
    (None, "2, 0,", [C, A]),
    (None, "GPU-b,GPU-aaaa1", [C, A]),
    (None, "1,-1", [B]),
    ("all", "2,0", [C, A]),
    ("0", "2,0", [A]),
    ("GPU-aaaa", "2,0", [A]),  # ambiguous on the machine, not among those shown
]
INSTANCES = [
    (None, None, [WHOLE, ONE, TWO, THREE]),
    ("MIG-1111bbbb", None, [TWO]),
    ("mig-1111BBBB", None, [TWO]),
    ("MIG-2", None, [THREE]),  # a prefix
    ("MIG-1111a,MIG-1111b", None, [ONE, TWO]),
    ("1", None, [ONE, TWO]),  # the card: all of its instances
    ("2", None, [THREE]),
    ("1,0", None, [ONE, TWO, WHOLE]),
    ("1:0", None, [ONE]),
    ("1:2", None, [TWO]),
    ("2:0,1:2,0", None, [THREE, TWO, WHOLE]),
    (CARD, None, [ONE, TWO]),  # the card's UUID, and the beginning of one
    ("gpu-CCCC", None, [ONE, TWO]),
    ("GPU-cccd", None, [THREE]),
    (None, "MIG-1111bbbb", [TWO]),
    (None, "MIG-1111bbbb,MIG-1111a", [TWO, ONE]),
    (None, "1", [ONE, TWO]),
    (None, "1:2,0", [TWO, WHOLE]),
    ("1", "MIG-1111bbbb,0", [TWO]),  # of all its instances those that are shown
    ("GPU-cccc", "MIG-1111bbbb,0", [TWO]),
    ("MIG-1", "MIG-1111bbbb,0", [TWO]),  # ambiguous on the machine, not among those shown
    ("GPU-c", "MIG-2222cccc", [THREE]),
    ("all", "1:2", [TWO]),
]


@pytest.mark.parametrize(
    ("present", "asked", "visible", "expected"),
    [*((THREE_CARDS, *case) for case in CARDS), *((PRESENT, *case) for case in INSTANCES)],
)
def test_which_gpus(present, asked, visible, expected):
    assert chosen(asked, visible, present) == (expected, [])


#: the same, and the words of the error
NO_CARDS = [
    ("3", None, ["gpus='3'", "'3'", "no GPU", "GPU-aaaa1111-0000", "GPU 2"]),
    ("0,x", None, ["'x'"]),
    ("0,", None, ["gpus: got '0,'", "with commas between them"]),
    ("GPU-cc", None, ["'GPU-cc'", "no GPU"]),
    ("GPU-aaaa", None, ["'GPU-aaaa'", "more than one"]),
    ("0,GPU-aaaa1", None, ["'GPU-aaaa1'", "twice"]),
    ("1", "2,0", ["'1'", "hidden by CUDA_VISIBLE_DEVICES=2,0", "GPU 2"]),
    ("MIG-1234", None, ["'MIG-1234'", "no GPU"]),
    (None, "MIG-1234", ["'MIG-1234'", "no GPU"]),
    (None, "0,0", ["CUDA_VISIBLE_DEVICES=0,0", "twice"]),
    (None, "7,0", ["CUDA_VISIBLE_DEVICES=7,0", "'7'", "gpus='none'"]),
    (None, "GPU-aaaa", ["'GPU-aaaa'"]),
]
NO_INSTANCES = [
    ("MIG-1111", None, ["gpus='MIG-1111':", "'MIG-1111'", "may mean more than one GPU", "MIG-1111aaaa", "GPU 1:2"]),
    ("MIG-", None, ["may mean more than one GPU"]),
    ("GPU-c", None, ["'GPU-c'", "may mean more than one GPU"]),  # two cards with instances
    ("GPU-", None, ["may mean more than one GPU"]),  # a whole card and two with instances
    ("1:1", None, ["'1:1'", "is no GPU here"]),
    ("0:0", None, ["'0:0'", "is no GPU here"]),  # not split
    ("1:", None, ["is no GPU here"]),
    (":0", None, ["is no GPU here"]),
    ("MIG-9", None, ["'MIG-9'", "is no GPU here"]),
    ("1111aaaa", None, ["is no GPU here"]),
    ("", None, ["gpus: got ''", "all, or none"]),
    ("1:0", "MIG-1111bbbb", ["'1:0'", "is hidden by CUDA_VISIBLE_DEVICES=MIG-1111bbbb", "GPU 1:2"]),
    ("MIG-1111a", "0,1:2", ["'MIG-1111a'", "is hidden by CUDA_VISIBLE_DEVICES=0,1:2"]),
    ("2", "1", ["'2'", "is hidden"]),
    ("1:0,MIG-1111aaaa", None, ["'MIG-1111aaaa'", "is named twice"]),
    ("1,1:2", None, ["'1:2'", "is named twice"]),
    ("1:2,1", None, ["'1'", "is named twice"]),
    ("1,GPU-cccc", None, ["'GPU-cccc'", "is named twice"]),
    (None, "1,MIG-1111bbbb", ["CUDA_VISIBLE_DEVICES=1,MIG-1111bbbb", "'MIG-1111bbbb'", "twice", "shows no GPU"]),
    (None, "MIG-1111", ["'MIG-1111'", "may mean any of", "MIG-1111aaaa", "gpus='none'"]),
    (None, "MIG-9", ["'MIG-9'", "is not one of"]),
]


@pytest.mark.parametrize(
    ("present", "asked", "visible", "words"),
    [*((THREE_CARDS, *case) for case in NO_CARDS), *((PRESENT, *case) for case in NO_INSTANCES)],
)
def test_an_entry_that_cannot_be_chosen_is_named(present, asked, visible, words):
    with pytest.raises(DeviceError) as error:
        chosen(asked, visible, present)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize("invalid", ["7", "GPU-cc", "GPU-aaaa", "x", "-1"])
def test_an_invalid_entry_hides_itself_and_all_after_it_and_says_so(invalid):
    gpus, (sentence,) = chosen(None, f"2,{invalid},0", THREE_CARDS)
    assert gpus == [C]
    assert repr(invalid) in sentence
    assert "all after it" in sentence


def test_indices_are_warned_of_where_models_differ():
    other = GPU(1, "GPU-cccc", "NVIDIA RTX 4090")
    unnamed = GPU(1, "GPU-cccc")
    gpus, (sentence,) = chosen(None, "1", (A, other))
    assert gpus == [other]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in sentence
    assert chosen(None, "1", (A, other), CUDA_DEVICE_ORDER="PCI_BUS_ID")[1] == []
    assert chosen(None, "GPU-cccc", (A, other))[1] == []
    assert chosen(None, "1", (A, unnamed))[1] == []


def test_an_unknown_instance_hides_itself_and_all_after_it():
    gpus, (sentence,) = chosen(None, "MIG-1111b,MIG-9,0")
    assert gpus == [TWO]
    assert "'MIG-9'" in sentence
    assert "all after it" in sentence


@pytest.mark.parametrize(
    ("asked", "visible", "expected"), [(None, "0,1,2", [A, C]), (None, "1,2", [C]), ("2", "GPU-aaaa2,2", [C])]
)
def test_a_card_that_cannot_be_used_hides_nothing_after_it(asked, visible, expected):
    environ = {"CUDA_VISIBLE_DEVICES": visible}
    assert choose((A, C), asked, environ, pytest.fail, {B: "it is lost"}) == expected


def test_the_error_says_why_a_card_cannot_be_used():
    with pytest.raises(DeviceError, match=r"gpus='1': '1' cannot be used, as it is lost; to choose from: GPU 0"):
        choose((A, C), "1", {}, pytest.fail, {B: "it is lost"})
    with pytest.raises(
        DeviceError, match=r"CUDA_VISIBLE_DEVICES=1: none of these can be used \(GPU 1 .*: it is lost\)"
    ):
        choose((A, C), None, {"CUDA_VISIBLE_DEVICES": "1"}, pytest.fail, {B: "it is lost"})


def test_an_instance_is_called_by_its_card_and_its_place():
    assert [gpu.label for gpu in PRESENT] == ["0", "1:0", "1:2", "2:0"]
    assert str(TWO) == "GPU 1:2 NVIDIA A100 MIG 3g.20gb"
    assert str(GPU(3, "GPU-x")) == "GPU 3"
    assert names((WHOLE, GPU(3, "GPU-x"))) == "GPU 0 NVIDIA A100 (GPU-aaaa0000-0000), GPU 3 (GPU-x)"


@pytest.mark.parametrize(
    ("visible", "hidden"),
    [(None, False), ("", True), (" ", True), ("-1", True), ("NoDevFiles", True), ("none", True), ("-1,0", True),
     ("0", False), ("0,-1", False), ("MIG-1111aaaa", False), ("x", False)],
)  # fmt: skip
def test_no_gpu_on_purpose(visible, hidden):
    assert hides_all({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) is hidden


# --- which GPUs can be used ----------------------------------------------------------------------------------


def test_a_usable_gpu_stays_as_it_was_listed():
    cpus = frozenset({4, 5})
    gpus, out = usable([GPU(3, "GPU-x", "NVIDIA L4", total=7, mode="exclusive", cpus=cpus)])
    assert gpus == [GPU(3, "GPU-x", "NVIDIA L4", total=7, mode="exclusive", cpus=cpus)]
    assert out == {}


def test_a_split_card_is_its_instances():
    found = [
        GPU(0, "GPU-a"),
        GPU(1, CARD, split=True, total=40),
        GPU(1, "MIG-1", "half", slice=0, card=CARD, total=20),
        GPU(1, "MIG-2", "half", slice=2, card=CARD, total=20),
    ]
    gpus, out = usable(found)
    assert [gpu.label for gpu in gpus] == ["0", "1:0", "1:2"]
    assert gpus[1] == GPU(1, "MIG-1", "half", slice=0, card=CARD, total=20)
    assert out == {}


def test_the_reasons_why_gpus_cannot_be_used():
    found = [
        GPU(0, "GPU-a", mode="prohibited"),
        GPU(1, CARD, split=True),
        GPU(2, "", fault="GPU is lost"),
        GPU(3, "GPU-d", fault="Unknown Error"),
        GPU(4, "GPU-e"),
    ]
    gpus, out = usable(iter(found))
    assert [gpu.uuid for gpu in gpus] == ["GPU-e"]
    assert {str(gpu): why for gpu, why in out.items()} == {
        "GPU 0": "its compute mode is PROHIBITED (nvidia-smi -c DEFAULT would change that)",
        "GPU 1": "it is in MIG mode and has no instance (nvidia-smi mig -cgi … -C makes one)",
        "GPU 2": "NVML failed: GPU is lost",
        "GPU 3": "NVML failed: Unknown Error",
    }


def test_instances_of_a_prohibited_card():
    found = [
        GPU(0, CARD, split=True, mode="prohibited"),
        GPU(0, "MIG-1", slice=0, card=CARD, mode="prohibited"),
    ]
    gpus, out = usable(found)
    assert gpus == []
    ((gpu, why),) = out.items()
    assert str(gpu) == "GPU 0"
    assert "PROHIBITED" in why


def test_a_split_card_that_fails_and_one_with_instances_of_another_only():
    found = [
        GPU(0, CARD, split=True, fault="GPU is lost"),
        GPU(1, OTHER, split=True),
        GPU(2, "GPU-z", split=True),
        GPU(2, "MIG-9", slice=0, card="GPU-z"),
    ]
    gpus, out = usable(found)
    assert [gpu.uuid for gpu in gpus] == ["MIG-9"]
    reasons = {str(gpu): why for gpu, why in out.items()}
    assert reasons["GPU 0"] == "NVML failed: GPU is lost"
    assert reasons["GPU 1"].startswith("it is in MIG mode and has no instance")
    assert "GPU 2" not in reasons


def test_nothing_found():
    assert usable([]) == ([], {})
