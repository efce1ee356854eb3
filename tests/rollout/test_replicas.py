"""What is asked of services over HTTP, with small servers of this test in their place."""

import contextlib
import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tfpipe.core.errors import ConfigError
from tfpipe.core.routing import initial
from tfpipe.core.routing_changes import Origin, promote, rollback
from tfpipe.core.routing_json import from_dict, to_dict
from tfpipe.rollout.replicas import ReplicaError, Replicas

BY = Origin("ada", datetime(2026, 1, 1, tzinfo=UTC), "because")


@contextlib.contextmanager
def service(routing, *, key="", status=200):
    """A service that holds a document; gives its address and the requests that it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            nonlocal routing
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            got.append((self.command, self.path, json.loads(body) if body else None))
            if self.path == "/metrics":
                return self.send(200, b"tfpipe_ready 1\n")
            if key and self.headers["Authorization"] != f"Bearer {key}":
                return self.send(401, b'{"error": {"message": "no key."}}')
            if self.command == "PUT" and status == 200:
                routing = from_dict(json.loads(body), where="body")
            elif status == 200:
                routing = rollback(routing, BY, json.loads(body)["version"])
            return self.send(status, json.dumps({"routing": to_dict(routing)}).encode())

        def send(self, code, body):
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = answer  # noqa: N815  # as http.server names them

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_document_is_given_to_all_and_who_did_not_confirm_is_named():
    old = initial("a/b", "1")
    new = promote(old, "2", BY)
    with service(old, key="secret") as (good, got), service(old, status=500) as (bad, _):
        replicas = Replicas([good, bad, "http://127.0.0.1:9"], admin_key="secret", timeout_s=5.0)

        answers = replicas.push(new)

        assert answers[good] == ""
        assert str(answers[bad]).startswith(f"{bad}: PUT /admin/models/a%2Fb/routing: 500: ")
        assert "expected an answer to PUT" in str(answers["http://127.0.0.1:9"])
        assert got == [("PUT", "/admin/models/a%2Fb/routing", to_dict(new))]
        assert list(replicas.push(new, without=[bad])) == [good, "http://127.0.0.1:9"]


def test_a_service_that_stays_behind_does_not_confirm():
    with service(initial("m", "1"), status=202) as (url, _):
        answer = Replicas([url]).push(promote(initial("m", "1"), "2", BY))[url]

    assert str(answer) == f"{url}: expected revision 1, received 0."


def test_the_first_that_answers_writes_a_rollback():
    routing = promote(initial("m", "1"), "2", BY)
    with service(routing) as (url, got):
        first, after = Replicas(["http://127.0.0.1:9", url]).roll_back("m", version=None, who="ada", why="it fails")

    assert (first, after.shares, after.withdrawn) == (url, {"1": 1.0}, ("2",))
    assert got == [("POST", "/admin/models/m/rollback", {"version": None, "who": "ada", "why": "it fails"})]


def test_where_none_answers_each_says_why():
    with service(initial("m", "1"), key="secret") as (url, _), pytest.raises(ReplicaError) as caught:
        Replicas([url, "http://127.0.0.1:9"]).roll_back("m", version=None, who="", why="")

    refused = f"{url}: POST /admin/models/m/rollback: 401: no key. The key is taken from TFPIPE_ADMIN_KEY."
    assert refused in str(caught.value)
    assert "http://127.0.0.1:9: expected an answer" in str(caught.value)


def test_metrics_are_read_of_each():
    with service(initial("m", "1"), key="secret") as (url, _):
        answers = Replicas([f"{url}/", "http://127.0.0.1:9"]).metrics()

    assert answers[url] == "tfpipe_ready 1\n"
    assert isinstance(answers["http://127.0.0.1:9"], ReplicaError)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a", "http://", ""])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="expected addresses like http://HOST:PORT"):
        Replicas([url])
