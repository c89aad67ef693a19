"""Serves the page, and nothing but the page, to this machine or to whom it is told to."""

import errno
import os
import socket
import threading
import webbrowser
from collections.abc import Callable

from perceptual_mae.app.studio import Studio
from perceptual_mae.errors import PmaeError, UsageError

# Before gradio is imported: it asks for them then. It would tell its makers of each start.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from starlette.middleware import Middleware

from perceptual_mae.app.gate import Gate
from perceptual_mae.app.page import make_page
from perceptual_mae.app.theme import head, make_theme

FIRST_PORT, TRIED = 7860, 100
TABS = 1000
"""Browser tabs whose images are held at once: those of the tab that was used least lately are dropped for a new one."""
SPARE = 100_000
"""Bytes of a request around an image: the name of its file, the mask, gradio's own words."""


def serve(studio: Studio, host: str, port: int | None, ready: Callable[[str], None]) -> None:
    """Serve a page until Ctrl-C.

    Args:
        studio: what the page shows.
        host: the address to listen at.
        port: None: the first free one.
        ready: is given the page's address once it can be opened.

    Raises:
        UsageError: no such address of this machine.
        PmaeError: the port, or all that were tried, are in use.
    """
    _, address = launch(studio, host, port)
    try:
        ready(address)
        threading.Event().wait()
    except KeyboardInterrupt:
        # The server's thread ends with the process. To close it first would be to wait for the tabs that are open.
        return


def launch(studio: Studio, host: str, port: int | None) -> tuple[gr.Blocks, str]:
    """Begin to serve a page: it, and its address. Arguments and errors as `serve`."""
    free = find_port(host, port)
    page = make_page(studio)
    _reach_without_proxy(host)
    try:
        _, address, _ = page.launch(
            server_name=f"[{host}]" if ":" in host else host,  # of IPv6, as it stands in an address
            server_port=free,
            head=head(),
            theme=make_theme(),
            max_file_size=studio.max_bytes,
            # base64 has four letters for three bytes.
            app_kwargs={"middleware": [Middleware(Gate, max_bytes=studio.max_bytes * 4 // 3 + SPARE)]},
            state_session_capacity=TABS,
            prevent_thread_lock=True,
            quiet=True,
            # Whatever gradio would else do by itself, or because an environment variable says so.
            share=False,
            inbrowser=False,
            inline=False,
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
            footer_links=[],
        )
    except OSError as error:  # somebody else was faster
        raise PmaeError(f"--port {free}: it is in use") from error
    return page, address


def find_port(host: str, port: int | None) -> int:
    """The port asked for if it is free, or the first free one.

    Raises:
        UsageError: no such address, or no such port.
        PmaeError: the port, or all that were tried, are in use.
    """
    if port is not None and not 0 < port < 65536:
        raise UsageError(f"--port {port}: a port is a number from 1 to 65535")
    try:
        family, *_, place = socket.getaddrinfo(host, port or FIRST_PORT, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host}: there is no such address") from None
    ports = range(FIRST_PORT, FIRST_PORT + TRIED) if port is None else [port]
    reason = ""
    for each in ports:
        try:
            socket.create_server((place[0], each), family=family).close()
            socket.create_server(("127.0.0.1", each)).close()  # where gradio looks, whatever the host
            return each
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UsageError(f"--host {host}: it is no address of this machine") from None
            reason = os.strerror(error.errno or 0).lower()
    if port is None:
        raise PmaeError(f"no port from {FIRST_PORT} to {ports[-1]} is free: choose another with --port")
    raise PmaeError(f"--port {port}: {reason}; without --port the first free one is taken")


def open_browser(address: str) -> None:
    """Show a page in whatever browser the system opens pages with; where there is none, nothing happens."""
    webbrowser.open(address)


def _reach_without_proxy(host: str) -> None:
    """Let gradio, which asks its own server whether it is there, not do so by way of a proxy that does not know it."""
    for name in ("no_proxy", "NO_PROXY"):
        others = os.environ.get(name, "")
        os.environ[name] = ",".join(filter(None, [others, host, "localhost", "127.0.0.1"]))
