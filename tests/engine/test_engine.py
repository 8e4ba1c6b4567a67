"""The engine's invariants, as properties, and its decisions on trees small enough to work out by hand."""

from __future__ import annotations

import math
import random
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest
from engine_driver import SPACE, Driver, generation_asked, landscape, settings, snapshot, tree_of
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from strategies import drivers

from gpbt_async import events
from gpbt_async.engine.engine import LOST_MOST, Engine
from gpbt_async.engine.termination import HOPELESS
from gpbt_async.engine.tree import Node, State, Tree
from gpbt_async.errors import JournalError


def ancestors(member: Node) -> list[Node]:
    return member.ancestry[:-1]


# 1 and 9: what a searcher is shown


@given(drivers())
def test_an_ask_shows_all_settled_kin_of_the_parent_and_nobody_else(driver: Driver) -> None:
    s = driver.settings

    def check(d: Driver, commands: list[events.Command]) -> None:
        for command in commands:
            if not isinstance(command, events.Suggest):
                continue
            ask = next(a for _, a in reversed(d.asks) if a.path == command.path)
            # settled members, from the facts alone
            parent_path = command.path[:-1]
            settled = {m.path for m in d.engine.tree.members if m.state.settled}
            if s.history == "global":
                kin = settled
            elif s.history == "reset" and parent_path:
                kin = {p for p in settled if p[:-1] == parent_path}
            else:
                families = [parent_path[:i] for i in range(len(parent_path) + 1)]
                kin = {p for p in settled if p[:-1] in families}
            assert {o.path for o in ask.kin} == kin
            listed = [(o.generation, o.path) for o in ask.kin]
            assert listed == sorted(listed)
            for o in ask.kin:
                member = d.engine.tree.at(o.path)
                assert SPACE.clip(o.config) == o.config == member.config
                # a member stop_verdict that then died has no loss to tell, and is told as failed
                assert o.outcome == member.state.value or (o.outcome == "failed" and member.state is State.STOPPED)
                assert (o.loss is None) == (o.outcome == "failed")

    driver.on_turn = check
    driver.run()


@given(drivers())
def test_a_config_is_used_for_the_generation_it_was_asked_for(driver: Driver) -> None:
    engine = driver.run()
    asked = {(ask.path, ask.generation) for _, ask in driver.asks}
    for member in engine.tree.members:
        if member.parent is None or member.path[-1] > 0:
            assert (member.path, member.generation) in asked


@given(drivers())
def test_pending_siblings_are_told_and_never_stored_as_kin(driver: Driver) -> None:
    def check(d: Driver, commands: list[events.Command]) -> None:
        for command in commands:
            if isinstance(command, events.Suggest):
                siblings = [m for m in d.engine.tree.members if m.path[:-1] == command.path[:-1]]
                pending = [m.config for m in siblings if not m.state.settled]
                ask = next(a for _, a in reversed(d.asks) if a.path == command.path)
                assert all(config in ask.pending for config in pending)
                younger = [p for p in d.engine.asks if p[:-1] == command.path[:-1]]
                assert younger == [command.path]

    driver.on_turn = check
    driver.run()


def test_with_plus_selection_the_elder_of_two_generations_is_asked_for_alone() -> None:
    """A survivor's next children, of two generations, are wanted at once; then the elder of them falls away."""
    s = settings(population=3, generations=4, ratio=0.25, evidence=0.0, selection="plus")

    def check(d: Driver, commands: list[events.Command]) -> None:
        for command in commands:
            if isinstance(command, events.Suggest):
                assert [p for p in d.engine.asks if p[:-1] == command.path[:-1]] == [command.path]

    for seed in (1, 27, 30, 33, 45, 50):  # each of them failed once
        Driver(s, slots=1, rng=random.Random(seed), fail=0.2, lose=0.2, ahead=5, on_turn=check).run()


# 2 and 8: counts


@given(drivers(faults=False, early_stop=()))
def test_every_generation_has_exactly_n_members(driver: Driver) -> None:
    s = driver.settings
    engine = driver.run()
    assert [g.issued for g in engine.tree.generations] == [s.population] * s.generations
    assert engine.ended == events.Finish("")
    assert all(m.state is State.FINISHED and m.attempt == 1 for m in engine.tree.members)
    assert driver.peak <= min(driver.slots, s.population)


@given(drivers())
def test_with_faults_no_more_members_and_every_run_ends(driver: Driver) -> None:
    s = driver.settings
    engine = driver.run()
    assert engine.ended is not None
    assert all(g.issued <= s.population for g in engine.tree.generations)
    if not engine.ended.reason:
        assert all(g.issued == g.size for g in engine.tree.generations)
        assert "generation" in s.early_stop or len(engine.tree.members) == s.population * s.generations
        assert all(m.state.settled for m in engine.tree.members)
    else:  # it failed: there really was nobody to go on with
        hopeless = [g for g in engine.tree.generations if g.issued and g.settled == g.issued and not g.ranking]
        if "is never reported" in engine.ended.reason:
            assert not engine.tree.unsettled
            assert session(driver.facts) == (False, True)
            return
        nobody = all(m.state is State.FAILED or m.failures for m in engine.tree.members)
        assert nobody or any(g.issued == s.population for g in hopeless)
    for m in engine.tree.members:
        assert m.failures <= s.attempts
        assert m.parent is None or m.parent.state is State.FINISHED


@given(drivers(selection="comma"))
def test_the_winners_schedule_is_as_long_as_its_depth_and_inside_the_space(driver: Driver) -> None:
    engine = driver.run()
    if engine.best is not None:
        assert len(engine.best.schedule) == engine.best.generation + 1
        assert all(SPACE.clip(config) == config for config in engine.best.schedule)
        finished = [m for m in engine.tree.members if m.state is State.FINISHED]
        assert engine.best is min(finished, key=lambda m: (m.loss, m.generation, m.path))


