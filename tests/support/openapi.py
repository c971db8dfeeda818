"""Judges answers of an HTTP service by its OpenAPI document. Run, it prints the document of insights."""

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from jsonschema import Draft202012Validator

from learner_worker.insights.openapi import document

Document = Mapping[str, Any]


def require_fit(described: Document, method: str, path: str, status: int, body: str) -> None:
    """Requires that an operation of the document has this answer, with this status and body."""
    responses = described["paths"][path][method]["responses"]
    assert str(status) in responses, f"{method} {path} answers {status}, which is not described"
    schema = responses[str(status)]["content"]["application/json"]["schema"]
    whole = {**schema, "components": described["components"]}
    Draft202012Validator(whole).validate(json.loads(body))


def routes_of(routes: list[web.RouteDef]) -> set[tuple[str, str]]:
    """The methods and paths of a service's routes, as a document writes them."""
    return {(route.method.lower(), re.sub(r":[^{}]*}", "}", route.path)) for route in routes}


if __name__ == "__main__":
    json.dump(document(), sys.stdout)
