import contextlib
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ForbiddenError, UnauthorizedError
from serving.keys import ANYBODY, Keys, check_entries, new_key, read_keys
from serving.keys_command import create_key, main
from tests.serving.clocks import FakeClock
from tfpipe.core.errors import ConfigError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.yaml"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {key}".encode()}


def predicting(path, name: str = "mobile", **limits) -> str:
    return create_key(path, {"name": name, "scopes": ["predict"], **limits})


def test_without_a_file_anybody_predicts_and_nobody_administers():
    keys = Keys(None)

    assert keys.authorize({}, "predict") == ANYBODY
    with pytest.raises(ForbiddenError, match="this one has none, so nobody may"):
        keys.authorize({}, "admin")


@pytest.mark.parametrize("form", [b"Bearer %s", b"bearer %s", b"Bearer  %s "])
def test_a_key_is_known_by_its_header(path, form):
    key = predicting(path, rate_limit=5.0, concurrency=2)

    caller = Keys(path).authorize({b"authorization": form % key.encode()}, "predict")

    assert (caller.name, caller.rate_limit, caller.concurrency) == ("mobile", 5.0, 2)
    assert Keys(path).authorize({b"x-api-key": key.encode(), b"authorization": b"Basic abc"}, "predict") == caller


@pytest.mark.parametrize(
    "headers",
    [{}, {b"authorization": b"Basic abc"}, {b"authorization": b"Bearer "}, {b"x-api-key": b" "}],
)
def test_no_key_is_asked_for(path, headers):
    predicting(path)

    with pytest.raises(UnauthorizedError, match="received neither") as caught:
        Keys(path).authorize(headers, "predict")

    assert caught.value.details["challenge"] == 'Bearer realm="tfpipe"'


def test_another_key_is_refused_without_naming_it(path):
    predicting(path)
    other, _ = new_key()

    with pytest.raises(UnauthorizedError, match="received another") as caught:
        Keys(path).authorize(bearer(other), "predict")

    assert other not in str(caught.value) + str(caught.value.details)


def test_a_key_that_somebody_thought_up_is_refused_although_its_hash_is_there(path):
    short = "correct horse battery"
    path.write_text(f"- {{name: a, scopes: [predict], sha256: {hashlib.sha256(short.encode()).hexdigest()}}}\n")

    with pytest.raises(UnauthorizedError):
        Keys(path).authorize(bearer(short), "predict")


def test_a_key_does_what_its_scopes_say_and_no_more(path):
    key = predicting(path)
    operator = create_key(path, {"name": "operator", "scopes": ["admin"]})

    keys = Keys(path)

    assert keys.authorize(bearer(operator), "admin").name == "operator"
    with pytest.raises(ForbiddenError, match=r"'mobile': expected the scope 'admin', it has \['predict'\]") as caught:
        keys.authorize(bearer(key), "admin")
    assert 'error="insufficient_scope"' in caught.value.details["challenge"]
    with pytest.raises(ForbiddenError):
        keys.authorize(bearer(operator), "predict")


def test_a_changed_file_counts_within_a_second(path, clock):
    first = predicting(path)
    keys = Keys(path, clock=clock)
    second = predicting(path, "web")

    with pytest.raises(UnauthorizedError):
        keys.authorize(bearer(second), "predict")
    clock.now_s += 1

    assert keys.authorize(bearer(second), "predict").name == "web"
    path.write_text("")
    clock.now_s += 1
    with pytest.raises(UnauthorizedError):
        keys.authorize(bearer(first), "predict")


@pytest.mark.parametrize("damage", ["unlink", "overwrite"])
def test_a_file_that_breaks_leaves_the_keys_as_they_were_and_is_told_once(path, clock, caplog, damage):
    key = predicting(path)
    before = path.read_text()
    keys = Keys(path, clock=clock)

    path.unlink() if damage == "unlink" else path.write_text("{")
    for _ in range(3):
        clock.now_s += 1
        assert keys.authorize(bearer(key), "predict").name == "mobile"

    assert [record.getMessage() for record in caplog.records] == ["API keys left as they were"]
    path.write_text(before.replace("mobile", "renamed"))
    clock.now_s += 1
    assert keys.authorize(bearer(key), "predict").name == "renamed"


def test_a_file_that_is_not_there_is_told_at_start(path):
    with pytest.raises(ConfigError, match=r"keys.yaml: expected a file of API keys; No such file"):
        Keys(path)


