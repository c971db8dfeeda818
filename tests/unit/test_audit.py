"""`.ci/audit` by what pip-audit answers: a finding fails, a service that cannot be asked is only said so."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_ASKED = "not here: osv.dev, which pip-audit asks for known vulnerabilities: nothing was looked for"
URL = "for url: https://api.osv.dev/v1/query"


def audited(folder: Path, *, report: str, log: str, status: int) -> subprocess.CompletedProcess[str]:
    """The script in a folder of its own, with tools that print this."""
    tools = folder / ".venv" / "audit"
    (tools / "bin").mkdir(parents=True)
    (folder / "requirements").mkdir()
    (folder / "requirements" / "audit.lock").touch()
    (tools / ".ready").touch()
    (folder / "report").write_text(report)
    (folder / "log").write_text(log)
    for name, script in (
        ("cyclonedx-py", "exit 0"),
        ("pip-audit", f"cat '{folder}/report'; cat '{folder}/log' >&2; exit {status}"),
    ):
        path = tools / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "audit", folder / ".ci" / "audit")
    command = ["/bin/sh", str(folder / ".ci" / "audit")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "said",
    [
        "ERROR:pip_audit._cli:Could not connect to OSV's vulnerability feed\nTip: no connection",
        "requests.exceptions.ReadTimeout: HTTPSConnectionPool(...): Read timed out.",
        f"requests.exceptions.HTTPError: 429 Client Error: Too Many Requests {URL}",
        f"requests.exceptions.HTTPError: 500 Server Error: Internal Server Error {URL}",
        f"requests.exceptions.HTTPError: 503 Server Error: Service Unavailable {URL}",
    ],
)
def test_a_service_that_cannot_be_asked_now_fails_no_check(tmp_path: Path, said: str) -> None:
    """Whether nobody answers, or with an overload or a fault of its own."""
    done = audited(tmp_path, report="", log=f"Traceback (most recent call last):\n{said}\n", status=1)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, NOT_ASKED)


@pytest.mark.parametrize(
    "said",
    [
        f"requests.exceptions.HTTPError: 400 Client Error: Bad Request {URL}",
        "KeyError: 'vulns'",
        "pip-audit: error: argument -r/--requirement: can't open 'requirements/run.lock'",
    ],
)
def test_a_mistake_of_ours_fails_with_its_words(tmp_path: Path, said: str) -> None:
    """What is asked wrongly would never be answered."""
    done = audited(tmp_path, report="", log=f"{said}\n", status=1)
    assert done.returncode == 1
    assert said in done.stdout


@pytest.mark.parametrize("status", [0, 1])
def test_a_report_decides(tmp_path: Path, status: int) -> None:
    """With findings it is printed, and the check fails; the log is printed in either case."""
    done = audited(tmp_path, report='{"dependencies": []}\n', log="looked\n", status=status)
    assert done.returncode == status
    assert ("dependencies" in done.stdout) is bool(status)
    assert done.stdout.endswith("looked\n")
