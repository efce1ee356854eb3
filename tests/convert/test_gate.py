import math

import pytest

from tfpipe.convert.gate import Figures, missed_limits, score_drop

FP32 = Figures("fp32", size_bytes=4_000_000, weight_bytes=3_900_000, score=0.98)


def judged(precision="int8", *, size=1_100_000, weights=1_000_000, score=0.975, fp32=FP32, limit=0.02):
    return missed_limits(Figures(precision, size, weights, score), fp32, max_metric_drop=limit)


def test_a_variant_within_every_limit_passes():
    assert judged() == []
    assert judged("fp16", size=2_030_000, weights=1_950_000) == []


def test_fp32_is_what_others_are_judged_by():
    assert missed_limits(FP32, FP32, max_metric_drop=0.0) == []


def test_lost_accuracy_fails_with_both_numbers_and_the_limit():
    assert judged(score=0.9599) == ["accuracy: expected at most 2.00% below fp32's 98.00%, received 95.99%."]


def test_a_loss_of_just_the_limit_passes_whatever_its_last_bit():
    assert judged(score=0.96) == []


def test_gained_accuracy_passes():
    assert judged(score=1.0, limit=0.0) == []


def test_an_accuracy_that_is_not_a_number_fails():
    assert len(judged(score=math.nan)) == 1


def test_a_model_without_validation_data_is_judged_by_size_alone():
    without = Figures("fp32", 4_000_000, 3_900_000, None)

    assert judged(score=None, fp32=without) == []
    assert score_drop(Figures("int8", 1, 1, None), without) is None


def test_weights_that_do_not_halve_fail_with_their_share():
    assert judged(weights=1_951_000) == ["weights: expected at most 50% of fp32's bytes, received 50.0%."]


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.51), ("int8", 0.50)])
def test_the_file_of_a_model_of_a_megabyte_must_shrink(precision, limit):
    assert judged(precision, size=int(4_000_000 * limit)) == []
    assert judged(precision, size=int(4_000_000 * (limit + 0.01))) == [
        f"file: expected at most {limit:.0%} of fp32's size, received {limit + 0.01:.1%}."
    ]


def test_the_file_of_a_smaller_model_need_not_shrink_as_names_weigh_more_than_weights():
    small = Figures("fp32", size_bytes=999_999, weight_bytes=3_900_000, score=0.98)

    assert judged(size=900_000, fp32=small) == []


def test_every_missed_limit_is_told():
    assert [text.split(":")[0] for text in judged(size=3_000_000, weights=2_500_000, score=0.5)] == [
        "accuracy", "weights", "file",
    ]  # fmt: skip


def test_answers_that_depend_on_their_neighbours_by_more_than_the_tolerance_fail():
    apart = [
        missed_limits(Figures("int8", 1_100_000, 1_000_000, 0.975, neighbours=value), FP32, max_metric_drop=0.02)
        for value in (0.02, 0.035, math.nan)
    ]

    assert [len(missed) for missed in apart] == [0, 1, 1]
    assert apart[1] == ["neighbours: expected a row's answer in a batch within 0.02 of that alone, received 0.035."]
