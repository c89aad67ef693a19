"""What the page's server turns away: whatever the page does not need."""

import re

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POSTS = ("/queue/join", "/cancel", "/reset")
"""Ends of the paths that a page posts to. Gradio has others, for uploads to its disk and things that run code."""
CLOSED = re.compile(r"/gradio_api/(deep_link|file|proxy|runs|stream|vibe)")
"""Paths that keep what a person did or show what was kept, read files of this machine, or ask others in its name."""
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
)
"""Gradio writes scripts into its page and makes functions of texts, but nothing has to come from anywhere else."""


class Gate:
    """ASGI middleware that lets through what the page needs, no body larger than it may send, and no address outside.

    Args:
        app: what is behind it.
        max_bytes: of a body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        code = self._refusal(scope)
        if code:
            await PlainTextResponse("refused", code)(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, answer)

    def _refusal(self, scope: Scope) -> int:
        """The status of a refused request; 0: it is let through."""
        path = scope["path"].rstrip("/")
        if scope["method"] in ("GET", "HEAD"):
            return 403 if CLOSED.search(path) else 0
        if scope["method"] != "POST" or not path.endswith(POSTS):
            return 403
        length = dict(scope["headers"]).get(b"content-length")
        if length is None:
            return 411
        return 413 if int(length) > self.max_bytes else 0
