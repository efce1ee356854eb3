"""Prometheus and Alertmanager as deploy/monitoring has them, on free ports of this machine, and the chat they tell.

What differs: addresses, and how long they wait, as nobody here has minutes.
"""

import contextlib
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.monitoring_files import MONITORING, PROMETHEUS, RULES, read_yaml
from tests.deploy.troubles import free_address
from tests.serving.servers import NO_TLS, wait_for

_PROGRAMS = ("prometheus", "prometheus-alertmanager")
needs_prometheus = pytest.mark.skipif(
    any(shutil.which(one) is None for one in _PROGRAMS),
    reason="no Prometheus or Alertmanager here; on Debian: apt-get install prometheus prometheus-alertmanager",
)
# Often, for nobody here has minutes; and not too often for a machine with other things to do.
_OFTEN = "2s"
_END_S = 20.0


@dataclass
class Chat:
    """What takes messages in Slack's form.

    Attributes:
        status: What is answered: 200, or an error.
        messages: Title and text of those that came while it was 200.
    """

    status: int = 200
    messages: list[tuple[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def chat() -> Iterator[tuple[Chat, str]]:
    """A chat, and its address."""
    taken = Chat()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if taken.status == 200:
                taken.messages += [(one["title"], one["text"]) for one in message["attachments"]]
            self.send_response(taken.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield taken, f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def alertmanager(folder: Path, chat_url: str) -> Iterator[str]:
    """Alertmanager with the shipped configuration; gives its HOST:PORT."""
    (folder / "chat_url").write_text(chat_url)
    text = (MONITORING / "alertmanager" / "alertmanager.yml").read_text()
    text = text.replace("/run/secrets/chat_url", str(folder / "chat_url"))
    text = re.sub(r"(group_wait|group_interval): \w+", r"\1: 1s", text)
    (folder / "alertmanager.yml").write_text(text)
    address = free_address()
    arguments = [f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alertmanager"]
    # No cluster: it would listen on another port.
    arguments += [f"--web.listen-address={address}", "--cluster.listen-address="]
    with _running(folder, address, "prometheus-alertmanager", *arguments):
        yield address


@contextlib.contextmanager
def prometheus(
    folder: Path, targets: Mapping[str, Iterable[str]], alertmanager: str, changed: Mapping[str, tuple[str, str]]
) -> Iterator["Prometheus"]:
    """Prometheus with the shipped configuration and rules; alerts wait for nothing.

    Args:
        folder: For its data, and for the targets of each job in `targets/NAME.yml`, which it looks at all the time.
        targets: HOST:PORT by job, besides itself.
        alertmanager: HOST:PORT of whom it tells.
        changed: By alert: what of its expression is replaced by what.
    """
    address = free_address()
    (folder / "targets").mkdir()
    running = Prometheus(f"http://{address}", folder)
    for job, addresses in {**targets, "prometheus": [address]}.items():
        running.scrape(job, addresses)
    config = read_yaml(PROMETHEUS / "prometheus.yml")
    config["global"] = dict.fromkeys(config["global"], _OFTEN)
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [alertmanager]}]}]
    for job in config["scrape_configs"]:
        kept = {name: value for name, value in job.items() if not name.endswith("_configs")}
        job.clear()
        job |= {**kept, "file_sd_configs": [{"files": [f"targets/{kept['job_name']}.yml"]}]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    _write_rules(folder / "rules", changed)
    arguments = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    arguments += [f"--web.listen-address={address}", "--log.level=warn"]
    with _running(folder, address, "prometheus", *arguments):
        yield running


class Prometheus:
    """A Prometheus that runs.

    Attributes:
        url: Where it answers.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self._folder = url, folder

    def scrape(self, job: str, addresses: Iterable[str]) -> None:
        """Make these the targets of a job."""
        file = self._folder / "targets" / f"{job}.yml"
        file.with_suffix(".new").write_text(yaml.safe_dump([{"targets": list(addresses)}]))
        file.with_suffix(".new").replace(file)

    def query(self, query: str) -> list[dict[str, Any]]:
        """The series that a query gives now; AssertionError with Prometheus' words where it cannot be answered."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=_END_S, verify=NO_TLS).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        assert not answer.get("warnings"), f"{query}: {answer}"
        found = answer["data"]["result"]
        # A scalar is one value without labels.
        return found if answer["data"]["resultType"] == "vector" else [{"metric": {}, "value": found}]

    def names(self) -> set[str]:
        """Names of all series that were ever scraped or recorded."""
        return set(httpx.get(f"{self.url}/api/v1/label/__name__/values", timeout=_END_S, verify=NO_TLS).json()["data"])

    def rule_errors(self) -> dict[str, str]:
        """What Prometheus says of rules that it cannot evaluate, by name."""
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=_END_S, verify=NO_TLS).json()["data"]["groups"]
        return {rule["name"]: rule["lastError"] for group in groups for rule in group["rules"] if "lastError" in rule}


def _write_rules(folder: Path, changed: Mapping[str, tuple[str, str]]) -> None:
    folder.mkdir()
    for path in RULES:
        content = read_yaml(path)
        for rule in (rule for group in content["groups"] for rule in group["rules"]):
            rule.pop("for", None)
            if (name := rule.get("alert")) in changed:
                old, new = changed[name]
                assert old in rule["expr"], name
                rule["expr"] = rule["expr"].replace(old, new)
        (folder / path.name).write_text(yaml.safe_dump(content))
    # For what no shipped rule does.
    broken = {"alert": "Broken", "expr": "up + on () up"}
    (folder / "broken.yml").write_text(yaml.safe_dump({"groups": [{"name": "broken", "rules": [broken]}]}))


@contextlib.contextmanager
def _running(folder: Path, address: str, program: str, *arguments: str) -> Iterator[None]:
    with open(folder / f"{program}.log", "wb") as log:
        process = subprocess.Popen([program, *arguments], stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(lambda: process.poll() is not None or _is_ready(address))
        assert process.poll() is None, (folder / f"{program}.log").read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_END_S)


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready", verify=NO_TLS).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
