import asyncio
import math

import pytest

from serving.app import create_app
from serving.golden_watch import PERIOD_S, replay_when_idle
from serving.settings import ServingSettings
from tests.serving.bundles import make_bundle


class Day:
    """Time that passes when somebody sleeps, and what happens in it."""

    def __init__(self, *, busy_until_s: float = 0.0, fails: int = 0, ends_s: float = 200.0) -> None:
        self.now_s, self.replays_s = 0.0, list[float]()
        self._busy_until_s, self._fails, self._ends_s = busy_until_s, fails, ends_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.now_s > self._ends_s:
            raise asyncio.CancelledError

    def is_idle(self) -> bool:
        return self.now_s >= self._busy_until_s

    async def replay(self) -> None:
        self.replays_s.append(self.now_s)
        if len(self.replays_s) <= self._fails:
            raise ZeroDivisionError("broken")

    async def pass_by(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            await replay_when_idle(self.replay, self.is_idle, sleep=self.sleep)


async def test_an_idle_service_replays_once_a_minute():
    day = Day()

    await day.pass_by()

    assert day.replays_s == [PERIOD_S, 2 * PERIOD_S, 3 * PERIOD_S]


async def test_a_busy_service_waits_until_nobody_asks():
    day = Day(busy_until_s=90.5)

    await day.pass_by()

    assert day.replays_s == [91.0, 151.0]


async def test_a_version_that_fails_does_not_keep_the_others_from_being_replayed(tmp_path):
    folders = [make_bundle(tmp_path / version, version=version) for version in "12"]
    app = create_app(ServingSettings(model=",".join(map(str, folders)), isolation="inline", threads=1))
    await app.service.load()
    (folders[0] / "golden" / "answers.json").write_text("changed since it was loaded")
    app.service.metrics.record_golden(model="colours", version="2", max_abs_diff=math.inf)

    with pytest.raises(ExceptionGroup) as raised:
        await app.service.replay_golden()

    text = app.service.metrics.exposition().decode()
    assert len(raised.value.exceptions) == 1
    assert 'tfpipe_golden_max_abs_diff{model="colours",version="1"} +Inf' in text
    assert 'tfpipe_golden_max_abs_diff{model="colours",version="2"} +Inf' not in text
    app.service.close()


async def test_a_replay_that_fails_is_logged_and_tried_again(caplog):
    day = Day(fails=1)

    await day.pass_by()

    assert len(day.replays_s) == 3
    assert [record.getMessage() for record in caplog.records] == ["golden samples could not be replayed"]
