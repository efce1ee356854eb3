"""`tfpipe monitor report`: a page about a running service."""

import re
import subprocess
import sys

import pytest

from serving.keys_command import create_key
from tests.serving.drifting import digits, digits_bundle, png
from tests.serving.servers import app_of, serving
from tfpipe.core.errors import ConfigError
from tfpipe.monitor.__main__ import main
from tfpipe.monitor.asking import Answered, ask
from tfpipe.monitor.findings import find


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    return digits_bundle(tmp_path_factory.mktemp("drift") / "digits")


@pytest.fixture(scope="module")
def inverted(of_digits):
    """The address of a service that was sent inverted digits, and one that is no image."""
    with serving(app_of(of_digits)) as server:
        images = digits(600, 750, inverted=True)
        files = [("files", (f"{place}.png", png(one))) for place, one in enumerate(images)]
        server.client.post("/predict/batch", files=files).raise_for_status()
        assert server.client.post("/predict", content=b"nothing", headers={"content-type": "image/png"}).is_error
        yield str(server.client.base_url)


def report(*arguments, folder):
    path = folder / "page.html"
    code = main(["report", *arguments, "--output", str(path)])
    return code, path.read_text(encoding="utf-8") if path.exists() else ""


def test_the_page_shows_what_drifted_and_a_limit_makes_it_a_failure(inverted, tmp_path, capsys):
    code, page = report(inverted, "--max-psi", "0.25", folder=tmp_path)

    assert code == 3
    assert "<h2>digits 3</h2>" in page
    assert "Compared with\n300 training samples and 300 validation samples." in page
    assert re.search(r"<td>brightness</td><td>drifted</td>", page)
    assert re.search(r"<td>width</td><td>steady</td>", page)
    assert len(re.findall(r'<img src="data:image/svg\+xml;base64,', page)) == 12
    assert "<th>requests: rest 200</th><td>1</td>" in page
    assert "<th>errors: undecodable_image</th><td>1</td>" in page
    # One file, which asks nobody for anything.
    assert not re.search(r'(src|href)="(?!data:)', page)
    said = capsys.readouterr().out
    assert re.search(r"^digits 3: .*brightness.* drifted\.$", said, re.MULTILINE)
    assert re.search(r"^  brightness +psi +\d+\.\d+ of 0\.\d+  ks 1\.000 +drifted$", said, re.MULTILINE)


def test_a_limit_may_be_higher(inverted):
    found = find(ask(inverted, {}, timeout_s=10), url=inverted, max_psi=1000)

    assert {one["verdict"] for one in found["models"][0]["features"]} <= {"steady", "moved"}


def test_steady_traffic_is_no_failure(of_digits, tmp_path):
    with serving(app_of(of_digits)) as server:
        files = [("files", (f"{place}.png", png(one))) for place, one in enumerate(digits(600, 850))]
        server.client.post("/predict/batch", files=files).raise_for_status()

        code, page = report(str(server.client.base_url), "--max-psi", "0.25", folder=tmp_path)

    assert code == 0
    assert "<td>drifted</td>" not in page


def test_a_bundle_without_statistics_has_a_page_all_the_same(bundle, tmp_path):
    with serving(app_of(bundle)) as server:
        code, page = report(str(server.client.base_url), folder=tmp_path)

    assert code == 0
    assert "Nothing to compare with: the bundle has no statistics of training data." in page


def test_a_service_with_keys_is_asked_with_one(of_digits, tmp_path, capsys):
    keys = tmp_path / "keys.yaml"
    key = create_key(keys, {"name": "mobile", "scopes": ["predict"]})
    with serving(app_of(of_digits, api_keys_file=keys)) as server:
        url = str(server.client.base_url)

        assert report(url, folder=tmp_path)[0] == 2
        assert "received status 401. Give its key: --header" in capsys.readouterr().err
        assert report(url, "--header", f"Authorization: Bearer {key}", folder=tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ftp://somewhere"], "URL: expected http://HOST:PORT, received 'ftp://somewhere'"),
        (["http://127.0.0.1:9"], "expected a service, found none"),
        (["http://127.0.0.1:9", "--max-psi", "0"], "--max-psi: expected more than 0, received 0"),
    ],
)
def test_wrong_usage_is_told(arguments, said, tmp_path, capsys):
    assert report(*arguments, folder=tmp_path) == (2, "")
    assert said in capsys.readouterr().err


def test_the_command_needs_no_tensorflow():
    blocked = "import sys; sys.modules.update(dict.fromkeys(('tensorflow', 'keras', 'onnx', 'onnxruntime', 'sklearn')))"

    subprocess.run(
        [sys.executable, "-c", f"{blocked}; import tfpipe.monitor.__main__, tfpipe.monitor.page"], check=True
    )


def test_an_unknown_model_is_refused_with_those_that_there_are():
    answered = Answered({"models": [{"model": "digits"}, {"model": "moods"}]}, {})

    with pytest.raises(ConfigError, match=r"service compares \(digits, moods\), received 'cats'"):
        find(answered, url="http://here", model="cats")
