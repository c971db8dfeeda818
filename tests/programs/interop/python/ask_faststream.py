"""Asks through FastStream: a publisher with `reply_to`, a subscriber of the replies."""

# mypy: disable-error-code="import-not-found"
# (FastStream is installed in a venv of its own, beside this file)

import asyncio
import importlib
import sys
import uuid
from importlib.metadata import version
from typing import Any

from faststream.exceptions import FeatureNotSupportedException
from reporting import Plan, Question, read_plan, tell

PATIENCE_SECONDS = 15.0
SILENCE_SECONDS = 4.0


class Replies:
    """Who waits for which correlation id."""

    def __init__(self) -> None:
        self._pending: dict[str, asyncio.Future[Any]] = {}

    def expect(self, correlation_id: str) -> "asyncio.Future[Any]":
        """The reply to come."""
        self._pending[correlation_id] = asyncio.get_running_loop().create_future()
        return self._pending[correlation_id]

    def deliver(self, message: Any) -> None:
        """Hand a reply to who waits for it."""
        pending = self._pending.pop(message.correlation_id, None)
        if pending is not None:
            pending.set_result(message)


async def converse(plan: Plan, broker: Any, message_type: Any) -> None:
    """The same questions keyed and without a key, then the errors."""
    replies = Replies()

    async def read(body: Any, message: Any) -> None:
        message.decoded = body
        replies.deliver(message)

    read.__annotations__ = {"body": Any, "message": message_type, "return": None}
    broker.subscriber(plan.reply_topic, auto_offset_reset="earliest")(read)
    publisher = broker.publisher(plan.requests, reply_to=plan.reply_topic)
    async with broker:
        await broker.start()
        for question in plan.asks:
            for way, key in (
                ("publisher, keyed", question.request["agent_id"].encode()),
                ("publisher, no key", None),
            ):
                message = await _ask(replies, publisher, question, key)
                tell(way=way, ask=question.name, reply=message.decoded)
        message = await _ask(replies, publisher, plan.wrong, None)
        code = message.headers["learner-error"]
        tell(
            way="publisher, no key",
            ask=plan.wrong.name,
            error=f"message.headers['learner-error']: {code}, body {message.decoded}",
        )
        await _ask_for_an_unlisted_topic(plan, broker, replies)
        await _request(plan, broker)


async def _ask(replies: Replies, publisher: Any, question: Question, key: bytes | None) -> Any:
    correlation_id = str(uuid.uuid4())
    reply = replies.expect(correlation_id)
    await publisher.publish(question.request, key=key, correlation_id=correlation_id)
    return await asyncio.wait_for(reply, PATIENCE_SECONDS)


async def _ask_for_an_unlisted_topic(plan: Plan, broker: Any, replies: Replies) -> None:
    reply = replies.expect("refused")
    await broker.publish(
        plan.refused.request, plan.requests, reply_to=plan.unlisted_topic, correlation_id="refused"
    )
    try:
        message = await asyncio.wait_for(reply, SILENCE_SECONDS)
        tell(way="unlisted", ask=plan.refused.name, reply=message.decoded)
    except TimeoutError:
        tell(way="unlisted", ask=plan.refused.name, silence=f"nothing within {SILENCE_SECONDS:g} s")


async def _request(plan: Plan, broker: Any) -> None:
    """FastStream's own request-reply, where its Kafka brokers have it."""
    try:
        message = await broker.request(plan.asks[0].request, plan.requests, timeout=PATIENCE_SECONDS)
        tell(way="request", ask=plan.asks[0].name, reply=await message.decode())
    except FeatureNotSupportedException as error:
        tell(note=f"broker.request(): {error}")


def main() -> None:
    """The conversation on the named one of FastStream's two Kafka brokers."""
    plan, kind = read_plan(), sys.argv[2]
    module = importlib.import_module(f"faststream.{kind}")
    tell(version=version("faststream"))
    asyncio.run(converse(plan, module.KafkaBroker(plan.bootstrap_servers, logger=None), module.KafkaMessage))


if __name__ == "__main__":
    main()
