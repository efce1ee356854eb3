"""The page at `/docs`: what the OpenAPI document says, as a table.

Written here, without a script: what draws such pages elsewhere is fetched from other people's servers, so that it
neither works where there is no way out nor keeps to itself who reads it.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from serving.routes.page import StaticFile

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>tfpipe: the API</title>
<link rel="icon" href="static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="static/page.css">
</head>
<body id="api">
<header>
  <h1>The API</h1>
  <p><a href="openapi.json">openapi.json</a> has all of it, for programs; <a href="./">the page</a> asks a model.</p>
</header>
{sections}
</body>
</html>
"""


def documentation(api: FastAPI) -> APIRouter:
    """The route of an application's page."""
    router = APIRouter(include_in_schema=False)

    def page(request: Request) -> Response:
        return StaticFile.of(api_page(api.openapi()), "text/html").answer(request)

    router.get("/docs")(page)
    return router


def api_page(document: Mapping[str, Any]) -> bytes:
    """HTML that lists the operations of an OpenAPI document under their first tags, in its order."""
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            rows = by_tag.setdefault(operation.get("tags", ["other"])[0], [])
            rows.append(_row(method.upper(), path, operation))
    sections = "\n".join(_section(tag, rows) for tag, rows in by_tag.items())
    return _PAGE.format(sections=sections).encode()


def _section(tag: str, rows: list[str]) -> str:
    head = '<thead><tr><th scope="col">Request</th><th scope="col">Does</th><th scope="col">Takes</th></tr></thead>'
    table = f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"
    return f"<section><h2>{escape(tag)}</h2>{table}</section>"


def _row(method: str, path: str, operation: Mapping[str, Any]) -> str:
    query = [f"?{one['name']}" for one in operation.get("parameters", ()) if one["in"] == "query"]
    takes = ", ".join([*query, *operation.get("requestBody", {}).get("content", {})])
    cells = (f"<code>{escape(f'{method} {path}')}</code>", escape(_says(operation)), escape(takes))
    return f"\n<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _says(operation: Mapping[str, Any]) -> str:
    summary, description = operation.get("summary", ""), operation.get("description", "")
    if not description:
        return str(summary)
    # In title case it is FastAPI's own, made of a function's name.
    return str(description) if summary.istitle() else f"{summary}. {description}"
