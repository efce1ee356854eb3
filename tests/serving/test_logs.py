import json
import logging

from serving.logs import JsonFormatter


def record(message: str, *args, **fields) -> logging.LogRecord:
    made = logging.LogRecord("serving.x", logging.WARNING, __file__, 1, message, args, None)
    made.fields = fields
    return made


def test_a_record_is_one_json_line_with_its_fields():
    line = JsonFormatter().format(record("größer\nals %s", "gedacht", request_id="abc", status=400))

    assert "\n" not in line
    event = json.loads(line)
    assert event.pop("time").endswith("+00:00")
    assert event == {
        "level": "warning",
        "logger": "serving.x",
        "message": "größer\nals gedacht",
        "request_id": "abc",
        "status": 400,
    }


def test_a_record_of_many_is_a_line_for_each():
    made = record("refused")
    made.many = [{"request_id": "a", "time": "then"}, {"request_id": "b\n"}]

    first, second = (json.loads(line) for line in JsonFormatter().format(made).split("\n"))

    assert (first["message"], first["level"], first["request_id"], first["time"]) == ("refused", "warning", "a", "then")
    assert (second["message"], second["request_id"]) == ("refused", "b\n")
    assert second["time"].endswith("+00:00")


def test_an_exception_has_its_traceback():
    made = record("failed")
    try:
        raise ValueError("why")
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)

    assert "ValueError: why" in json.loads(JsonFormatter().format(made))["traceback"]


def test_what_json_cannot_say_is_said_as_text():
    assert json.loads(JsonFormatter().format(record("x", path=logging)))["path"].startswith("<module 'logging'")
