"""Whatever bytes come, only errors of our own come out. (bench/fuzz.py does the same a million times.)"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engine_driver import settings
from fuzzing import DECODERS, QUICK, Journals, Wire, rng_of, sealed
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gpbt_async import codec
from gpbt_async.analysis.run_fold import RunFold
from gpbt_async.errors import JournalError
from gpbt_async.processes import wire
from gpbt_async.storage.journal import read

if TYPE_CHECKING:
    import random


@pytest.fixture(autouse=True)
def engines() -> None:
    """Journals are damaged on purpose here: an engine that took in such facts is not checked when a test ends."""


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_damage_of_all_kinds(decoder: str) -> None:
    make, method, share = DECODERS[decoder]
    room = make()
    for number in range(40 * share):
        getattr(room, method)(rng_of(5, decoder, number))
    room.close()


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    scalars, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=5), s, max_size=3), max_leaves=6
)
names = sorted({name for kind in codec.facts().values() for name in kind.__dataclass_fields__})
small = st.integers(-1, 4)
paths = st.sampled_from(["", "0", "1", "0/0", "0/1", "1/0", "2", "x"])
plausible = {"member": small, "attempt": small, "slot": small, "slots": small, "path": paths, "t": st.floats(-10, 100)}
fields = st.fixed_dictionaries(
    {"fact": st.sampled_from(sorted(codec.facts()))},
    optional={name: anything | plausible.get(name, scalars) for name in names},
)


@pytest.mark.slow
@hypothesis_settings(max_examples=120)
@given(st.lists(fields, max_size=6))
def test_facts_of_any_fields_are_taken_or_damage(flats: list[dict[str, Any]]) -> None:
    """Sealed as they should be, and so past the checksum; each alone too, as the first bad one hides the rest."""
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        path = Path(folder, "journal.jsonl")
        for each in [flats, *([flat] for flat in flats)]:
            lines = [{"journal": 1, "version": ""}, *({"n": n, **flat} for n, flat in enumerate(each))]
            path.write_bytes(b"".join(map(sealed, lines)))
            with contextlib.suppress(JournalError):
                for _ in RunFold(settings()).read(read(path), path):
                    pass


@pytest.mark.slow
@hypothesis_settings(max_examples=300)
@given(st.randoms(use_true_random=False), st.sampled_from(["damaged", "resealed"]))
def test_damage_that_hypothesis_chooses(rng: random.Random, method: str) -> None:
    getattr(JOURNALS, method)(rng)


JOURNALS = Journals()
kinds = sorted(wire._KINDS)
bodies = st.fixed_dictionaries({"type": st.sampled_from(kinds)}, optional={n: anything for n in sorted(wire._TYPES)})


@pytest.mark.slow
@hypothesis_settings(max_examples=150)
@given(bodies)
def test_a_message_of_any_fields_is_one_or_a_wire_error(body: dict[str, Any]) -> None:
    with contextlib.suppress(wire.WireError):
        Wire().used(wire.decode(json.dumps(body).encode()))
