"""Buckets: which failures are the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cpusim.failures import Bucket, Field, failures
from cpusim.isa import ACC, IR, PC
from cpusim.lockstep import END, END_TOKEN, Bytes, Tokens, compare
from tests.cpusim.planted import NOTHING, Fault, Planted, place, results

A, B, C = map(place, (1, 2, 3))
PROGRAM = "ADD A B\nSWAP C\nHLT\n"  # steps 1 to 4, the last is the end


def changed(step: int, *fields: int, to: int | None = None) -> Fault:
    def fault(_: Bytes, states: Bytes, said: Tokens) -> Tokens | None:
        if len(states) != step:
            return None
        said[list(fields)] = said[list(fields)] ^ 1 if to is None else to
        return said

    return fault


def says(step: int, tokens: Tokens) -> Fault:
    return lambda _, states, __: tokens.copy() if len(states) == step else None


@pytest.mark.parametrize(
    ("fault", "bucket"),
    [
        (changed(2, A), Bucket("ADD R R", Field.TARGET)),
        (changed(2, B), Bucket("ADD R R", Field.OTHER)),
        (changed(2, ACC), Bucket("ADD R R", Field.ACC)),
        (changed(2, ACC, B, A), Bucket("ADD R R", Field.TARGET)),
        (changed(2, ACC, B), Bucket("ADD R R", Field.ACC)),
        (changed(3, C), Bucket("SWAP R", Field.TARGET)),
        (changed(3, C, ACC), Bucket("SWAP R", Field.ACC)),
        (changed(3, A), Bucket("SWAP R", Field.OTHER)),
        (changed(2, PC), Bucket("fetch", Field.PC)),
        (changed(2, IR + 2), Bucket("fetch", Field.IR)),
        (changed(2, IR, PC), Bucket("fetch", Field.PC)),
        (changed(2, IR, B), Bucket("ADD R R", Field.OTHER)),
        (changed(2, A, to=END_TOKEN), Bucket("fetch", Field.END)),
        (changed(1, A), Bucket("fetch", Field.OTHER)),
        (changed(1, ACC), Bucket("fetch", Field.ACC)),
        (says(2, END), Bucket("fetch", Field.END)),
        (says(2, NOTHING), Bucket("ADD R R", Field.NOTHING)),
        (changed(4, A, to=7), Bucket("HLT", Field.END)),
        (says(4, np.zeros(16, np.int16)), Bucket("HLT", Field.END)),
        (says(4, NOTHING), Bucket("HLT", Field.NOTHING)),
    ],
)
def test_a_wrong_step_is_in_the_bucket_of_its_first_mistake(fault: Fault, bucket: Bucket) -> None:
    (result,) = results([(PROGRAM, range(1, 12))], Planted((fault,)))
    (failure,) = failures(result)
    assert failure.bucket == bucket
    assert failure.free_running


def test_only_the_first_wrong_step_of_a_program_is_one_when_running_free() -> None:
    faulty = Planted((changed(2, A), changed(3, C), changed(4, A, to=7)))
    (result,) = results([(PROGRAM, range(1, 12))], faulty)
    found = failures(result)
    assert [(failure.step, failure.free_running) for failure in found] == [
        (2, True),
        (3, False),
        (4, False),
    ]
    assert [str(failure.bucket) for failure in found] == [
        "ADD R R, target register",
        "SWAP R, target register",
        "HLT, END",
    ]
    assert found[1].predicted.tolist() != found[1].expected.tolist()


def test_a_failure_is_the_same_where_the_steps_before_it_were_not_checked() -> None:
    faulty = Planted((changed(2, A), changed(3, C)))
    (result,) = results([(PROGRAM, range(1, 12))], faulty)
    _, whole = failures(result)
    (later,) = compare([result.case], faulty, from_step=3).results
    (found,) = failures(replace(later, difference=None))
    assert (found.step, found.bucket) == (whole.step, whole.bucket)
    assert found.predicted.tolist() == whole.predicted.tolist()


def test_failures_of_the_same_way_share_bucket_saturation_and_a_second_operand_of_zero() -> None:
    def ways(*programs: tuple[str, list[int]]) -> list[object]:
        found = [failures(result) for result in results(programs, Planted((changed(2, ACC, A),)))]
        return [failure.way for (failure,) in found]

    plain, small, large, zero, nothing, swapped = ways(
        ("DIV B\nHLT", [200, 0, 3]),
        ("DIV C\nHLT", [9, 0, 0, 2]),
        ("DIV B\nHLT", [255, 0, 1]),
        ("DIV B\nHLT", [9, 0, 0]),
        ("DIV B\nHLT", [2, 0, 3]),
        ("SWAP B\nHLT", [2, 0, 3]),
    )
    assert plain == small
    assert large == nothing
    assert len({plain, large, zero, swapped}) == 4
    assert len({*ways(("SWAP B\nHLT", [255, 0, 0]), ("SWAP C\nHLT", [1, 0, 0, 4])), swapped}) == 1
