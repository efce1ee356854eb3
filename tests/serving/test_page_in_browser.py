"""The page at `/` in a headless Chromium, against real servers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from serving.app import create_app
from serving.settings import ServingSettings
from tests.serving.browser import chromium, needs_browser
from tests.serving.bundles import BLUE, GREEN, RED, make_bundle
from tests.serving.servers import Server, app_of, serving
from tests.serving.tensor_bundles import make_tensor_bundle

pytestmark = [needs_browser, pytest.mark.system]

# 👍🏽 is two code points and four UTF-16 units: places after it are told right only by counting the former.
TEXT = "👍🏽 The quick brown fox meets Ada in São Paulo."
DROP = """([target, type, name, bytes]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], name));
    const data = type === "paste" ? { clipboardData: transfer } : { dataTransfer: transfer };
    const kind = type === "paste" ? ClipboardEvent : DragEvent;
    document.querySelector(target).dispatchEvent(new kind(type, { ...data, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def tags_server(tags_bundle: Path) -> Iterator[Server]:
    with serving(app_of(tags_bundle)) as running:
        yield running


@pytest.fixture(scope="module")
def several_server(text_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two versions of colours, the older one first; and moods."""
    folder = tmp_path_factory.mktemp("several")
    bundles = [make_bundle(folder / version, version=version) for version in ("9", "10")]
    with serving(create_app(ServingSettings(model=",".join(map(str, [*bundles, text_bundle]))))) as running:
        yield running


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of its own, which at the end has said nothing on the console and loaded nothing from elsewhere."""
    with browser.new_context(reduced_motion="reduce") as context:
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        yield page
        # Chromium itself tells of each answer that is an error.
        assert [text for text in said if not text.startswith("Failed to load resource")] == []
        origins = {"/".join(url.split("/")[:3]) for url in asked}
        assert {origin for origin in origins if not re.match(r"blob:|http://127\.0\.0\.1:", origin)} == set()


def opened(page: Any, server: Server, form: str = "#image-form") -> Any:
    page.goto(str(server.client.base_url))
    page.locator(form).wait_for()
    return page


def choose(page: Any, content: bytes) -> None:
    page.locator("#file").set_input_files({"name": "image.png", "mimeType": "image/png", "buffer": content})


def said(page: Any, pattern: str) -> str:
    """The line of the answer, once it matches."""
    line = page.locator("#said").filter(has_text=re.compile(pattern))
    line.wait_for()
    return str(line.inner_text())


def facts(page: Any) -> dict[str, str]:
    names, values = (page.locator(f"#facts {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def plain_text(page: Any) -> str:
    """The text in which entities are marked, without their labels."""
    nodes = page.locator("#marked").evaluate(
        "p => Array.from(p.childNodes, node => (node.nodeName === 'MARK' ? node.firstChild : node).textContent)"
    )
    return "".join(nodes)


def totals(page: Any) -> dict[str, str]:
    names, values = (page.locator(f"#totals {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


@pytest.mark.parametrize(("target", "type"), [("#drop", "drop"), ("body", "drop"), ("body", "paste")])
def test_an_image_that_is_dropped_or_pasted_is_answered(page, server, target, type):
    opened(page, server)

    page.evaluate(DROP, [target, type, "image.png", list(GREEN)])

    assert re.fullmatch(r"green, \d+\.\d %", said(page, "green"))
    assert page.locator("#bars tbody th").all_inner_texts()[0] == "green"
    assert page.locator("#bars tbody tr").count() == 3
    assert page.locator("#preview").is_visible()


def test_an_answer_says_who_gave_it_and_what_took_how_long(page, server):
    opened(page, server)

    choose(page, RED)

    said(page, "red")
    shown = facts(page)
    assert (shown["Model"], shown["Version"], shown["Precision"], shown["Provider"]) == ("colours", "3", "int8", "cpu")
    assert re.fullmatch(r"[0-9a-f]{12}", shown["Bundle"])
    assert re.fullmatch(r"[0-9a-f]{32}", shown["Request"])
    assert re.fullmatch(r"[\d.]+ ms in the service, [\d.]+ ms as seen from here", page.inner_text("#timing-title"))
    assert {"queue", "decode", "preprocess", "run"} <= set(
        page.locator("#legend li").evaluate_all("items => items.map(item => item.dataset.stage)")
    )


def test_classes_that_are_numbers_stand_best_first(page, tmp_path):
    bundle = make_bundle(tmp_path / "numbers", manifest_changes={"labels": ("0", "1", "2")})
    with serving(app_of(bundle)) as server:
        opened(page, server)

        choose(page, BLUE)

        said(page, "^2, ")
        assert page.locator("#bars tbody th").all_inner_texts()[0] == "2"


@pytest.mark.parametrize("how", ["typed", "dropped"])
def test_entities_are_marked_where_they_stand_in_the_text(page, tags_server, how):
    text = "\ufeff" + TEXT if how == "dropped" else TEXT
    entities = tags_server.client.post("/predict", json={"text": text}).json()["predictions"][0]["entities"]
    opened(page, tags_server, "#text-form")

    if how == "typed":
        page.fill("#text", text)
        page.press("#text", "Control+Enter")
    else:
        page.evaluate(DROP, ["#text", "drop", "letter.txt", list(text.encode())])

    said(page, "entit")
    marked = page.locator("#marked mark").evaluate_all("marks => marks.map(mark => mark.firstChild.textContent)")
    assert marked == [entity["text"] for entity in entities]
    assert len(marked) > 2
    assert plain_text(page) == text


def test_several_labels_are_told_with_the_probability_of_each(page, multi_label_bundle):
    with serving(app_of(multi_label_bundle)) as server:
        opened(page, server, "#text-form")
        answer = server.client.post("/predict", json={"text": TEXT}).json()["predictions"][0]

        page.fill("#text", TEXT)
        page.get_by_role("button", name="Ask").click()

        expected = ", ".join(label["label"] for label in answer["labels"]) or "No label of at least 50 %"
        said(page, f"^{re.escape(expected)}$")
        assert page.locator("#bars tbody th").all_inner_texts() == list(answer["probabilities"])


def test_an_error_is_told_in_the_words_of_the_service(page, server):
    opened(page, server)
    choose(page, RED)
    said(page, "red")

    choose(page, b"junk")

    expected = server.client.post("/predict", files={"file": ("image.png", b"junk", "image/png")}).json()["error"]
    assert said(page, "expected") == expected["message"]
    assert (facts(page)["Status"], facts(page)["Code"]) == ("400", "undecodable_image")
    assert not page.locator("#bars").is_visible()


def test_markup_in_a_text_is_shown_and_not_run(page, tags_server):
    opened(page, tags_server, "#text-form")
    text = "<img src=x onerror=alert(1)> The fox <b>Ada</b>"

    page.fill("#text", text)
    page.press("#text", "Control+Enter")

    said(page, "entit")
    assert page.locator("#marked img, #marked b").count() == 0
    assert plain_text(page) == text


def test_a_text_is_asked_with_the_keyboard_alone(page, tags_server):
    opened(page, tags_server, "#text-form")

    page.keyboard.press("Tab")
    page.keyboard.type(TEXT)
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    page.keyboard.press("Enter")

    assert outline == "solid"
    assert "entit" in said(page, "entit")


def test_a_file_is_chosen_with_the_keyboard_alone(page, server):
    opened(page, server)

    # Around all of it: Chromium is told to hand over its choosers while the test goes on.
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.querySelector('#drop')).outlineStyle")
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "image.png", "mimeType": "image/png", "buffer": BLUE})

    assert outline == "solid"
    assert "blue" in said(page, "blue")


def test_live_numbers_move_with_requests(page, server):
    opened(page, server)
    page.locator("article").wait_for()

    for _ in range(40):
        server.client.post("/predict", content=RED)
    server.client.post("/predict", content=b"junk")

    chart = page.get_by_role("img", name=re.compile(r"Requests a second: now [\d.]*[1-9]"))
    chart.wait_for()
    page.get_by_role(
        "img", name=re.compile(r"Milliseconds: now p50 [\d.]+, p95 [\d.]+, p99 [\d.]+; at most")
    ).wait_for()
    assert float(totals(page)["Requests a second"]) > 1
    assert page.locator("article h3").all_inner_texts() == ["colours version 3 int8 · cpu"]
    below = page.locator("[data-chart=errors]").get_attribute("data-below")
    assert "1 undecodable_image" in below
    # A line, once there are two rates.
    chart.locator("path[d*=L]").wait_for(state="attached")


def lived_through(page: Any, counts: list[list[int]]) -> Any:
    """What the page's history makes of [seconds, requests counted so far]."""
    return page.evaluate(
        """async counts => {
            const { History, keyOf } = await import("/static/history.js");
            const history = new History();
            const series = 'tfpipe_requests_total{model="m",version="1"}';
            for (const [at, count] of counts) history.add(at, `${series} ${count}`);
            const key = keyOf("m", "1");
            return { requests: history.requests(key), rates: history.values(key, "requests_rps") };
        }""",
        counts,
    )


def test_labels_with_any_letters_are_read_from_metrics(page, server):
    """As prometheus_client writes them."""
    registry = CollectorRegistry()
    named = 'a "b" {c} \\n d\\ é, x="1"'
    Counter("tfpipe_errors", "Errors.", ("model", "type"), registry=registry).labels(named, "\n").inc(3)
    opened(page, server)

    read = page.evaluate(
        "async text => [...(await import('/static/history.js')).parse(text)]", generate_latest(registry).decode()
    )

    assert [(one["labels"], one["value"]) for one in read if one["name"] == "tfpipe_errors_total"] == [
        ({"model": named, "type": "\n"}, 3)
    ]


def test_a_counter_that_begins_anew_is_not_a_negative_rate(page, server):
    """As when the service was started again."""
    opened(page, server)

    told = lived_through(page, [[0, 1000], [2, 1010], [4, 4]])

    assert told == {"requests": 14, "rates": [[0, None], [2, 5], [4, 3.5]]}


def test_what_happened_in_a_long_pause_is_not_spread_over_it(page, server):
    opened(page, server)

    told = lived_through(page, [[0, 5], [2, 7], [600, 9000], [602, 9004]])

    assert told == {"requests": 4, "rates": [[600, None], [602, 2]]}


def test_the_split_between_versions_is_shown(page, several_server):
    opened(page, several_server)
    page.locator("article").first.wait_for()

    for _ in range(10):
        for version in ("9", "9", "9", "10"):
            several_server.client.post("/predict?model_name=colours&model_version=" + version, content=RED)

    page.get_by_role("img", name="Split of colours: version 9 75.0 %, version 10 25.0 %").wait_for()
    titles = page.locator("article h3").evaluate_all("all => all.map(title => title.firstChild.textContent)")
    assert titles == ["colours version 9", "colours version 10", "moods version 5"]
    assert page.locator("#splits figure").count() == 1


def test_a_hidden_page_does_not_poll(page, server):
    page.clock.install(time=0)
    page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => window.isHidden === true })")
    opened(page, server)
    polled: list[str] = []
    page.on("request", lambda request: polled.append(request.url))

    page.evaluate("window.isHidden = true")
    page.clock.run_for(60_000)
    while_hidden = list(polled)
    with page.expect_response("**/metrics"):
        page.evaluate("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")

    assert while_hidden == []


def test_a_model_and_a_version_are_chosen_where_there_are_several(page, several_server):
    opened(page, several_server)
    model, version = (page.get_by_role("combobox", name=name) for name in ("Model", "Version"))
    assert version.locator("option").all_inner_texts() == ["as routed", "9", "10"]

    for choice in ("9", "10"):
        version.select_option(choice)
        choose(page, RED)
        page.locator("#facts dd", has_text=re.compile(f"^{choice}$")).wait_for()
        assert f"model_name=colours&model_version={choice}'" in page.locator("#curl").text_content()
    model.select_option("moods")
    page.fill("#text", TEXT)
    page.press("#text", "Control+Enter")

    page.locator("#facts dd", has_text="moods").wait_for()
    assert not version.is_visible()


def test_a_model_of_named_tensors_is_left_to_programs(page, tmp_path):
    with serving(app_of(make_tensor_bundle(tmp_path / "tensors"))) as server:
        opened(page, server, "#tensors")

        assert not page.locator("#image-form, #text-form, details").filter(visible=True).count()


def test_a_key_is_asked_for_where_one_is_needed(page, server):
    def answer(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer opensesame":
            route.continue_()
        else:
            error = {"code": "unauthorized", "message": "key: expected one.", "details": {}, "request_id": "r"}
            route.fulfill(status=401, json={"error": error})

    page.route("**/predict", answer)
    opened(page, server)
    assert not page.get_by_label("API key").is_visible()

    choose(page, RED)
    said(page, "key: expected one")
    page.keyboard.type("opensesame")
    page.keyboard.press("Enter")

    assert "red" in said(page, "red")


def test_the_light_says_loading_and_when_nobody_answers(page, tmp_path):
    app = create_app(ServingSettings(model=str(tmp_path / "missing")), on_load_error=lambda error: None)

    with serving(app, until="loading") as server:
        page.goto(str(server.client.base_url))
        page.get_by_role("status").filter(has_text="loading").wait_for()
        assert not page.locator("#image-form, #text-form").first.is_visible()

    page.get_by_role("status").filter(has_text="unreachable").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["several", "text", "error"])
def test_axe_finds_no_barrier(page, server, several_server, tags_server, scheme, kind):
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    if kind == "text":
        opened(page, tags_server, "#text-form")
        page.fill("#text", TEXT)
        page.press("#text", "Control+Enter")
        said(page, "entit")
    else:
        opened(page, several_server if kind == "several" else server)
        choose(page, RED if kind == "several" else b"junk")
        said(page, "red|expected")
    page.locator("summary").click()
    page.locator("article svg").first.wait_for()
    # As where a key is needed.
    page.locator("#key-form").evaluate("form => { form.hidden = false; }")

    found = Axe().run(page)

    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found.response["violations"]] == []


@pytest.mark.parametrize("width", [320, 768])
def test_nothing_is_wider_than_a_small_screen(page, server, width):
    page.set_viewport_size({"width": width, "height": 700})
    opened(page, server)

    choose(page, RED)
    said(page, "red")

    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [320, 390])
def test_the_table_of_the_api_has_room_for_words_on_a_small_screen(page, server, width):
    page.set_viewport_size({"width": width, "height": 700})

    page.goto(f"{server.client.base_url}/docs")

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("Math.min(...[...document.querySelectorAll('td')].map(cell => cell.clientWidth))") > width / 2


@pytest.mark.parametrize(("motion", "moves"), [("reduce", 0), ("no-preference", 1)])
def test_nothing_moves_for_people_who_want_that(page, tmp_path, motion, moves):
    app = create_app(ServingSettings(model=str(tmp_path / "missing")), on_load_error=lambda error: None)
    page.emulate_media(reduced_motion=motion)

    with serving(app, until="loading") as server:
        page.goto(str(server.client.base_url))
        page.get_by_role("status").filter(has_text="loading").wait_for()

        assert page.evaluate("document.getAnimations().length") == moves
