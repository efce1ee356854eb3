"""`tfpipe bench` as it is called."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.bench.http_servers import HEALTH, Answering, answering
from tests.serving.bundles import RED, make_bundle
from tests.serving.servers import app_of, serving
from tfpipe.bench.__main__ import main

SHORT = ["--duration", "0.6", "--warm-up", "0.1"]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(app_of(make_bundle(tmp_path_factory.mktemp("bundles") / "colours"))) as running:
        yield f"http://127.0.0.1:{running.port}"


def test_a_real_service_is_measured_and_counts_agree_with_its_own(service, capsys, tmp_path):
    code = main([service, *SHORT, "--connections", "4", "--output", str(tmp_path)])

    assert code == 0
    found = json.loads((tmp_path / "report.json").read_text())
    (target,) = found["targets"]
    assert target["model"] == "colours"
    assert target["outcomes"] == {"200": target["sent"]}
    assert target["latency_ms"]["p50"]["low"] <= target["latency_ms"]["p50"]["value"]
    assert target["throughput_rps"]["value"] > 0
    page = (tmp_path / "report.html").read_text()
    # One file that opens without a network.
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert f"{target['sent']:,}" in page
    assert "A closed loop" in capsys.readouterr().out


@pytest.mark.parametrize("protocol", ["v2", "v2-binary", "tfserving"])
def test_a_real_service_answers_every_protocol(service, tmp_path, protocol):
    code = main([service, *SHORT, "--protocol", protocol, "--output", str(tmp_path)])

    (target,) = json.loads((tmp_path / "report.json").read_text())["targets"]
    assert code == 0
    assert target["outcomes"] == {"200": target["sent"]}


def test_an_open_loop_sends_about_the_rate_asked_for(service, tmp_path):
    code = main([service, "--rate", "40", "--duration", "2", "--warm-up", "0", "--output", str(tmp_path)])

    (target,) = json.loads((tmp_path / "report.json").read_text())["targets"]
    assert code == 0
    # Six standard deviations of a Poisson number of 80.
    assert abs(target["sent"] - 80) < 54
    assert target["generator"]["lag_p99_ms"] is not None


def test_a_closed_loop_goes_over_from_its_warm_up_into_what_counts(tmp_path):
    slow = Answering({"/health": HEALTH}, lambda number, second: (200, b"{}", 0.4))
    with answering(slow) as server:
        loop = ["--connections", "2", "--duration", "0.7", "--warm-up", "0.7"]
        code = main([server.url, *loop, "--output", str(tmp_path)])

    (target,) = json.loads((tmp_path / "report.json").read_text())["targets"]
    assert code == 0
    # Answers come after 0.8 and 1.2 s, and those under way at the end, after 1.6 s.
    assert target["throughput_rps"]["value"] * 0.7 == pytest.approx(4)


def test_pictures_of_ones_own_are_sent(tmp_path):
    (tmp_path / "red.png").write_bytes(RED)
    with answering(Answering(documents={"/health": HEALTH})) as server:
        code = main([server.url, *SHORT, "--input", str(tmp_path), "--header", "X-API-Key: secret"])

    assert code == 0
    assert {asked.body for asked in server.asked} == {RED}
    assert {asked.headers["x-api-key"] for asked in server.asked} == {"secret"}


def test_two_targets_are_asked_in_turn_and_the_slower_is_told(capsys, tmp_path):
    slow = Answering({"/health": HEALTH}, lambda number, second: (200, b"{}", 0.02))
    with answering(Answering({"/health": HEALTH})) as first, answering(slow) as second:
        code = main(
            [first.url, second.url, "--duration", "1.2", "--warm-up", "0", "--rounds", "4", "--connections", "1",
             "--output", str(tmp_path)]
        )  # fmt: skip

    assert code == 0
    ratios = json.loads((tmp_path / "report.json").read_text())["comparison"][second.url]
    assert ratios["throughput"]["high"] < 1 < ratios["p50"]["low"]
    assert f"{second.url} over {first.url}" in capsys.readouterr().out


def test_a_search_finds_a_rate_below_what_the_server_can_do(capsys, tmp_path):
    # 10 ms each, one after the other: 100 a second, and far fewer where none may wait long.
    class OneByOne:
        def __init__(self) -> None:
            self.free_s = 0.0

        def __call__(self, number: int, second: float) -> tuple[int, bytes, float]:
            self.free_s = max(self.free_s, second) + 0.01
            return 200, b"{}", self.free_s - second

    with answering(Answering({"/health": HEALTH}, OneByOne())) as server:
        search = ["--search", "p80<150ms, errors<50%", "--probe", "0.5"]
        code = main([server.url, *search, "--warm-up", "0", "--output", str(tmp_path)])

    (target,) = json.loads((tmp_path / "report.json").read_text())["targets"]
    assert code == 0
    assert 10 < target["found_rate"] < 130
    assert [probe["holds"] for probe in target["search"]][-3:] == [True] * 3
    assert "highest rate that holds" in capsys.readouterr().out


def test_a_limit_that_nothing_holds_has_exit_code_3(capsys):
    with answering(Answering({"/health": HEALTH}, lambda number, second: (200, b"{}", 0.02))) as server:
        code = main([server.url, "--search", "p50<1us", "--probe", "0.1", "--warm-up", "0"])

    assert code == 3
    assert "highest rate that holds: none" in capsys.readouterr().out


def test_nothing_that_listens_is_one_sentence(capsys):
    assert main(["http://127.0.0.1:1", *SHORT]) == 2
    assert (
        "error: http://127.0.0.1:1: expected a service, but no connection could be made. [Errno 111]"
        in capsys.readouterr().err
    )


def test_a_service_that_refuses_is_quoted(capsys):
    refusing = Answering({"/health": HEALTH}, lambda number, second: (401, b'{"error": "no key"}', 0.0))
    with answering(refusing) as server:
        code = main([server.url, *SHORT])

    assert code == 2
    assert 'expected the first request to be answered, received 401: {"error": "no key"}' in capsys.readouterr().err
    assert len(server.asked) == 1


def test_refusals_later_on_are_counted_and_the_first_is_quoted(capsys):
    later = Answering({"/health": HEALTH}, lambda number, second: (200 if number < 5 else 503, b"draining", 0.0))
    with answering(later) as server:
        main([server.url, *SHORT])

    output = capsys.readouterr().out
    assert re.search(r"requests +[\d,]+: .*[\d,]+ 503", output)
    assert "first 503: draining" in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ftp://127.0.0.1:1"], "URL: expected http://HOST:PORT, received 'ftp://127.0.0.1:1'."),
        (
            ["grpc://127.0.0.1:1"],
            "URL: expected http://HOST:PORT, received 'grpc://127.0.0.1:1'. Of gRPC say --protocol grpc.",
        ),
        (["http://127.0.0.1:1", "--rate", "0"], "--rate: expected more than 0, received 0."),
        (["http://127.0.0.1:1", "--rate", "5", "--search", "p95<1ms"], "--search: expected it without --rate"),
        (["http://127.0.0.1:1", "--search", "quick"], "--search: expected limits such as 'p95<50ms, errors<1%'"),
    ],
)
def test_wrong_usage_is_one_sentence(capsys, arguments, expected):
    assert main(arguments) == 2
    assert expected in capsys.readouterr().err


def test_arrays_come_from_files_named_as_the_inputs(tmp_path):
    model = {"name": "sums", "inputs": [{"name": "a", "datatype": "FP32", "shape": [-1, 3]}]}
    documents = {"/v2/repository/index": [{"name": "sums"}], "/v2/models/sums": model}
    np.savez(tmp_path / "mine.npz", a=np.full((1, 3), 7, np.float32))
    with answering(Answering(documents)) as server:
        code = main([server.url, *SHORT, "--protocol", "v2", "--input", str(tmp_path / "mine.npz")])

    assert code == 0
    assert json.loads(server.asked[0].body)["inputs"][0]["data"] == [7, 7, 7]


def test_an_end_brought_early_gives_what_was_measured(tmp_path):
    with answering(Answering({"/health": HEALTH})) as server:
        command = [sys.executable, "-m", "tfpipe.bench", server.url, "--duration", "60", "--warm-up", "0"]
        process = subprocess.Popen([*command, "--output", str(tmp_path)], stdout=subprocess.PIPE, text=True)
        deadline_s = time.monotonic() + 30
        while len(server.asked) < 20 and time.monotonic() < deadline_s:
            time.sleep(0.01)  # polls
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)

    assert process.returncode == 75
    assert "Ended early" in output
    (target,) = json.loads((tmp_path / "report.json").read_text())["targets"]
    assert 0 < target["answered"] <= len(server.asked)
