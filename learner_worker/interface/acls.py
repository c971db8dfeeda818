"""A role's rights as an administrator pastes them: lines of kafka-acls.sh, or a Strimzi KafkaUser."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any, Final

from learner_worker.interface.rights import GrantedRight, ResourceKind

_FLAGS: Final[dict[ResourceKind, str]] = {"topic": "--topic", "group": "--group", "cluster": "--cluster"}


def kafka_acls(rights: Sequence[GrantedRight], principal: str, bootstrap_servers: str) -> Iterator[str]:
    """One command for each resource."""
    for right in rights:
        name = "" if right.kind == "cluster" else f" {shlex.quote(right.name)}"
        pattern = " --resource-pattern-type prefixed" if right.prefixed else ""
        operations = " ".join(f"--operation {operation}" for operation in right.operations)
        yield (
            f"kafka-acls.sh --bootstrap-server {bootstrap_servers} --add --allow-principal "
            f"{shlex.quote(principal)} {operations} {_FLAGS[right.kind]}{name}{pattern}"
        )


def kafka_user(rights: Sequence[GrantedRight], name: str) -> dict[str, Any]:
    """A Strimzi KafkaUser; the name of the cluster is to be filled in."""
    return {
        "apiVersion": "kafka.strimzi.io/v1beta2",
        "kind": "KafkaUser",
        "metadata": {"name": name, "labels": {"strimzi.io/cluster": "NAME-OF-THE-KAFKA-CLUSTER"}},
        "spec": {
            "authentication": {"type": "scram-sha-512"},
            "authorization": {"type": "simple", "acls": [_acl(right) for right in rights]},
        },
    }


def _acl(right: GrantedRight) -> dict[str, Any]:
    resource: dict[str, str] = {"type": right.kind}
    if right.kind != "cluster":
        resource |= {"name": right.name, "patternType": "prefix" if right.prefixed else "literal"}
    return {"resource": resource, "operations": list(right.operations)}


def as_yaml(document: dict[str, Any]) -> str:
    """A document of mappings, lists of mappings and lists of words as YAML."""
    return "".join(_lines(document, ""))


def _lines(value: Any, indent: str) -> Iterator[str]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield f"{indent}{name}:\n"
            yield from _lines(inner, f"{indent}  ")
        elif inner and isinstance(inner, list) and isinstance(inner[0], dict):
            yield f"{indent}{name}:\n"
            for item in inner:
                first, *rest = _lines(item, f"{indent}    ")
                yield f"{indent}  - {first.lstrip()}"
                yield from rest
        else:
            shown = f"[{', '.join(inner)}]" if isinstance(inner, list) else _scalar(inner)
            yield f"{indent}{name}: {shown}\n"


def _scalar(text: str) -> str:
    return text if text.replace("-", "").replace(".", "").replace("/", "").isalnum() else f'"{text}"'
