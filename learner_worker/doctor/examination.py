"""The table of checks, and how they are run: each with a time limit, independently of the others."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError

from learner_worker.contract.topics import TopicName
from learner_worker.doctor.case import Case
from learner_worker.doctor.connecting import (
    check_addresses,
    check_brokers,
    check_listener,
    check_login,
    check_versions,
)
from learner_worker.doctor.findings import Finding, Level, Report, error, note
from learner_worker.doctor.folder import check_files, check_folder, check_limits
from learner_worker.doctor.groups import check_group, check_requests_group
from learner_worker.doctor.rights import check_rights
from learner_worker.doctor.topics import check_configuration, check_copies, check_topics
from learner_worker.doctor.topology import check_changelog, check_topology
from learner_worker.doctor.traffic import (
    check_clocks,
    check_dead_letters,
    check_headers,
    check_partitioning,
    check_prices,
)
from learner_worker.interface.rights import Role
from learner_worker.lifecycle import KAFKA_FAILURES
from learner_worker.refusals.denials import denial, in_words
from learner_worker.settings import Settings

CHECK_SECONDS: Final = 20.0  # above each check's own time limits; a hanging one must not stop the rest


class Check(NamedTuple):
    """A check of the table.

    Attributes:
        gate: an error here means that Kafka cannot be used: later checks that need it are skipped.
    """

    name: str
    run: Callable[[Case], Awaitable[Sequence[Finding]]]
    needs_kafka: bool = True
    gate: bool = False


CHECKS: Final[tuple[Check, ...]] = (
    Check("state folder", check_folder, needs_kafka=False),
    Check("addresses", check_addresses, needs_kafka=False, gate=True),
    Check("listener", check_listener, gate=True),
    Check("login", check_login, gate=True),
    Check("brokers", check_brokers, gate=True),
    Check("version", check_versions),
    Check("topics", check_topics),
    Check("topology", check_topology),
    Check("changelog", check_changelog),
    Check("open files", check_limits),
    Check("configuration", check_configuration),
    Check("copies", check_copies),
    Check("rights", check_rights),
    Check("group", check_group),
    Check("requests", check_requests_group),
    Check("partitioning", check_partitioning),
    Check("headers", check_headers),
    Check("prices", check_prices),
    Check("dead letters", check_dead_letters),
    Check("clocks", check_clocks),
    Check("state files", check_files),
)


async def examine(
    settings: Settings,
    *,
    checks: Sequence[Check] = CHECKS,
    check_seconds: float = CHECK_SECONDS,
    role: Role = "worker",
) -> Report:
    """Runs the checks in their order. Reads only: creates no topic, group, record or file.

    Args:
        role: whose rights are checked.
    """
    findings: list[tuple[str, Finding]] = []
    left_out: list[str] = []
    async with AsyncExitStack() as stack:
        case = Case(settings, stack, role)
        shut = False
        for check in checks:
            if shut and check.needs_kafka:
                left_out.append(check.name)
                continue
            found = await _run(check, case, check_seconds)
            findings += [(check.name, finding) for finding in found]
            shut = shut or (check.gate and any(finding.level == Level.ERROR for finding in found))
    if left_out:
        findings.append(
            ("not checked", note(f"without Kafka: {', '.join(left_out)}", "fix the errors above first"))
        )
    return Report(findings)


async def _run(check: Check, case: Case, seconds: float) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(seconds):
            case.take_hidden()
            return _limited(await check.run(case), case.take_hidden())
    except TimeoutError:
        return [error(f"no answer within {seconds:g} s", "see whether Kafka is overloaded, then try again")]
    except (TopicAuthorizationFailedError, GroupAuthorizationFailedError) as refusal:
        # `rights` reports the permissions that a worker needs.
        refused = denial(refusal)
        return [note(f"cannot be checked: {refused.what if refused else refusal}", "see `rights` above")]
    except Exception as failure:  # noqa: BLE001 (one check that fails must not hide the others)
        if isinstance(failure, KAFKA_FAILURES):
            words = in_words(failure)
        else:
            words = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
        return [error(f"could not be checked ({words})", "fix what the other checks report, then try again")]


def _limited(found: Sequence[Finding], hidden: Collection[TopicName]) -> Sequence[Finding]:
    """The findings, without an "ok" about topics that this user may not see."""
    if not hidden:
        return found
    limit = note(
        f"cannot be checked in full: this user may not see topic {', '.join(sorted(hidden))}",
        "see `rights`: grant what it lists, then look again",
    )
    return [limit if finding.level == Level.OK else finding for finding in found]
