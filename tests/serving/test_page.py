"""The page at `/` as files over HTTP; tests/serving/test_page_in_browser.py uses it."""

import re

import pytest

from serving.routes.page import PAGE, read_files

HTML = {"accept": "text/html,application/xhtml+xml"}
FILES = sorted(read_files())
# Of the page of the API, besides files.
LINKS = ("openapi.json", "./")
LOADED = [name for name in FILES if name != PAGE]
PATHS = ["/", *(f"/static/{name}" for name in LOADED)]


@pytest.mark.parametrize("name", LOADED)
def test_each_file_is_answered_as_what_it_is(client, name):
    response = client.get(f"/static/{name}")

    assert response.status_code == 200
    assert response.content == read_files()[name].content
    expected = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert response.headers["content-type"].split(";")[0] == expected[name.rpartition(".")[2]]


@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_the_browser_has_is_not_sent_again(client, path):
    first = client.get(path, headers=HTML)

    again = client.get(path, headers={**HTML, "if-none-match": f'"other", W/{first.headers["etag"]}'})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get(path, headers={**HTML, "if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_nothing_inline_and_nothing_from_elsewhere_may_run(client, path):
    policy = client.get(path, headers=HTML).headers["content-security-policy"]

    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"
    assert "unsafe" not in policy


def test_a_cache_keeps_what_people_get_apart_from_what_programs_get(client):
    page, index = client.get("/", headers=HTML), client.get("/")

    assert page.headers["vary"] == index.headers["vary"] == "Accept"
    assert index.headers["content-type"] == "application/json"


def test_the_page_names_only_files_that_there_are():
    named = re.findall(r'(?:src|href)="static/([^"]+)"', read_files()[PAGE].content.decode())

    assert named
    assert set(named) <= set(LOADED)


def test_the_page_of_the_api_needs_no_script_and_nothing_from_elsewhere(client):
    answer = client.get("/docs")

    assert answer.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert "//" not in answer.text.replace("<!doctype html>", "")
    assert set(re.findall(r'(?:src|href)="([^"]+)"', answer.text)) <= {*(f"static/{name}" for name in LOADED), *LINKS}
    assert client.get("/docs", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_the_page_of_the_api_has_every_operation(client):
    text = client.get("/docs").text
    paths = client.get("/openapi.json").json()["paths"]

    operations = [(method, path) for path, entry in paths.items() for method in entry]
    assert len(operations) > 30
    for method, path in operations:
        assert f"<code>{method.upper()} {path}</code>" in text


def test_the_page_of_the_api_says_in_sentences_what_each_does(client):
    text = client.get("/docs").text

    assert "<td>Answer one image or text. A model of images takes" in text
    assert "<td>Whether requests are taken.</td>" in text
    assert "<td>Say what the right label" in text


@pytest.mark.parametrize("name", ["", "index.html", "missing.js", "..%2Fapp.py", "../routes/page.py"])
def test_no_other_file_is_answered(client, name):
    assert client.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_place(name):
    # The namespace of SVG is a name, fetched by nobody.
    text = read_files()[name].content.decode().replace("http://www.w3.org/2000/svg", "")

    assert "//" not in re.sub(r"^\s*//.*|\s// .*", "", text, flags=re.MULTILINE)