@pytest.mark.parametrize(
    ("n", "ratio", "k"),
    [
        (6, 1.0, 2),
        (25, 1.0, 5),
        (72, 0.5, 12),
        (72, 72 / 256, 16),
        (4, 4.0, 1),
        (36, 1.0, 6),
        (1, 1.0, 1),
        (3, 1e-9, 3),
        (14, 0.14, 10),  # as floats the quotient is 99.99999999999999
        (28, 1.12, 5),
        (101, 1.0, 10),
        (99, 1.0, 9),
    ],
)
def test_the_number_of_parents(n: int, ratio: float, k: int) -> None:
    assert settings(population=n, ratio=ratio).parents == k


@pytest.mark.parametrize(("n", "ratio"), [(6, 1.0), (72, 72 / 256), (7, 0.5), (10, 1.0)])
def test_sync_kin_before_a_parents_first_child_and_quotas(n: int, ratio: float) -> None:
    s = settings(population=n, ratio=ratio, schedule="sync", generations=4)
    k, driver = s.parents, Driver(settings=s, slots=5, rng=random.Random(1))
    engine = driver.run()
    equal = n % k == 0
    for generation in engine.tree.generations[1:]:
        counts = Counter(m.parent.id for m in generation.members if m.parent)
        above = engine.tree.generations[generation.members[0].generation - 1]
        ranked = [m.id for m in above.ranking[:k]]
        assert dict(counts) == {i: n // k if r else n - (k - 1) * (n // k) for r, i in enumerate(ranked)}
    for _, ask in driver.asks:
        elders = ask.path[-1]
        if ask.generation == 0:
            assert len(ask.kin) == elders
        elif equal:
            assert len(ask.kin) == n + (ask.generation - 1) * (n // k) + elders
        assert not ask.pending


# 3: the repeat child


@given(drivers())
def test_a_parents_first_child_repeats_its_config_exactly(driver: Driver) -> None:
    engine = driver.run()
    for member in engine.tree.members:
        if member.parent is not None and member.path[-1] == 0:
            assert member.config == member.parent.config
    assert all(not (len(ask.path) > 1 and ask.path[-1] == 0) for _, ask in driver.asks)


# 5: determinism


@given(drivers(schedule="sync", early_stop=()), st.integers(1, 14), st.integers(0, 10**6))
def test_sync_gives_the_same_tree_for_any_slots_and_any_order(driver: Driver, slots: int, order: int) -> None:
    driver.fail = driver.nan = driver.lose = driver.mute = 0.0
    other = Driver(driver.settings, slots, random.Random(order))
    assert tree_of(driver.run()) == tree_of(other.run())


@given(drivers())
def test_a_journal_replays_to_the_same_tree_and_the_same_asks(driver: Driver) -> None:
    driver.run()
    replayed = Engine(driver.settings, driver.ahead)
    asks = []
    for fact in driver.facts:
        for command in replayed.handle(fact):
            if isinstance(command, events.Suggest):
                asks.append((replayed.count, replayed.ask(command.path)))
    assert snapshot(replayed) == snapshot(driver.engine)
    assert asks == driver.asks


# 6: liveness, order, fairness, promotion


@given(drivers(schedule="async"))
def test_a_slot_idles_only_for_a_cause_that_holds(driver: Driver) -> None:
    s = driver.settings

    def check(d: Driver, commands: list[events.Command]) -> None:
        engine = d.engine
        if engine.ended or len(engine.training) >= engine.width:
            return
        cause = engine.idle_cause()
        open_ = next((i for i, g in enumerate(engine.tree.generations) if not g.full), None)
        waiting = [m for m in engine.tree.members if m.state is State.WAITING]
        assert not waiting
        if open_ is not None and engine.termination.doubtful:
            assert cause == "evidence"
            assert engine.training
        elif open_ is None:
            assert cause == "no_work"
        elif any(isinstance(c, events.Suggest) for c in d.pending):
            assert cause in ("searcher", "evidence", "checkpoint")
        else:
            above = engine.tree.generations[open_ - 1]
            trained = sum(m.state is State.TRAINED for m in above.members)
            short = above.settled < max(1, math.ceil(s.evidence * above.size))
            assert open_ > 0
            assert short or not above.ranking
            assert cause in ("evidence", "checkpoint")
            assert cause != "checkpoint" or trained

    driver.on_turn = check
    driver.run()


@given(drivers(schedule="async", faults=False, early_stop=()))
def test_few_slots_never_wait_for_evidence(driver: Driver) -> None:
    s = driver.settings
    driver.slots = max(1, min(driver.slots, s.population - math.ceil(s.evidence * s.population) + 1))

    def check(d: Driver, commands: list[events.Command]) -> None:
        if not d.engine.ended and len(d.engine.training) < d.engine.width:
            assert d.engine.idle_cause() in ("searcher", "checkpoint", "no_work")

    driver.on_turn = check
    driver.run()


@given(drivers(schedule="async"))
def test_shallowest_first_fair_and_from_the_elite(driver: Driver) -> None:
    s = driver.settings
    seen = 0

    def check(d: Driver, commands: list[events.Command]) -> None:
        nonlocal seen
        tree = d.engine.tree
        fresh, seen = tree.members[seen:], len(tree.members)
        for member in fresh:
            shallower = tree.generations[: member.generation]
            assert all(g.full for g in shallower)
            if member.parent is None:
                continue
            above = tree.generations[member.generation - 1]
            assert above.settled >= max(1, math.ceil(s.evidence * above.size))
            size = min(s.parents, max(1, above.settled * s.parents // above.size))
            rivals = tree.rivals(member.generation - 1, s.selection == "plus")
            elite = rivals[:size]
            assert member.parent in elite
            issued_later = Counter(m.parent for m in fresh if m.id >= member.id and m.generation == member.generation)
            counts = tree.generations[member.generation].by_parent
            before = {p.id: counts.get(p.id, 0) - issued_later[p] for p in elite}
            assert before[member.parent.id] == min(before.values())

    driver.on_turn = check
    driver.run()


@given(drivers(schedule="async", evidence=1.0, selection="comma", faults=False, early_stop=()))
def test_with_full_evidence_the_parents_are_the_exact_top_k(driver: Driver) -> None:
    s, tree = driver.settings, driver.run().tree
    for above, generation in zip(tree.generations, tree.generations[1:], strict=False):
        top = {m.id for m in above.ranking[: s.parents]}
        assert {m.parent.id for m in generation.members if m.parent} == top
        counts = generation.by_parent.values()
        assert max(counts) - min(counts) <= 1


@given(drivers())
def test_a_lost_or_failed_member_starts_again_before_anything_new(driver: Driver) -> None:
    def check(d: Driver, commands: list[events.Command]) -> None:
        if any(m.state is State.WAITING for m in d.engine.tree.members):
            assert d.engine.ended or len(d.engine.training) == d.engine.width

    driver.on_turn = check
    engine = driver.run()
    for member in engine.tree.members:
        starts = [f for f in driver.facts if isinstance(f, events.Started) and f.member == member.id]
        assert len({(f.path, str(f.config)) for f in starts}) <= 1
        assert [f.attempt for f in starts] == list(range(1, len(starts) + 1))


# doubt: while nothing has shown that the script works


def session(facts: list[events.Fact]) -> tuple[bool, bool]:
    """Of the facts since the last Opened: has one shown that the script works, and has one ended without its score?"""
    begun = max(i for i, fact in enumerate(facts) if isinstance(fact, events.Opened))
    works = mute = False
    for fact in facts[begun:]:
        scored = isinstance(fact, events.Trained | events.StoppedEarly) and fact.score is not None
        works = works or scored or isinstance(fact, events.Scored | events.Judged)
        mute = mute or (isinstance(fact, events.Trained) and fact.score is None)
    return works, mute


@given(drivers())
def test_while_those_on_their_way_will_tell_no_new_member_begins(driver: Driver) -> None:
    """From the facts alone: the first that ends without its score holds up all others, until one has reported it."""
    seen = 0

    def check(d: Driver, commands: list[events.Command]) -> None:
        nonlocal seen
        members = d.engine.tree.members
        fresh, seen = members[seen:], len(members)
        works, mute = session(d.facts)
        if mute and not works:
            told = [m for m in members if m.reason.startswith("never reported")]
            assert not fresh or (not d.instead and len(told) == 1) or d.settings.population == 1
            assert len(fresh) <= 1
        ending = d.engine.termination
        if fresh and ending.unsure and ending.failed:
            assert d.engine.tree.unsettled <= ending.missing, "more than are needed to know"

    driver.on_turn = check
    driver.run()


@pytest.mark.parametrize("slots", [1, 2, 5, 30])
@pytest.mark.parametrize("instead", [("val_loss", "n"), ()])
@pytest.mark.parametrize("schedule", ["async", "sync"])
def test_a_score_that_is_never_reported_costs_one_interval_a_slot(
    slots: int, instead: tuple[str, ...], schedule: str
) -> None:
    s = settings(population=25, generations=3, schedule=schedule)
    driver = Driver(s, slots, random.Random(slots), mute=1.0, instead=instead)
    engine = driver.run()
    trained = sum(isinstance(fact, events.Trained) for fact in driver.facts)
    assert trained == len(engine.tree.members) <= max(slots, 1 if instead else 2)
    assert engine.ended is not None
    assert engine.ended.reason.startswith("the score 'loss' is never reported: ")
    if instead:
        assert "reported 'val_loss', 'n'; did you mean score='val_loss'?" in engine.ended.reason
    else:
        assert "reported nothing; call member.report(loss=...)" in engine.ended.reason
    assert engine.reopens
    driver.mute = 0.0
    driver.open(retry=True)
    assert driver.run().ended == events.Finish("")
    assert all(m.state is State.FINISHED for m in engine.tree.members)
    again = Engine(s, driver.ahead)
    for fact in driver.facts:
        again.handle(fact)
    assert snapshot(again) == snapshot(engine)


def test_one_report_of_the_score_ends_the_doubt_long_before_its_member_ends() -> None:
    """Two slots: member 0 ends without the score, and its slot waits until member 1 has reported it."""
    driver = Driver(settings(population=6, generations=2), 2, random.Random(0))
    driver.open()
    engine = driver.engine
    while driver.pending:
        driver._perform(driver.pending.pop(0))
    driver.feed(events.Trained(t=0.0, member=0, attempt=1, score=None, metrics={"other": 1.0}, seconds=1.0))
    del driver.running[0]
    assert engine.ended is None
    assert (engine.termination.doubtful, engine.idle_cause(), len(engine.tree.members)) == (True, "evidence", 2)
    driver.feed(events.Lost(t=0.0, member=1, attempt=1, reason="its GPU"))
    assert [m.id for m in engine.training] == [1], "who is to say it begins again"
    driver.running.clear()
    while driver.pending:
        driver._perform(driver.pending.pop(0))
    driver.feed(events.Scored(t=0.0, member=1, attempt=2))
    assert not engine.termination.doubtful
    assert len(engine.tree.members) == 3, "the slot has the next one at once"
    assert driver.run().ended == events.Finish("")


def test_what_each_session_has_shown_counts_for_itself() -> None:
    """A run that works is taken up with an edited script that misspells its score: it ends soon."""
    driver = Driver(settings(population=8, generations=4), 2, random.Random(3))
    driver.open()
    while sum(m.state is State.FINISHED for m in driver.engine.tree.members) < 9:
        driver.turn()
    issued = len(driver.engine.tree.members)
    driver.mute = 1.0
    driver.open()
    engine = driver.run()
    assert engine.ended is not None
    assert "is never reported" in engine.ended.reason
    assert len(engine.tree.members) <= issued + 4


@pytest.mark.parametrize("certain", [0.0, 1.0])
@pytest.mark.parametrize("slots", [1, 2, 4, 9])
def test_where_all_attempts_fail_no_more_members_begin_than_are_needed_to_know(slots: int, certain: float) -> None:
    driver = Driver(settings(population=30, generations=3), slots, random.Random(slots), fail=1.0, certain=certain)
    engine = driver.run()
    assert engine.ended is not None
    assert "failed; the first: member" in engine.ended.reason
    assert len(engine.tree.members) <= max(slots, HOPELESS)
    if certain:
        assert all(m.attempt <= 1 for m in engine.tree.members)


@given(drivers(attempts=3))
def test_a_failure_that_is_certain_is_not_tried_again(driver: Driver) -> None:
    driver.fail, driver.certain = 0.2, 0.5
    engine = driver.run()
    sure = {f.member for f in driver.facts if isinstance(f, events.Failed) and f.certain}
    for member in engine.tree.members:
        failed = [f for f in driver.facts if isinstance(f, events.Failed) and f.member == member.id]
        assert [f.certain for f in failed[:-1]] == [False] * (len(failed) - 1)
        assert not failed or failed[-1].certain or member.failures == len(failed)
        if member.id in sure:
            assert member.state in (State.FAILED, State.STOPPED)


# 7: crash at any fact


def command_text(command: events.Command) -> str:
    """A command for comparison; a Suggest that is derived again may say another `since`."""
    return repr(replace(command, since=0) if isinstance(command, events.Suggest) else command)


@given(drivers(), st.data())
@hypothesis_settings(max_examples=150)
def test_crash_at_any_fact_replay_and_go_on(driver: Driver, data: st.DataObject) -> None:
    s = driver.settings
    driver.open()
    crashes = data.draw(st.lists(st.integers(1, 25), max_size=4))
    for turns in crashes:
        for _ in range(turns):
            driver.turn()
        replayed = Engine(s, driver.ahead)
        for fact in driver.facts:
            replayed.handle(fact)
        assert snapshot(replayed) == snapshot(driver.engine)
        # every command not answered yet is derived again: nothing leaks a slot, nothing is told twice
        expected = Counter(map(command_text, driver.pending))
        # a survivor's children of two generations share a path: the older ask for it may have been withdrawn
        asked = {(ask.path, ask.generation) for ask in replayed.asks.values()}
        stale = [c for c in driver.pending if isinstance(c, events.Suggest) and (c.path, c.generation) not in asked]
        ended = [c for c in replayed.outstanding() if isinstance(c, events.Finish)]
        got = Counter(command_text(c) for c in replayed.outstanding() if not isinstance(c, events.Finish))
        expected -= Counter(map(command_text, stale)) + Counter(map(command_text, ended))
        for repeated in [c for c in expected if "Suggest" in c]:
            expected[repeated] = 1
        # a verdict is answered by no fact of its own, and is repeated as long as its member trains
        assert {c: n for c, n in got.items() if "Verdict" not in c} == {
            c: n for c, n in expected.items() if "Verdict" not in c
        }
        assert {c for c in expected if "Verdict" in c} <= set(got)
        driver.engine = replayed
        driver.open()
    engine = driver.run()
    assert engine.ended is not None
    told = Counter(f.member for f in driver.facts if isinstance(f, events.Published))
    assert all(count == 1 for count in told.values())
    if not engine.ended.reason:
        assert all(g.full and g.complete for g in engine.tree.generations)


# what may be deleted


@given(drivers())
def test_a_discarded_checkpoint_is_never_read_again(driver: Driver) -> None:
    engine = driver.run()
    gone: set[int] = set()
    for fact in driver.facts:
        if isinstance(fact, events.Discarded):
            gone.add(fact.member)
        if isinstance(fact, events.Started) and fact.parent is not None:
            assert fact.parent not in gone
    if engine.ended == events.Finish(""):
        kept = {m.id for m in engine.tree.members if m.state is State.FINISHED} - gone
        best = {engine.best.id} if engine.best else set()
        assert best <= kept
        plus, last = driver.settings.selection == "plus", driver.settings.generations - 1
        if last and not engine.tree.generations[last].ranking:  # it failed altogether, and may be tried again
            best |= {m.id for m in engine.tree.rivals(last - 1, plus)[: engine.selection.parents]}
        if driver.settings.validate is not None:
            rivals = [engine.tree.rivals(each, plus) for each in range(max(0, last - 1), last + 1)]
            combined = {m.id for here in rivals for m in here[: engine.selection.parents] if not m.damaged}
            assert combined <= kept, "what `best --merge` combines is there"
            best |= combined
        assert kept <= best


def test_who_has_a_failed_generation_only_is_let_go_when_a_later_one_is_full() -> None:
    """With plus selection the elder may be a parent once more; then the generation between is not tried again."""
    seen = 0
    for seed in range(60):
        s = settings(population=1, generations=3, selection="plus", history="reset", evidence=0.0, attempts=1, seed=1)
        driver = Driver(s, slots=1, rng=random.Random(seed), fail=0.3)
        engine = driver.run()
        states = [member.state for member in engine.tree.members]
        if states != [State.FINISHED, State.FAILED, State.FINISHED]:
            continue
        seen += 1
        gone = {fact.member for fact in driver.facts if isinstance(fact, events.Discarded)}
        assert engine.best is not None
        assert {0, 2} - gone == {engine.best.id}
    assert seen


@given(drivers(), st.integers(0, 120))
def test_a_run_that_failed_is_tried_again_when_what_made_it_fail_is_mended(driver: Driver, works: int) -> None:
    """From some fact on everything fails, say for want of the data; then nothing does."""
    driver.open()
    while len(driver.facts) < works and driver.turn():
        pass
    driver.fail, driver.lose, driver.nan, driver.mute = 1.0, 0.0, 0.0, 0.0
    driver.open()
    engine = driver.run()
    assert engine.ended is not None
    issued, retried = len(engine.tree.members), {m.id: m.attempt for m in engine.to_retry}
    assume(engine.ended.reason and engine.reopens)
    driver.fail = 0.0
    driver.open(retry=True)
    engine = driver.run()
    assert engine.ended == events.Finish("")
    assert engine.best is not None
    assert len(engine.tree.members) >= issued
    assert all(engine.tree.members[id].attempt == before + 1 for id, before in retried.items())
    assert all(m.state in (State.FINISHED, State.STOPPED) for m in map(engine.tree.members.__getitem__, retried))
    again = Engine(driver.settings, driver.ahead)
    for fact in driver.facts:
        again.handle(fact)
    assert snapshot(again) == snapshot(engine)


def test_the_last_members_of_a_run_may_fail_without_making_it_a_failed_one() -> None:
    driver = Driver(settings(population=6, generations=2, attempts=1), slots=1, rng=random.Random(1))
    driver.open()
    while sum(m.state is State.FINISHED for m in driver.engine.tree.members) < 8:
        driver.turn()
    driver.fail = 1.0
    driver.open()
    engine = driver.run()
    assert engine.ended == events.Finish("")
    assert sum(m.state is State.FAILED for m in engine.tree.members) == 4
    driver.fail = 0.0
    driver.open(retry=True)
    assert driver.run().ended == events.Finish("")
    assert all(m.state is State.FINISHED for m in engine.tree.members)


def test_who_is_tried_again_does_not_lose_what_it_writes_to_a_discard_of_before() -> None:
    driver = Driver(settings(population=2, generations=1, attempts=1), slots=2, rng=random.Random(0))
    driver.open()
    engine = driver.engine
    while driver.pending:
        driver._perform(driver.pending.pop(0))
    assert len(driver.running) == 2
    for member in engine.training:
        driver.feed(events.Trained(t=0.0, member=member.id, attempt=1, score=None, metrics={}, seconds=1.0))
    assert engine.ended is not None
    driver.open(retry=True)
    assert not [command for command in engine.outstanding() if isinstance(command, events.Discard)]


def test_a_session_in_which_nothing_works_is_ended_early_and_loses_nothing() -> None:
    driver = Driver(settings(population=8, generations=6, attempts=2), slots=3, rng=random.Random(1))
    driver.open()
    while driver.engine.tree.best is None or driver.engine.tree.best.generation < 2:
        driver.turn()
    before = sum(m.state is State.FINISHED for m in driver.engine.tree.members)
    driver.fail = 1.0
    driver.open()
    engine = driver.run()
    assert engine.ended is not None
    assert "members that ended since the run was resumed failed; the first: member" in engine.ended.reason
    assert HOPELESS <= sum(m.state is State.FAILED for m in engine.tree.members) <= 16, "of 48"
    assert sum(m.state is State.FINISHED for m in engine.tree.members) == before
    driver.fail = 0.0
    driver.open(retry=True)
    engine = driver.run()
    assert engine.ended == events.Finish("")
    assert engine.tree.generations[-1].settled == 8


@given(drivers(selection="comma"))
def test_the_store_stays_small(driver: Driver) -> None:
    s = driver.settings

    def check(d: Driver, commands: list[events.Command]) -> None:
        assert len(d.engine.stored) <= 2 * s.parents + d.engine.width + 1 + sum(
            m.state is State.TRAINED for m in d.engine.tree.members
        ) + len({m.parent.id for m in d.engine.tree.members if m.parent and not m.state.settled})

    driver.on_turn = check
    driver.run()


# by hand


def test_plus_selection_keeps_an_unbeaten_parent_without_a_repeat_child() -> None:
    """The best root is never beaten: it is a parent in every round, and repeats its config only once."""

    def score(path: tuple[int, ...], config: object) -> float:
        return 0.0 if path == (2,) else 1.0 + landscape(path, {}) + len(path)

    s = settings(population=4, generations=3, selection="plus", schedule="sync")
    engine = Driver(s, 2, random.Random(0), score=score).run()
    root = engine.tree.at((2,))
    assert [c.generation for c in root.children] == [1, 1, 2, 2]
    assert [c.config == root.config for c in root.children] == [True, False, False, False]
    assert engine.best is root
    assert [g.issued for g in engine.tree.generations] == [4, 4, 4]


@given(drivers(), st.sampled_from([0.02, 0.1, 0.3]))
def test_nobody_trains_on_from_a_damaged_checkpoint_and_every_run_ends(driver: Driver, damage: float) -> None:
    driver.damage = damage
    engine = driver.run()
    assert engine.ended is not None
    damaged: set[int] = set()
    for fact in driver.facts:
        if isinstance(fact, events.Damaged):
            damaged.add(fact.member)
        elif isinstance(fact, events.Started):
            assert fact.parent not in damaged
    assert all(m.state.settled for m in engine.tree.members) or engine.ended.reason
    if not engine.ended.reason:
        assert all(g.issued == g.size for g in engine.tree.generations)
        assert engine.best is None or engine.best.id not in damaged
    again = Engine(driver.settings, driver.ahead)
    for fact in driver.facts:
        again.handle(fact)
    assert snapshot(again) == snapshot(engine)


@given(drivers(faults=False), st.integers(0, 120), st.sampled_from([0.3, 0.8]))
def test_who_lost_its_parents_checkpoint_is_no_sign_of_a_script_that_fails(
    driver: Driver, n: int, damage: float
) -> None:
    driver.open()
    while len(driver.facts) < n and driver.turn():
        pass
    driver.damage = damage
    driver.open()
    engine = driver.run()
    assert engine.ended is not None
    reason = engine.ended.reason
    assert not reason or any(words in reason for words in ("can be a parent", "finished", "score that is not finite"))


def test_a_damaged_checkpoint_takes_its_children_to_be_with_it_and_the_best_is_another() -> None:
    driver = Driver(settings(population=4, generations=2, ratio=1.0, schedule="sync"), slots=1, rng=random.Random(0))
    driver.open()
    while len(driver.engine.tree.members) < 5:
        driver.turn()
    engine = driver.engine
    best, child = engine.best, engine.tree.members[4]
    assert best is not None
    assert child.parent is not None
    if child.slot is not None:
        driver.feed(events.Lost(t=0.0, member=4, attempt=1, reason="the scheduler was killed"))
        driver.running.clear()
    driver.feed(events.Damaged(t=0.0, member=child.parent.id, attempt=1, reason="a flipped bit"))
    assert child.state is State.FAILED
    assert child.reason == "its parent's checkpoint is lost: a flipped bit"
    assert engine.best is not best or child.parent is not best
    with pytest.raises(JournalError):
        driver.feed(events.Damaged(t=0.0, member=4, attempt=1, reason="it was never published"))


def test_a_generation_without_an_eligible_parent_fails_the_run_with_the_first_reason() -> None:
    s = settings(population=3, generations=2, attempts=2, seed=1)
    driver = Driver(s, 1, random.Random(0), fail=1.0)
    engine = driver.run()
    assert engine.ended is not None
    assert "member 0: boom" in engine.ended.reason
    assert [m.attempt for m in engine.tree.members] == [2, 2, 2]


def test_a_script_that_fails_everywhere_does_not_burn_the_budget() -> None:
    driver = Driver(settings(population=50, generations=2), 2, random.Random(0), fail=1.0)
    engine = driver.run()
    assert engine.ended is not None
    assert engine.ended.reason
    assert len(engine.tree.members) < 10


def test_members_that_diverge_at_once_do_not_end_a_run_that_works() -> None:
    """The fastest to settle are those that diverge: the others are still in their first interval."""
    engine = Engine(settings(population=8, generations=2, attempts=1), ahead=0)
    pending = list(engine.handle(events.Opened(t=0, slots=8, version="v", pid=1)))
    rng = random.Random(0)
    while pending:
        command = pending.pop(0)
        if isinstance(command, events.Suggest):
            path = "/".join(map(str, command.path))
            fact = events.Suggested(t=0, path=path, generation=0, config=SPACE.sample(rng), asked=engine.count)
            pending += engine.handle(fact)
    for id in range(4):
        engine.handle(events.Trained(t=0, member=id, attempt=1, score=math.nan, metrics={}, seconds=0.0))
    assert engine.ended is None
    for id in (4, 5):
        engine.handle(events.Failed(t=0, member=id, attempt=1, reason="boom"))
    assert engine.ended is None
    engine.handle(events.Trained(t=0, member=6, attempt=1, score=1.0, metrics={}, seconds=0.0))
    engine.handle(events.Published(t=0, member=6, attempt=1, size=1, digest=""))
    assert engine.ended is None


def test_a_score_never_reported_is_named() -> None:
    engine = Engine(settings(population=1, generations=1))
    engine.handle(events.Opened(t=0, slots=1, version="v", pid=1))
    engine.handle(events.Suggested(t=0, path="0", generation=0, config=SPACE.sample(random.Random(0)), asked=1))
    commands = engine.handle(events.Trained(t=0, member=0, attempt=1, score=None, metrics={"acc": 1.0}, seconds=0.0))
    assert events.Discard(0) in commands
    assert engine.ended is not None
    assert engine.ended.reason.startswith("the score 'loss' is never reported: member 0 reported 'acc'; call member.")
    assert engine.tree.members[0].reason == "never reported 'loss' (reported: acc)"
    unread = events.Trained(t=0, member=0, attempt=1, score=None, metrics={}, seconds=0.0, unread=3)
    assert engine.selection.unusable(unread).endswith("(3 lines of its metrics file could not be read)")


def test_facts_that_cannot_be_are_refused() -> None:
    engine = Engine(settings())
    engine.handle(events.Opened(t=0, slots=1, version="v", pid=1))
    with pytest.raises(JournalError, match="no such member"):
        engine.handle(events.Published(t=0, member=0, attempt=1, size=0, digest=""))


def grown(**changes: object) -> tuple[Engine, list[events.Command]]:
    """A lineage whose every ask was answered, as often as one was asked; and the commands but Suggest that came."""
    engine, rng = Engine(settings(**changes), ahead=0), random.Random(0)
    rest: list[events.Command] = []
    pending = list(engine.handle(events.Opened(t=0, slots=4, version="v", pid=1)))
    while pending:
        command = pending.pop(0)
        if isinstance(command, events.Suggest) and (generation := generation_asked(engine, command.path)) is not None:
            config, path = SPACE.sample(rng), "/".join(map(str, command.path))
            answer = events.Suggested(t=0, path=path, generation=generation, config=config, asked=engine.count)
            pending += engine.handle(answer)
        elif not isinstance(command, events.Suggest):
            rest.append(command)
    return engine, rest


def test_a_generation_that_was_stopped_altogether_ends_the_run_with_a_reason() -> None:
    engine, _ = grown(population=2, generations=2, attempts=1)
    for member in list(engine.training):
        names = {"t": 1.0, "member": member.id, "attempt": 1, "seconds": 1.0, "metrics": {}}
        engine.handle(events.StoppedEarly(**names, score=1.0))
    assert engine.ended is not None
    assert "no member of generation 0 can be a parent; the first: member 0: stopped early" in engine.ended.reason
    assert Engine(settings()).tree.first_failed(0) is None


class Hand:
    """n = 4, k = 2, one slot, three asked ahead; the elite is one member until all roots have settled, then two.

    Members 0 and 1 have trained, member 2 is in training, and member 1's second child has been asked for: `since` is
    the count of facts then.
    """

    def __init__(self) -> None:
        self.engine = Engine(settings(population=4, generations=2, ratio=1.0, evidence=0.5), ahead=3)
        self.rng = random.Random(0)
        self.engine.handle(events.Opened(t=0, slots=1, version="v", pid=1))
        for root in range(4):
            self.answer((root,), 0)
        self.train(0, 2.0)
        self.train(1, 1.0)
        self.since = self.engine.count
        assert generation_asked(self.engine, (1, 1)) == 1

    def answer(self, path: tuple[int, ...], generation: int, asked: int | None = None) -> object:
        """Answer an ask, by default one read off just now; the config."""
        config, text = SPACE.sample(self.rng), "/".join(map(str, path))
        asked = self.engine.count if asked is None else asked
        self.engine.handle(events.Suggested(t=0, path=text, generation=generation, config=config, asked=asked))
        return config

    def train(self, id: int, loss: float) -> None:
        names = {"t": 0.0, "member": id, "attempt": 1}
        self.engine.handle(events.Trained(**names, score=loss, metrics={}, seconds=1.0))
        self.engine.handle(events.Published(**names, size=1, digest=""))

    def fall_and_rise(self) -> None:
        """Member 2 is better than member 1, whose children are wanted again only when there are two parents."""
        self.train(2, 0.0)
        assert generation_asked(self.engine, (1, 1)) is None
        self.train(3, 5.0)


def test_a_suggestion_that_is_no_longer_wanted_is_forgotten() -> None:
    hand = Hand()
    hand.answer((1, 1), 1)
    hand.fall_and_rise()
    assert generation_asked(hand.engine, (1, 1)) == 1, "kin have settled since: it is asked anew"


def test_an_answer_to_an_ask_that_was_withdrawn_meanwhile_is_not_taken_for_the_new_one() -> None:
    hand = Hand()
    hand.fall_and_rise()
    assert generation_asked(hand.engine, (1, 1)) == 1
    assert not hand.engine.wants((1, 1), 1, hand.since)
    hand.answer((1, 1), 1, asked=hand.since)
    assert generation_asked(hand.engine, (1, 1)) == 1
    hand.answer((1, 1), 1)
    assert generation_asked(hand.engine, (1, 1)) is None


def test_a_member_that_is_lost_again_and_again_fails_in_the_end() -> None:
    engine, _ = grown(population=2, generations=1, attempts=2)
    member = engine.tree.members[0]
    for losses in range(1, 2 * LOST_MOST + 1):
        engine.handle(events.Lost(t=1.0, member=0, attempt=member.attempt, reason="the zygote died"))
        assert member.failures == losses // LOST_MOST
    assert (member.state, member.failures, member.reason) == (State.FAILED, 2, "the zygote died")


def test_only_losses_in_a_row_fail_a_member_and_a_resume_is_none() -> None:
    engine, _ = grown(population=2, generations=1, attempts=5)
    member = engine.tree.members[0]
    for _ in range(LOST_MOST):
        engine.handle(events.Opened(t=0, slots=4, version="v", pid=1))
    for _ in range(LOST_MOST - 1):
        engine.handle(events.Lost(t=1.0, member=0, attempt=member.attempt, reason="the zygote died"))
    assert member.lost_attempts == LOST_MOST - 1, "no process had begun it when the run was resumed"
    assert member.failures == 0
    engine.handle(events.Failed(t=1.0, member=0, attempt=member.attempt, reason="boom"))
    for _ in range(LOST_MOST - 1):
        engine.handle(events.Lost(t=1.0, member=0, attempt=member.attempt, reason="the zygote died"))
    assert (member.failures, member.reason) == (1, "boom")
    engine.handle(events.Lost(t=1.0, member=0, attempt=member.attempt, reason="the zygote died"))
    assert (member.failures, member.reason) == (2, "the zygote died")


def test_one_after_another_an_elder_that_is_being_published_is_what_the_younger_waits_for() -> None:
    engine, _ = grown(population=4, generations=1, schedule="sync")
    (elder,) = engine.training
    assert engine.idle_cause() == "evidence", "its training is what the others wait for"
    engine.handle(events.Trained(t=1.0, member=elder.id, attempt=1, score=1.0, metrics={}, seconds=1.0))
    assert engine.idle_cause() == "checkpoint"
    engine.handle(events.Published(t=1.0, member=elder.id, attempt=1, size=1, digest=""))
    assert engine.idle_cause() == "searcher"


def test_an_elder_being_published_is_not_to_blame_while_another_member_trains() -> None:
    """Two parents with a child each: the barrier waits for the slower one."""
    engine, _ = grown(population=2, generations=3, ratio=0.5, schedule="sync", seed=0)
    rng = random.Random(0)
    for id in (0, 1):
        engine.handle(events.Trained(t=1.0, member=id, attempt=1, score=float(id), metrics={}, seconds=1.0))
        engine.handle(events.Published(t=1.0, member=id, attempt=1, size=1, digest=""))
        if id == 0:
            config = SPACE.sample(rng)
            engine.handle(events.Suggested(t=1.0, path="1", generation=0, config=config, asked=engine.count))
    assert [m.id for m in engine.training] == [2, 3]
    engine.handle(events.Trained(t=2.0, member=2, attempt=1, score=0.0, metrics={}, seconds=1.0))
    assert engine.idle_cause() == "evidence"
    engine.handle(events.Trained(t=3.0, member=3, attempt=1, score=0.0, metrics={}, seconds=1.0))
    assert engine.idle_cause() == "checkpoint"


def test_runs_of_different_seeds_ask_with_different_keys() -> None:
    asks = []
    for seed in (0, 1):
        engine = Engine(settings(seed=seed), ahead=0)
        engine.handle(events.Opened(t=0, slots=1, version="v", pid=1))
        asks.append(engine.ask((0,)))
    assert asks[0].run != asks[1].run


def test_a_suggestion_that_is_ready_is_pending_for_its_sibling() -> None:
    engine = Engine(settings(population=4, generations=1), ahead=2)
    engine.handle(events.Opened(t=0, slots=1, version="v", pid=1))
    rng = random.Random(0)
    for path in ("0", "1"):  # the first is taken by the only slot, the second is ready for it
        answer = events.Suggested(t=0, path=path, generation=0, config=SPACE.sample(rng), asked=engine.count)
        engine.handle(answer)
    assert generation_asked(engine, (2,)) == 0
    assert answer.config in engine.ask((2,)).pending


def test_members_in_publishing_are_the_cause_only_if_they_would_be_evidence_enough() -> None:
    engine, _ = grown(population=4, generations=2, evidence=0.5)
    first, second = engine.training[:2]
    engine.handle(events.Trained(t=1.0, member=first.id, attempt=1, score=1.0, metrics={}, seconds=1.0))
    assert engine.idle_cause() == "evidence", "one of four is no half, published or not"
    engine.handle(events.Trained(t=2.0, member=second.id, attempt=1, score=1.0, metrics={}, seconds=1.0))
    assert engine.idle_cause() == "checkpoint"


def test_with_plus_selection_a_survivor_is_the_best_of_the_generation_it_survived_into() -> None:
    """n = 2, k = 1: root 0 with 1.0 has children with 2.0 and 3.0 and has not been beaten."""
    for selection, best in (("plus", 0), ("comma", 2)):
        engine = Engine(settings(population=2, generations=3, ratio=2.0, selection=selection), ahead=0)
        tree, config = engine.tree, SPACE.sample(random.Random(0))
        for generation, parent, loss in ((0, None, 1.0), (0, None, 5.0), (1, 0, 2.0), (1, 0, 3.0)):
            member = tree.add(generation, None if parent is None else tree.members[parent], config, seed=0)
            member.loss = loss
            tree.settle(member, State.FINISHED)
        found = engine.selection.best_of(1)
        assert found is not None
        assert found.id == best


def test_of_two_as_good_the_elder_generation_comes_first() -> None:
    """With plus selection root (1) and its child (1, 0) compete with (0, 0), which comes before (1) by path alone."""
    engine = Engine(settings(population=2, generations=3, ratio=0.5, selection="plus"), ahead=0)
    tree, config = engine.tree, SPACE.sample(random.Random(0))
    for generation, parent, loss in ((0, None, 2.0), (0, None, 1.0), (1, 0, 1.0), (1, 1, 1.5)):
        member = tree.add(generation, None if parent is None else tree.members[parent], config, seed=0)
        member.loss = loss
        tree.settle(member, State.FINISHED)
    assert tree.best is tree.at((1,))
    assert [m.path for m in tree.rivals(1, plus=True)] == [(1,), (0, 0), (1, 0), (0,)]


@given(drivers())
def test_metrics_are_kept_as_long_as_the_checkpoint(driver: Driver) -> None:
    engine = driver.run()
    told = {f.member: f.metrics for f in driver.facts if isinstance(f, events.Trained)}
    for member in engine.tree.members:
        if member.id in engine.stored:
            assert member.metrics == told[member.id]
        elif member.state is State.FINISHED and not member.damaged:
            assert not member.metrics
    assert engine.best is None or engine.best.metrics == {"loss": engine.best.score}


def test_a_member_takes_no_more_memory_the_deeper_it_is() -> None:
    """It was a kilobyte and more at depth 100, most of it numbers in paths."""

    def grown(generations: int) -> float:
        tree, parent, config = Tree(generations, 50), None, SPACE.sample(random.Random(0))
        tracemalloc.start()
        for generation in range(generations):
            for index in range(50):
                member = tree.add(generation, parent, config, seed=0)
                member.loss = float(index)
                tree.settle(member, State.FINISHED)
            parent = member
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert member.path == (*[49] * generations,)
        assert tree.at(member.path) is member
        return taken / len(tree.members)

    assert grown(100) < 1.1 * grown(20)


def test_entering_without_a_start_is_refused() -> None:
    driver = Driver(settings(), 1, random.Random(0))
    driver.open()
    driver.turn()  # the first root is asked for, and from then on to be started
    with pytest.raises(JournalError, match="was not started"):
        driver.engine.handle(events.Entered(t=1.0, member=0, attempt=1))
