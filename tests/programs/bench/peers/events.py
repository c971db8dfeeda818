"""The three events as a peer's user would declare them."""

from pydantic import BaseModel


class Bid(BaseModel):
    """An agent bid for a task."""

    task_id: str
    agent_id: str
    bid_sats: int
    description: str


class Close(BaseModel):
    """An auction ended."""

    task_id: str
    winner_agent_id: str | None
    winning_bid_sats: int | None


class Finish(BaseModel):
    """The winner delivered, or failed."""

    task_id: str
    agent_id: str
    succeeded: bool
