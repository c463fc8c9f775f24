"""Calls to servers on this machine never go to a proxy."""

import os

LOCAL = "127.0.0.1,localhost,::1"


def bypass_proxy() -> None:
    """By the variables that libraries look at."""
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if direct != "*" and LOCAL not in direct:
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{direct},{LOCAL}".lstrip(",")
