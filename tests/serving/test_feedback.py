"""What is remembered of answers, and for how long."""

from hypothesis import given
from hypothesis import strategies as st

from serving.feedback import Given, Lately
from tests.serving.clocks import FakeClock
from tests.serving.servers import app_of, serving

RED = Given("colours", "1", "red")


def test_an_answer_is_given_out_once():
    lately = Lately(60.0, clock=FakeClock())
    lately.keep("a", RED)

    assert (lately.take("a"), lately.take("a"), lately.take("b")) == (RED, None, None)


@given(st.lists(st.floats(0, 100), max_size=30), st.floats(0, 59.9))
def test_an_answer_is_kept_for_its_time_whatever_comes_after(pauses, late):
    clock = FakeClock()
    lately = Lately(60.0, clock=clock)
    for index, pause in enumerate(pauses):
        clock.now_s += pause
        lately.keep(str(index), RED)
    lately.keep("last", RED)
    for index in range(100):
        lately.keep(f"more {index}", RED)

    clock.now_s += late

    assert lately.take("last") == RED


def test_an_answer_is_gone_after_twice_its_time():
    clock = FakeClock()
    lately = Lately(60.0, clock=clock)
    lately.keep("a", RED)
    clock.now_s += 120.0

    assert lately.take("a") is None


def test_there_are_never_more_than_sixteen_thousand():
    lately = Lately(60.0, clock=FakeClock())
    for index in range(40_000):
        lately.keep(str(index), RED)

    kept = [index for index in range(40_000) if lately.take(str(index)) is not None]

    assert 8_192 <= len(kept) <= 16_384
    assert kept[-1] == 39_999


def test_feedback_on_several_labels_is_all_of_them(multi_label_bundle):
    with serving(app_of(multi_label_bundle)) as running:
        client = running.client

        def ask():
            answer = client.post("/predict", json={"text": "a fine day"}).json()
            return answer["request_id"], [one["label"] for one in answer["predictions"][0]["labels"]]

        (first, labels), (second, _) = ask(), ask()
        other_kind = client.post("/feedback", json={"request_id": first, "label": "x"})
        right = client.post("/feedback", json={"request_id": first, "labels": [*reversed(labels), *labels]})
        wrong = client.post("/feedback", json={"request_id": second, "labels": [*labels, "another"]})

    assert other_kind.status_code == 400
    assert "expected 'labels', as the request was answered with" in other_kind.json()["error"]["message"]
    assert (right.status_code, right.json()["correct"], wrong.json()["correct"]) == (202, True, False)
