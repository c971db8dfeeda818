"""Writes the dashboard and the rules into deploy/."""

from tests.support.monitoring.files import FILES

for path, content in FILES.items():
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
