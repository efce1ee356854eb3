"""A run that is looked at while it trains: Prometheus, a profile, its own figures."""

import re
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest

from tests.stores import is_untouched
from tests.training.small_runs import small_config, write_class_folders
from tfpipe.core.errors import ConfigError
from tfpipe.store import MlflowClient
from tfpipe.train import train
from tfpipe.training.checkpoints import load

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

NAMES = (
    "tfpipe_train_step", "tfpipe_train_epoch", "tfpipe_train_loss", "tfpipe_train_samples_per_second",
    "tfpipe_train_gradient_norm", "tfpipe_train_last_step_timestamp_seconds",
)  # fmt: skip


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return answer.read().decode()


def value(page, name):
    found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else None


class Scraper(threading.Thread):
    """Asks as Prometheus does, only more often."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self._port, self._end = port, threading.Event()
        self.pages = []

    def run(self):
        while not self._end.wait(0.02):
            try:
                self.pages.append((time.time(), scrape(self._port)))
            except OSError:
                continue

    def stop(self):
        self._end.set()
        self.join(timeout=30)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory, data):
    """A finished run with the pages that it served."""
    root, port = tmp_path_factory.mktemp("watched"), free_port()
    config = small_config(root, data, epochs=8, metrics_port=port, precision="mixed_float16", allow_slow_precision=True)
    scraper = Scraper(port)
    scraper.start()
    try:
        result = train(config, profile=True)
    finally:
        scraper.stop()
    newest = max((result.output_dir / "checkpoints").glob("step-*"))
    return config, result, scraper.pages, load(newest)[1].history


def test_prometheus_sees_the_steps_while_they_are_taken(watched):
    _, _, pages, _ = watched

    steps = [value(page, "tfpipe_train_step") for _, page in pages]
    assert steps == sorted(steps)
    assert len(set(steps)) > 1
    asked_s, last = pages[-1]
    assert all(value(last, name) is not None for name in NAMES)
    assert 0 <= asked_s - value(last, "tfpipe_train_last_step_timestamp_seconds") < 300
    assert value(last, "tfpipe_train_samples_per_second") > 0
    assert value(last, 'tfpipe_train_communication_ratio{rank="0"}') == 0


def test_the_server_ends_with_the_run(watched):
    config, *_ = watched

    with pytest.raises(urllib.error.URLError, match="refused"):
        scrape(config.training.metrics_port)


def test_every_epoch_has_its_figures_also_in_mlflow(watched):
    config, result, _, history = watched
    names = {
        "input_share", "compute_share", "communication_share", "other_share", "gradient_norm", "gradient_norm_max",
        "gradient_norm_p95", "loss_scale", "skipped_steps", "memory_peak_bytes",
    }  # fmt: skip

    for metrics in history:
        assert names <= metrics.keys()
        assert metrics["gradient_norm"] <= metrics["gradient_norm_max"]
        assert 0 < metrics["loss_scale"] <= 2.0**15 * 2
        assert 0 <= metrics["skipped_steps"] <= 3
        # A process with TensorFlow in it, on a machine that is none of the largest.
        assert 2e8 < metrics["memory_peak_bytes"] < 1e12
    recorded = MlflowClient(config.tracking.uri).get_run(result.run_id).data.metrics
    assert {name: recorded[name] for name in names} == {name: history[-1][name] for name in names}


def test_a_profile_of_some_steps_is_written(watched):
    _, result, *_ = watched

    (profile,) = (result.output_dir / "profile").glob("plugins/profile/*/*.xplane.pb")

    # The compiled step is in it.
    assert b"Adam" in profile.read_bytes() or b"MatMul" in profile.read_bytes()


def test_the_report_shows_where_the_time_went(watched):
    _, result, *_ = watched

    page = (result.output_dir / "report.html").read_text()

    assert "Where the time went" in page
    assert "<tr><th>peak memory</th>" in page


def test_a_port_that_is_taken_is_told_before_training(tmp_path, data):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        with pytest.raises(ConfigError, match=rf"training.metrics_port: expected a free port .* but {port} cannot be"):
            train(small_config(tmp_path, data, metrics_port=port))

    assert not (tmp_path / "run" / "checkpoints").exists()
    assert is_untouched(tmp_path)


def test_a_timeline_of_one_worker_is_refused(tmp_path, data):
    with pytest.raises(ConfigError, match=r"training.timeline: expected several workers, received one"):
        train(small_config(tmp_path, data, timeline=str(tmp_path / "timeline.json")))
