"""Is there a network? Clients retry for most of a minute without one, so look before asking."""

from __future__ import annotations

import os
import socket
import urllib.parse


def hub_reachable() -> bool:
    """Whether the Hugging Face hub, or the one that HF_ENDPOINT names, can be asked and may be."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    url = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    return reachable(url.hostname or "", url.port or 443)


def reachable(host: str, port: int = 443) -> bool:
    """Whether a connection to `host` opens within seconds; behind a proxy, assume so."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True