SECRET = "tfp_this-is-a-key-that-belongs-nowhere-in-a-log"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "expected a list of entries with name, sha256 and scopes"),
        (f"a: {SECRET}", "content: expected a list of entries"),
        (f"- {SECRET}", "entry 1: expected"),
        (f"- {{name: a, scopes: [predict], key: {SECRET}}}", "entry 1, sha256"),
        (f"- {{name: a, scopes: [predict], sha256: {SECRET}}}", "entry 1, sha256: expected"),
        (f"- {{name: a, scopes: [], sha256: {'0' * 64}}}", "entry 1, scopes"),
        (f"- {{name: a, scopes: [root], sha256: {'0' * 64}}}", "entry 1, scopes"),
        (f"- {{name: a, scopes: [predict], sha256: {'0' * 64}, rate_limit: -1}}", "entry 1, rate_limit"),
        (f"- {{name: a, scopes: [predict], sha256: {'0' * 64}, rate_limit: .nan}}", "entry 1, rate_limit"),
        (f"- {{name: 'a b', scopes: [predict], sha256: {'0' * 64}}}", "entry 1, name"),
        (
            f"- &a {{name: a, scopes: [predict], sha256: {'a' * 64}}}\n- *a",
            "each name once, received that of 'a' twice",
        ),
        ("!!python/object/apply:os.getcwd []", "expected a list of entries"),
    ],
)
def test_a_file_that_says_what_it_must_not_is_refused_without_quoting_it(path, content, said):
    path.write_text(content)

    with pytest.raises(ConfigError) as caught:
        read_keys(path)

    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


@given(content=st.recursive(st.none() | st.booleans() | st.text() | st.integers(), st.lists) | st.text())
def test_any_content_is_read_or_refused(content):
    with contextlib.suppress(ConfigError):
        assert check_entries(content, where="x") == []


@pytest.mark.parametrize("name", ["keys.yaml", "keys.json"])
def test_the_command_prints_the_key_once_and_keeps_its_hash(tmp_path, capsys, name):
    path = tmp_path / name

    assert main(["create", "web", "--scope", "predict", "--file", str(path), "--rate-limit", "2"]) == 0
    assert main(["create", "operator", "--scope", "predict", "--scope", "admin", "--file", str(path)]) == 0

    web, operator = capsys.readouterr().out.split()
    assert path.stat().st_mode & 0o777 == 0o600
    assert web not in path.read_text()
    keys = Keys(path)
    assert keys.authorize(bearer(web), "predict").rate_limit == 2
    assert keys.authorize(bearer(operator), "admin").name == "operator"
    assert len(json.loads(path.read_text()) if name.endswith("json") else read_keys(path)) == 2


def test_comments_and_mode_of_the_file_stay(path):
    predicting(path)
    path.write_text("# of the shop\n" + path.read_text())
    path.chmod(0o640)

    predicting(path, "web")

    assert path.read_text().startswith("# of the shop\n")
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mobile", "--scope", "predict"], "expected each name once, received that of 'mobile' twice"),
        (["a b", "--scope", "predict"], "entry 2, name"),
        (["web", "--scope", "predict", "--concurrency", "0"], "entry 2, concurrency"),
    ],
)
def test_what_cannot_be_an_entry_leaves_the_file_as_it_was(path, capsys, arguments, said):
    predicting(path)
    before = path.read_text()

    assert main(["create", *arguments, "--file", str(path)]) == 2

    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert path.read_text() == before


def test_the_command_takes_the_services_file(path, monkeypatch, capsys):
    monkeypatch.delenv("TFPIPE_SERVING_API_KEYS_FILE", raising=False)
    assert main(["create", "web", "--scope", "predict"]) == 2
    assert "--file FILE, or TFPIPE_SERVING_API_KEYS_FILE" in capsys.readouterr().err

    monkeypatch.setenv("TFPIPE_SERVING_API_KEYS_FILE", str(path))
    assert main(["create", "web", "--scope", "predict"]) == 0
    assert read_keys(path)[0].name == "web"


# Where nobody makes files, the superuser neither.
@pytest.mark.parametrize("folder", ["/proc", "/proc/self/keys"])
def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(capsys, folder):
    assert main(["create", "web", "--scope", "predict", "--file", f"{folder}/keys.yaml"]) == 2

    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {folder}/keys.yaml: expected a file of API keys that can be written; ")
    assert (captured.out, captured.err.count("\n")) == ("", 1)
