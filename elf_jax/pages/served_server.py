"""Serves the page: what may be asked of it, and the server itself.

Gradio has addresses that this page does not need, such as for files from visitors. They are closed.
"""

import atexit
import contextlib
import json
import os
import socket
import sys

from elf_jax.core.errors import UserError
from elf_jax.pages.served import looks

MOST_BYTES = 1_000_000  # of a request
# What begins work: the first ones name a function by its number, the last one by its name.
BY_NUMBER, BY_NAME = ("/gradio_api/queue/join", "/gradio_api/run/predict"), "/gradio_api/call/"
ASKING = (*BY_NUMBER, BY_NAME)
OTHERS = ("/gradio_api/cancel", "/gradio_api/reset")
SECONDS_TO_END = 2  # for work that is going on when the program ends
PLAIN = str | int | float | None  # what a value of a request may be; bool is an int


class Guard:
    """An ASGI app before another one, which passes on only what the page needs.

    Args:
      app: the ASGI app. inputs: {name of a function, or its number: number of its values}.
    """

    def __init__(self, app, inputs):
        self._app, self._inputs = app, inputs

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        if scope["method"] != "POST" or not path.startswith((*ASKING, *OTHERS)):
            await _refuse(send, 404, "this page has no such address")
            return
        body = await _body(receive)
        if body is None:
            await _refuse(send, 413, f"a request has at most {MOST_BYTES:,} bytes")
            return
        fault = self._fault(path, body) if path.startswith(ASKING) else None
        if fault:
            await _refuse(send, 422, fault)
            return
        await self._app(scope, _again(body, receive), send)

    def _fault(self, path, body):
        """A sentence about what is wrong with a request that begins work; None if nothing is."""
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return "the request is no JSON"
        data = asked.get("data") if isinstance(asked, dict) else None
        if not isinstance(data, list) or not all(isinstance(one, PLAIN) for one in data):
            return "the request needs a list of texts and numbers, named data"
        name = asked.get("fn_index") if path in BY_NUMBER else path.removeprefix(BY_NAME)
        count = self._inputs.get(name) if isinstance(name, int | str) else None
        if count is None:
            return "this page has no such function"
        if len(data) != count:
            return f"the list named data has {len(data)} values, and {count} are needed"
        return None


async def _body(receive):
    """The body of a request; None if it is too large."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":  # the visitor has gone
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_BYTES:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body, receive):
    """A `receive` that gives the body first."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def run():
        return messages.pop() if messages else await receive()

    return run


async def _refuse(send, code, sentence):
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def listen(host, port):
    """A socket that listens. The port 0 stands for any that is free.

    Raises:
      UserError: the port is in use, or this machine does not have the address.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}; it must be from 0 (any free one) to 65535")
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=kind)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen at {host} port {port} ({reason}): name another --port or --host"
        ) from None


def address_of(listening):
    """The address of the page for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def app_of(blocks):
    """The ASGI app of a page."""
    import fastapi
    import gradio as gr

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        show_error=False,
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        **looks(),
    )
    functions = blocks.fns.values()
    inputs = {one._id: len(one.inputs) for one in functions}
    return Guard(app, inputs | {one.api_name: len(one.inputs) for one in functions})


def server_of(served, blocks):
    """A uvicorn.Server for a page. Its `run(sockets=[...])` returns after `should_exit` is set.

    Args:
      served: the `ServedModel`, whose work is cancelled then. blocks: its page.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets=None):
            served.stop(0)  # first, since the server waits for its threads
            await super().shutdown(sockets)

    settings = {"log_level": "critical", "timeout_graceful_shutdown": 1, "lifespan": "on"}
    return Server(uvicorn.Config(app_of(blocks), **settings))


def serve_until_interrupted(served, blocks, listening):
    """Serves a page at a socket until Ctrl-C, or until the program is asked to end.

    Args:
      served, blocks: see `server_of`. listening: from `listen`.
    """
    with contextlib.suppress(KeyboardInterrupt):
        server_of(served, blocks).run(sockets=[listening])
    if not served.stop(SECONDS_TO_END):
        # A compilation cannot be cancelled, and Python cannot end while it runs.
        atexit.register(_end)


def _end():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
