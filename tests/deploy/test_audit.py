"""`make audit`, against a database of vulnerabilities of this machine."""

import datetime
import http.server
import importlib.util
import json
import threading

import pytest

from tests.deploy.tools import ROOT, run_tool


def known(name, fixed):
    """One vulnerability of idna, as OSV tells it."""
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": fixed}]}]
    affected = [{"package": {"name": "idna", "ecosystem": "PyPI"}, "ranges": ranges}]
    return {
        "id": f"PYSEC-{name}", "aliases": [f"CVE-{name}"], "summary": "Made up.", "published": "2099-01-01T00:00:00Z",
        "affected": affected,
    }  # fmt: skip


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def database():
    """Answers as OSV does: one of two packages has two vulnerabilities."""
    answer = {"vulns": [known("2099-1", "99.0"), known("2099-2", "98.0")]}

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(answer if asked["package"]["name"] == "idna" else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


@pytest.fixture
def pins(tmp_path):
    file = tmp_path / "pins.txt"
    file.write_text("idna==3.20\nsix==1.17.0\n")
    return file


def test_a_vulnerability_that_is_not_accepted_is_an_exit_code_and_the_pins_are_listed(pins, database):
    accepted = pins.parent / "accepted.txt"
    accepted.write_text("CVE-2099-2 until 2099-12-31 no host name of a stranger is encoded\n")

    done = run_tool(
        "python", "scripts/audit.py", "--database", database, "--accepted", accepted, "--output", pins.parent, pins
    )

    assert done.returncode == 3, done.stderr
    assert "2 of 2 pins looked up, 1 findings" in done.stdout
    assert "idna 3.20: PYSEC-2099-1; mended in 99.0" in done.stdout
    assert "2099-2" not in done.stdout
    listed = json.loads((pins.parent / "pins.cdx.json").read_text())
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
    assert {one["purl"] for one in listed["components"]} == {"pkg:pypi/idna@3.20", "pkg:pypi/six@1.17.0"}
    assert listed["metadata"]["component"]["name"] == "tfpipe"


def test_a_database_that_cannot_be_reached_is_told_and_fails_where_it_is_required(pins):
    database = ["--database", "http://127.0.0.1:9/", "--require-database"]

    done = run_tool("python", "scripts/audit.py", *database, "--output", pins.parent, pins)

    assert done.returncode == 1, done.stderr
    assert "0 of 2 pins looked up" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("audit: NOT DONE: expected an answer of the database")


@pytest.mark.parametrize(
    ("findings", "missed", "required", "code"),
    [
        ((), (), True, 0),
        ((), ("a: away",), False, 0),
        ((), ("a: away",), True, 1),
        (("b 1: CVE",), ("a: away",), False, 3),
    ],
)
def test_the_exit_code_says_whether_something_was_found(script, findings, missed, required, code):
    clean = script.Audit((), (), 5)

    got, _ = script.verdict([clean, script.Audit(findings, missed, 5)], require_database=required)

    assert got == code


def test_what_is_accepted_ends_on_its_day(script):
    text = "# why\n\nA-1  until 2026-06-01  reason one\nB-2 until 2026-06-02 reason two\n"

    assert script.read_accepted(text, today=datetime.date(2026, 6, 1)) == {"B-2": "reason two"}


def test_what_is_accepted_has_a_day_and_a_reason(script):
    with pytest.raises(ValueError, match="expected `ID until YYYY-MM-DD why`, received 'CVE-1'"):
        script.read_accepted("CVE-1\n", today=datetime.date(2026, 6, 1))


def test_the_projects_own_list_is_read(script):
    text = (ROOT / "constraints" / "accepted-vulnerabilities.txt").read_text()

    assert isinstance(script.read_accepted(text, today=datetime.date(2000, 1, 1)), dict)
