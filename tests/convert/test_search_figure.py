import pytest

from tests.convert.test_trial import ALL, INT8, trial
from tfpipe.convert.search_figure import search_figure
from tfpipe.convert.trial import choose, why_not
from tfpipe.figure_style import svg_uri


def drawn(trials):
    chosen = choose(trials)
    return search_figure([(one, why_not(one, chosen)) for one in trials])


def points_of(figure):
    return [tuple(group.get_offsets()[0]) for group in figure.axes[0].collections if len(group.get_offsets())]


def test_every_measured_trial_is_a_point_and_the_chosen_one_stands_out():
    figure = drawn(ALL)

    measured = [one for one in ALL if one.figures is not None]
    assert points_of(figure) == [(one.p50_ms, one.score) for one in measured]
    sizes = [group.get_sizes()[0] for group in figure.axes[0].collections if len(group.get_offsets())]
    assert sizes.index(max(sizes)) == measured.index(INT8)
    assert [text.get_text() for text in figure.axes[0].texts] == [one.contender.title for one in measured]


def test_the_front_joins_what_passed_and_nothing_beats():
    (front, _) = drawn(ALL).axes[0].lines

    assert list(zip(*front.get_data(), strict=True)) == [(3.0, 0.98)]


@pytest.mark.parametrize("trials", [[trial("fp32", 1.0)], [trial("fp32", 1.0, problem="$broken")]])
def test_a_search_of_one_trial_is_drawn_too(trials):
    assert svg_uri(drawn(trials)).startswith("data:image/svg+xml;base64,")
