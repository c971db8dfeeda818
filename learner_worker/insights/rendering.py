"""Renders the pages' templates: everything is escaped, because every text is a stranger's."""

from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.laboratory.intervals import share_with_reach, with_reach


class Rendering:
    """Makes pages.

    Attributes:
        show_descriptions: whether tasks' texts are shown.
    """

    def __init__(self, *, show_descriptions: bool) -> None:
        self.show_descriptions = show_descriptions
        self._templates = Environment(
            loader=PackageLoader("learner_worker.insights"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            enable_async=False,
        )
        self._templates.globals.update(
            agent_link=agent_link,
            auction_link=auction_link,
            share=_share,
            share_with_reach=share_with_reach,
            with_reach=with_reach,
            show_descriptions=show_descriptions,
        )

    def page(self, name: str, *, title: str, **shown: Any) -> web.Response:
        """The page of a template; its name is also its place in the navigation."""
        text = self._templates.get_template(f"{name}.html").render(title=title, page=name, **shown)
        return web.Response(text=text, content_type="text/html")


def agent_link(agent_id: AgentId) -> str:
    """The address of an agent's page: in a parameter, where every id is possible."""
    return link("/agent", id=agent_id)


def auction_link(task_id: TaskId) -> str:
    """The address of an auction's page."""
    return link("/auction", id=task_id)


def link(path: str, **parameters: str) -> str:
    """An address with parameters."""
    return f"{path}?{urlencode(parameters, quote_via=quote)}" if parameters else path


def _share(rate: float) -> str:
    return f"{rate:.0%}"
