import math

import pytest

from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert.gate import Figures, Recall, missed_limits, score_drop

FP32 = Figures("fp32", size_bytes=4_000_000, weight_bytes=3_900_000, score=0.98)


def judged(precision="int8", *, size=1_100_000, weights=1_000_000, score=0.975, fp32=FP32, limit=0.02):
    return missed_limits(Figures(precision, size, weights, score), fp32, ConversionConfig(max_metric_drop=limit))


def test_a_variant_within_every_limit_passes():
    assert judged() == []
    assert judged("fp16", size=2_030_000, weights=1_950_000) == []


def test_fp32_is_what_others_are_judged_by():
    assert missed_limits(FP32, FP32, ConversionConfig(max_metric_drop=0.0)) == []


def test_lost_accuracy_fails_with_both_numbers_and_the_limit():
    (sentence,) = judged(score=0.9599)

    assert sentence.startswith("accuracy: expected at most 2.00% below fp32's 98.00%, received 95.99%. Try --search")


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
    (sentence,) = judged(weights=1_951_000)

    assert sentence.startswith("weights: expected at most 50% of fp32's bytes, received 50.0%.")


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.51), ("int8", 0.50)])
def test_the_file_of_a_model_of_a_megabyte_must_shrink(precision, limit):
    assert judged(precision, size=int(4_000_000 * limit)) == []
    (sentence,) = judged(precision, size=int(4_000_000 * (limit + 0.01)))

    assert sentence.startswith(f"file: expected at most {limit:.0%} of fp32's size, received {limit + 0.01:.1%}.")


def test_the_file_of_a_smaller_model_need_not_shrink_as_names_weigh_more_than_weights():
    small = Figures("fp32", size_bytes=999_999, weight_bytes=3_900_000, score=0.98)

    assert judged(size=900_000, fp32=small) == []


def test_every_missed_limit_is_told():
    assert [text.split(":")[0] for text in judged(size=3_000_000, weights=2_500_000, score=0.5)] == [
        "accuracy", "weights", "file",
    ]  # fmt: skip


def test_answers_that_depend_on_their_neighbours_by_more_than_the_tolerance_fail():
    apart = [
        missed_limits(Figures("int8", 1_100_000, 1_000_000, 0.975, neighbours=value), FP32, ConversionConfig())
        for value in (0.02, 0.035, math.nan)
    ]

    assert [len(missed) for missed in apart] == [0, 1, 1]
    assert apart[1][0].startswith("neighbours: expected a row's answer in a batch within 0.02 of that alone")


FOUND = {"common": Recall(980, 1000), "rare": Recall(4, 4)}


def of_classes(recalls, **limits):
    fp32 = Figures("fp32", 4_000_000, 3_900_000, 0.98, recalls=FOUND)
    int8 = Figures("int8", 1_100_000, 1_000_000, 0.978, recalls=recalls)
    return missed_limits(int8, fp32, ConversionConfig(**limits))


def test_a_rare_class_cannot_vanish_behind_a_good_score():
    (sentence,) = of_classes({"common": Recall(981, 1000), "rare": Recall(0, 4)})

    assert sentence.startswith("classes: expected at most 20% of each class's recall to be lost and none to vanish")
    assert "rare 100.0% -> 0.0% of 4" in sentence


def test_one_sample_of_a_rare_class_is_chance():
    assert of_classes({"common": Recall(980, 1000), "rare": Recall(3, 4)}) == []


def test_a_common_class_may_lose_no_more_than_its_limit():
    assert of_classes({"common": Recall(800, 1000), "rare": Recall(4, 4)}) == []
    assert "common 98.0% -> 75.0% of 1000" in of_classes({"common": Recall(750, 1000), "rare": Recall(4, 4)})[0]


def test_class_checks_can_be_turned_off():
    assert of_classes({"common": Recall(0, 1000), "rare": Recall(0, 4)}, max_class_drop=1.0) == []


def timed(p50_ms, p95_ms, *, precision="int8", **limits):
    fp32 = Figures("fp32", 4_000_000, 3_900_000, 0.98, p50_ms=10.0, p95_ms=12.0)
    variant = Figures(precision, 1_100_000, 1_000_000, 0.98, p50_ms=p50_ms, p95_ms=p95_ms)
    return missed_limits(variant, fp32, ConversionConfig(**limits))


def test_speed_is_no_limit_unless_one_is_asked_for():
    assert timed(20.0, 30.0) == []


def test_a_slow_variant_misses_the_limits_that_were_asked_for():
    assert timed(4.0, 5.0, max_p95_ms=5.0, min_speedup=2.5) == []
    latency, speed = timed(5.0, 5.1, max_p95_ms=5.0, min_speedup=2.5)

    assert "expected a 95th percentile of at most 5 ms for one row, received 5.1 ms" in latency
    assert "expected at least 2.5 times fp32's, received 2.00 times" in speed


def test_fp32_has_a_latency_limit_too():
    assert len(timed(10.0, 12.0, precision="fp32", max_p95_ms=11.0)) == 1


def test_the_least_saving_can_be_asked_for():
    assert judged(size=1_900_000, weights=1_900_000) == []
    smaller = ConversionConfig(min_size_reduction=0.7)
    variant = Figures("int8", 1_900_000, 1_900_000, 0.98)

    assert len(missed_limits(variant, FP32, smaller)) == 2
