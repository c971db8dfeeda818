"""A bare aiohttp handler that answers the same bytes again and again: the floor of every route."""

import asyncio
import json
import sys

from aiohttp import web


async def _main(*, size: int) -> None:
    body = b"x" * size

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"ready\nhttp://127.0.0.1:{runner.addresses[0][1]}/", flush=True)  # noqa: T201 (to the bench)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_main(**json.loads(sys.argv[1])))
