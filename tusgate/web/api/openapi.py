"""The API described by itself: an OpenAPI 3.1 document from its operations and models, and a page for people.

The page is plain HTML that was rendered here: no script, nothing from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
from http import HTTPStatus
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from pydantic.json_schema import models_json_schema

import tusgate
from tusgate.web.api.door import PARAMETER, ROOT, Operation, dump
from tusgate.web.api.models import ProblemDetails
from tusgate.web.problem_json import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import BaseModel
    from pydantic.json_schema import JsonSchemaMode

    from tusgate.web.api.door import ApiCall

_SCHEMAS: Final = "#/components/schemas/"
_ALWAYS: Final = (401, 403, 500, 503)
_NO_CONTENT: Final = 204
_BEARER: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "A static token, a JWT or an upload token, where the server asks for one; none where a proxy knows"
    " its users, or everybody may.",
}
_IN_PATHS: Final = {
    "id": "Of the file.",
    "share": "Of the share link.",
    "job": "Of the job, as it was claimed; a secret.",
    "name": "What the file is to the one that it was made of, such as `thumbnail`.",
    "algorithm": "`sha256`, `crc64nvme` or `client`.",
    "value": "Hexadecimal digits of the digest, or the client's own text.",
}


def document_of(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of `operations`."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(ROOT + operation.path, {})[operation.method.lower()] = _operation(operation)
    _, definitions = models_json_schema(list(_models(operations)), ref_template=_SCHEMAS + "{model}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tusgate",
            "version": tusgate.__version__,
            "description": "Files that were uploaded, and those on their way.",
        },
        "security": [{"bearer": []}, {}],
        "paths": paths,
        "components": {"schemas": definitions["$defs"], "securitySchemes": {"bearer": _BEARER}},
    }


def _models(operations: Sequence[Operation]) -> Iterator[tuple[type[BaseModel], JsonSchemaMode]]:
    yield ProblemDetails, "serialization"
    for operation in operations:
        if operation.body is not None:
            yield operation.body, "validation"
        if operation.result is not None:
            yield operation.result, "serialization"


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if operation.description:
        described["description"] = operation.description
    parameters = list(_parameters(operation))
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _json_of(operation.body)}
    elif operation.takes_any_body:
        described["requestBody"] = {"required": True, "content": {"*/*": {}}}
    described["responses"] = {
        str(status): _success(operation, status) if status < HTTPStatus.MULTIPLE_CHOICES else _other(status)
        for status in (operation.status, *sorted((*operation.problems, *_ALWAYS)))
    }
    return described


def _parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    for name in PARAMETER.findall(operation.path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
            "description": _IN_PATHS[name],
        }
    if operation.query is not None:
        model = operation.query.model_json_schema(ref_template=_SCHEMAS + "{model}")
        for name, schema in model["properties"].items():
            yield {
                "name": name,
                "in": "query",
                "required": name in model.get("required", ()),
                "schema": {key: value for key, value in schema.items() if key not in ("title", "description")},
                "description": schema.get("description", ""),
            }


def _json_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _SCHEMAS + model.__name__}}}


def _success(operation: Operation, status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status == _NO_CONTENT:
        return answer
    if operation.result is not None:
        answer["content"] = _json_of(operation.result)
    else:
        answer["content"] = {operation.produces: {}}
    return answer


def _other(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status >= HTTPStatus.BAD_REQUEST:
        answer["content"] = {MEDIA_TYPE: {"schema": {"$ref": _SCHEMAS + ProblemDetails.__name__}}}
    return answer


class Reference:
    """The document and the page of `operations`."""

    def __init__(self, all_operations: Sequence[Operation]) -> None:
        operations = [operation for operation in all_operations if operation.is_described]
        self.document = document_of(operations)
        style = resources.files(__package__).joinpath("reference.css").read_text("utf-8")
        template = Template(resources.files(__package__).joinpath("reference.html").read_text("utf-8"))
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self._policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'"
        self._json = dump(self.document)
        self._page = template.substitute(
            style=style,
            version=html.escape(tusgate.__version__),
            operations="".join(_section(operation, self.document) for operation in operations),
            schemas="".join(_schema(name, schema) for name, schema in self.document["components"]["schemas"].items()),
        ).encode()

    def operations(self) -> tuple[Operation, ...]:
        """Return what answers with them; both are open to anybody, and not described themselves."""
        return (
            Operation(method="GET", path="/openapi.json", name="openapi", summary="", answer=self.show_document),
            Operation(method="GET", path="/reference", name="reference", summary="", answer=self.show_page),
        )

    async def show_document(self, _call: ApiCall) -> web.Response:
        """Answer with the OpenAPI document."""
        return _static(self._json, "application/json", {})

    async def show_page(self, _call: ApiCall) -> web.Response:
        """Answer with the page."""
        headers = {"Content-Security-Policy": self._policy, "Referrer-Policy": "no-referrer"}
        return _static(self._page, "text/html", headers)


def _static(content: bytes, content_type: str, headers: dict[str, str]) -> web.Response:
    return web.Response(
        body=content, content_type=content_type, charset="utf-8", headers={"Cache-Control": "no-cache", **headers}
    )


def _section(operation: Operation, document: dict[str, Any]) -> str:
    described = document["paths"][ROOT + operation.path][operation.method.lower()]
    rows = "".join(
        f"<tr><td><code>{html.escape(each['name'])}</code><td>{each['in']}<td>{_prose(each['description'])}"
        for each in described.get("parameters", ())
    )
    answers = ", ".join(
        f"{status} {html.escape(each['description'])}" for status, each in described["responses"].items()
    )
    result = " with " + _link(operation.result.__name__) if operation.result else ""
    return (
        f'<section id="{operation.name}"><h2><code>{operation.method} {html.escape(ROOT + operation.path)}</code></h2>'
        f"<p><strong>{html.escape(operation.summary)}.</strong> {_prose(operation.description)}</p>"
        + (f"<table>{rows}</table>" if rows else "")
        + (f"<p>Body: {_link(operation.body.__name__)}</p>" if operation.body else "")
        + f"<p>Answers: {answers}{result}</p></section>"
    )


def _schema(name: str, schema: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(member)}</code><td>{_type_of(each)}<td>{_prose(each.get('description', ''))}"
        for member, each in schema.get("properties", {}).items()
    )
    values = ", ".join(html.escape(str(value)) for value in schema.get("enum", ()))
    return (
        f'<section id="{html.escape(name)}"><h2>{html.escape(name)}</h2>'
        f"<p>{_prose(schema.get('description', ''))}{' One of ' + values if values else ''}</p>"
        + (f"<table>{rows}</table>" if rows else "")
        + "</section>"
    )


def _type_of(schema: dict[str, Any]) -> str:
    """Return the type of a member as a reader wants it."""
    if "$ref" in schema:
        return _link(schema["$ref"].removeprefix(_SCHEMAS))
    if "anyOf" in schema:
        return " or ".join(_type_of(each) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"array of {_type_of(schema['items'])}"
    if "enum" in schema:
        return ", ".join(html.escape(str(value)) for value in schema["enum"])
    return html.escape(str(schema.get("format", schema.get("type", "any"))))


def _link(name: str) -> str:
    return f'<a href="#{html.escape(name)}">{html.escape(name)}</a>'


def _prose(text: str) -> str:
    """Return text with its `code` marked."""
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces))
