"""The routing document: what it chooses, what changes do to it, and what is refused."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.core.errors import RegistryError
from tfpipe.core.routing import PARTS, Slice, choose, initial, millionths, parts_of, point_of, reshare
from tfpipe.core.routing_changes import (
    Origin,
    give_alias,
    promote,
    rollback,
    split,
    start_canary,
    step_canary,
)
from tfpipe.core.routing_json import from_dict, from_json, to_dict, to_json

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BY = Origin("ada@build", NOON, "because")
VERSIONS = ("1", "2", "3", "4")


def shares_of(weights):
    total = sum(weights.values())
    return {version: weight / total for version, weight in weights.items()}


all_shares = st.dictionaries(st.sampled_from(VERSIONS), st.integers(1, 1000), min_size=1).map(shares_of)


def change(routing, kind, version, shares):
    """One change, whatever it is; the document itself where it is refused."""
    try:
        if kind == "promote":
            return promote(routing, version, BY)
        if kind == "split":
            return split(routing, shares, BY, shadow="" if version in shares else version)
        if kind == "canary":
            return start_canary(routing, version, [0.01, 0.5], BY)
        if kind == "step":
            return step_canary(routing, BY, evidence={"a": [1]})
        if kind == "alias":
            return give_alias(routing, "next", version, BY)
        return rollback(routing, BY, None if kind == "back" else version)
    except RegistryError:
        return routing


kinds = st.sampled_from(["promote", "split", "canary", "step", "alias", "back", "back to"])
changes = st.lists(st.tuples(kinds, st.sampled_from(VERSIONS), all_shares), max_size=12)
documents = changes.map(lambda steps: reduce(lambda routing, step: change(routing, *step), steps, initial("m", "1")))


# Feature: deep-learning-pipeline, Property 25: A/B distribution
@settings(max_examples=100, deadline=None)
@given(shares=all_shares, before=documents, salt=st.text(max_size=5), seed=st.integers(0, 2**32 - 1))
def test_traffic_converges_to_the_configured_ratio(shares, before, salt, seed):
    routing = replace(split(replace(before, withdrawn=(), shadow=None, fallback=None), shares, BY), salt=salt)
    number = 4_000
    chance = np.random.default_rng(seed).random(number)

    by_chance = Counter(choose(routing, point)[0] for point in chance)
    by_key = Counter(choose(routing, point_of(f"user-{seed}-{index}", routing.salt))[0] for index in range(number))

    for counted in (by_chance, by_key):
        assert set(counted) <= set(shares)
        for version, share in shares.items():
            # Six standard deviations: one of many millions of examples.
            assert abs(counted[version] / number - share) <= 6 * (share * (1 - share) / number) ** 0.5 + 1e-4


@settings(deadline=None)
@given(before=documents, shares=all_shares, points=st.lists(st.integers(0, PARTS - 1), max_size=50))
def test_a_key_moves_only_from_a_version_that_lost(before, shares, points):
    routing = replace(before, withdrawn=(), shadow=None, fallback=None)
    old, wanted = parts_of(routing.slices), millionths(shares, where="test")

    after = split(routing, shares, BY)

    assert parts_of(after.slices) == wanted
    for position in points:
        point = (position + 0.5) / PARTS
        version = choose(routing, point)[0]
        if wanted.get(version, 0) >= old[version]:
            assert choose(after, point)[0] == version


@settings(deadline=None)
@given(before=documents, shares=all_shares)
def test_no_more_keys_move_than_must(before, shares):
    routing = replace(before, withdrawn=(), shadow=None, fallback=None)
    old, wanted = parts_of(routing.slices), millionths(shares, where="test")

    after = reshare(routing.slices, wanted)

    edges = sorted({one.end for one in (*routing.slices, *after)})
    moved = sum(
        end - start
        for start, end in zip([0, *edges], edges, strict=False)
        if choose(routing, (start + 0.5) / PARTS)[0] != choose(replace(routing, slices=after), (start + 0.5) / PARTS)[0]
    )
    assert moved == sum(max(parts - wanted.get(version, 0), 0) for version, parts in old.items())


@settings(deadline=None)
@given(documents)
def test_json_gives_the_document_back(routing):
    assert from_json(to_json(routing), where="test") == routing
    assert from_dict(to_dict(routing), where="test") == routing


@settings(deadline=None)
@given(before=documents, steps=changes, target=st.none() | st.sampled_from(VERSIONS))
def test_after_a_rollback_nothing_leads_to_the_versions_left_until_they_are_promoted(before, steps, target):
    try:
        routing = rollback(before, BY, target)
    except RegistryError:
        return
    left = set(before.shares) - set(routing.shares)

    assert len(routing.shares) == 1
    assert left
    assert left <= set(routing.withdrawn)
    for step in steps:
        if step[0] == "promote":
            continue
        routing = change(routing, *step)
        assert not left & {*routing.needed, routing.standby}


@settings(deadline=None)
@given(documents)
def test_a_document_never_uses_what_is_withdrawn(routing):
    assert not set(routing.needed) & set(routing.withdrawn)
    assert routing.standby not in routing.withdrawn
    assert abs(sum(routing.shares.values()) - 1) < 1e-9


def test_a_key_has_its_place_for_ever():
    assert point_of("ada", "digits") == pytest.approx(0.6638804, abs=1e-7)
    assert point_of("ada", "digits") != point_of("ada", "moods")
    assert 0 <= point_of("\ud800", "") < 1


def test_revisions_count_and_name_what_they_follow():
    first = replace(promote(initial("m", "1"), "2", BY), id="a")

    second = split(first, {"2": 0.9, "1": 0.1}, Origin("bob", NOON - timedelta(hours=1), "try"), fallback="1")

    assert (first.revision, first.parent, first.what) == (1, "", "promote 2")
    assert (second.revision, second.parent, second.id) == (2, "a", "")
    assert (second.who, second.why, second.what) == ("bob", "try", "split 90 % 2, 10 % 1; fallback 1")
    # A clock that is behind does not turn the ledger's order round.
    assert second.when == first.when == "2026-01-01T12:00:00.000+00:00"


def test_a_rollback_goes_to_the_version_promoted_before_and_then_further():
    routing = promote(promote(initial("m", "1"), "2", BY), "3", BY)

    once = rollback(routing, BY)
    twice = rollback(once, BY)

    assert (once.shares, once.withdrawn, once.champion) == ({"2": 1.0}, ("3",), "2")
    assert (twice.shares, twice.withdrawn, twice.standby) == ({"1": 1.0}, ("3", "2"), None)
    with pytest.raises(RegistryError, match="expected a version that was promoted before 1, found none"):
        rollback(twice, BY)


def test_a_rollback_during_a_split_keeps_the_champion():
    routing = start_canary(promote(initial("m", "1"), "2", BY), "3", [0.1], BY)

    back = rollback(routing, BY)

    assert (back.shares, back.withdrawn, back.canary) == ({"2": 1.0}, ("3",), None)


def test_what_was_rolled_back_from_is_refused_until_it_is_promoted():
    routing = rollback(promote(initial("m", "1"), "2", BY), BY)

    for attempt in (
        lambda: split(routing, {"1": 0.5, "2": 0.5}, BY),
        lambda: split(routing, {"1": 1.0}, BY, shadow="2"),
        lambda: start_canary(routing, "2", [0.1], BY),
        lambda: give_alias(routing, "next", "2", BY),
        lambda: rollback(routing, BY, "2"),
    ):
        with pytest.raises(RegistryError, match="version 2 was rolled back from; promote it"):
            attempt()
    assert promote(routing, "2", BY).withdrawn == ()


def test_a_canary_takes_its_shares_from_the_others_and_is_promoted_in_the_end():
    routing = split(initial("m", "1"), {"1": 0.75, "2": 0.25}, BY)

    first = start_canary(routing, "3", [0.04, 0.2], BY, limits={"alpha": 0.05})
    second = step_canary(first, BY, evidence={"3": {"requests": 10}})

    assert first.shares == {"1": 0.72, "2": 0.24, "3": 0.04}
    assert second.shares == {"1": 0.6, "3": 0.2, "2": 0.2}
    assert second.canary.evidence == {"3": {"requests": 10}}
    assert (first.canary.baseline, first.what, second.what) == ("1", "canary 3 at 4 %", "canary 3 at 20 %")
    with pytest.raises(RegistryError, match="expected one that has a step to go, found one at its last step"):
        step_canary(second, BY, evidence={})
    assert {choose(second, point / 1000) for point in range(1000)} == {
        ("1", "champion"), ("2", "split"), ("3", "canary"),
    }  # fmt: skip


@pytest.mark.parametrize("steps", [[], [0.5, 0.5], [0.0, 0.5], [0.5, 1.0], [0.5, 0.1]])
def test_steps_of_a_canary_grow(steps):
    with pytest.raises(RegistryError, match="expected steps that grow between 0 and 1"):
        start_canary(initial("m", "1"), "2", steps, BY)


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ({}, "expected shares from 0.000001 to 1"),
        ({"1": 0.5}, "which sum to 0.5"),
        ({"1": 1.5, "2": -0.5}, "expected shares from 0.000001 to 1, received {'1': 1.5, '2': -0.5}"),
        ({"1": float("nan"), "2": 1.0}, "expected shares from"),
    ],
)
def test_shares_sum_to_one(shares, sentence):
    with pytest.raises(RegistryError, match=sentence):
        split(initial("m", "1"), shares, BY)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("format", 2, "format: expected 1, received 2. Update tfpipe."),
        ("sticky", "cookie", "sticky: expected key or random, received 'cookie'."),
        ("shares", {"1": 0.5, "2": 0.5}, "shares: expected what slices say"),
        ("slices", [["1", 10]], "slices: expected the last to end at 1000000, received 10."),
        ("slices", [["1", 5], ["2", 5]], "slices: expected ends that grow, received 5 after 5."),
        ("slices", [["1"]], "slices: expected pairs of a version and an end"),
        ("withdrawn", ["1"], "expected no use of version 1, which is withdrawn."),
        ("revision", -1, "revision: expected a whole number from 0, received -1."),
        ("when", "noon", "when: expected a time of ISO 8601 with its zone, received 'noon'."),
        ("who", 3, "who: expected a string, received 3."),
        ("fallback", "", "fallback: expected a version, received ''."),
        ("canary", {"version": "2"}, "canary: expected the keys"),
    ],
)
def test_a_document_that_is_wrong_says_where(key, value, sentence):
    values = {**to_dict(initial("m", "1")), key: value}

    with pytest.raises(RegistryError) as caught:
        from_dict(values, where="routing of 'm'")

    assert str(caught.value).startswith("routing of 'm': ")
    assert sentence in str(caught.value)


def test_what_is_no_document_is_refused():
    with pytest.raises(RegistryError, match="received no JSON"):
        from_json("{", where="here")
    with pytest.raises(RegistryError, match="unknown: colour, missing: none"):
        from_dict({**to_dict(initial("m", "1")), "colour": 1}, where="here")
    with pytest.raises(RegistryError, match="expected an object, received 3"):
        from_json(json.dumps(3), where="here")


def test_words_are_limited_and_times_have_zones():
    with pytest.raises(RegistryError, match="why: expected at most 1000 characters, received 1001"):
        Origin("ada", NOON, "x" * 1001)
    with pytest.raises(RegistryError, match="expected a time with its zone"):
        Origin("ada", datetime(2026, 1, 1))


def test_the_last_slice_holds_the_end():
    routing = replace(initial("m", "1"), slices=(Slice("1", 1), Slice("2", PARTS)))

    assert choose(routing, 0.0)[0] == "1"
    assert choose(routing, 1 - 2**-53)[0] == "2"
