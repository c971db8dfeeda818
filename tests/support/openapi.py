"""Judges answers of an HTTP service by its OpenAPI document."""

import json
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from jsonschema import Draft202012Validator

Document = Mapping[str, Any]


def require_fit(document: Document, method: str, path: str, status: int, body: str) -> None:
    """Requires that an operation of the document has this answer, with this status and body."""
    responses = document["paths"][path][method]["responses"]
    assert str(status) in responses, f"{method} {path} answers {status}, which is not described"
    schema = responses[str(status)]["content"]["application/json"]["schema"]
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole).validate(json.loads(body))


def routes_of(routes: list[web.RouteDef]) -> set[tuple[str, str]]:
    """The methods and paths of a service's routes, as a document writes them."""
    return {(route.method.lower(), re.sub(r":[^{}]*}", "}", route.path)) for route in routes}
