"""The three events that swarm services publish."""

from typing import Annotated

from pydantic import Field

from learner_worker.contract.fields import AgentIdField, Description, Message, Sats, TaskIdField, Time


class BidPlaced(Message):
    """An agent bid for a task."""

    task_id: TaskIdField
    agent_id: AgentIdField
    bid_sats: Sats
    description: Annotated[Description, Field(description="The task's text, as the agent saw it.")]
    placed_at: Annotated[Time | None, Field(description="Missing: the record's own time.")] = None


class AuctionClosed(Message):
    """An auction ended: the lowest bid won, or nobody did. A later close corrects an earlier one."""

    task_id: TaskIdField
    winner_agent_id: Annotated[AgentIdField | None, Field(description="Null: nobody won.")]
    winning_bid_sats: Annotated[Sats | None, Field(description="When given, it is the winner's bid.")]
    closed_at: Annotated[Time | None, Field(description="Missing: the record's own time.")] = None
    description: Description | None = None


class TaskFinished(Message):
    """The winner delivered, or failed."""

    task_id: TaskIdField
    agent_id: AgentIdField
    succeeded: bool
    finished_at: Annotated[Time | None, Field(description="Missing: the record's own time.")] = None


Event = BidPlaced | AuctionClosed | TaskFinished
