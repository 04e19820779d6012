"""Keeps secrets of this client out of texts that a server, or a proxy, wrote: either may quote a request."""

import json
import re
from typing import Final
from urllib.parse import quote

HIDDEN: Final = "[hidden]"
IDENTIFIER: Final = re.compile(r"[a-z][a-z0-9_.\[\]]{0,63}")


def redacted(text: str, *secrets: str | None) -> str:
    """The text without these secrets, however a request that it quotes encoded them."""
    for secret in secrets:
        if secret:
            forms = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
            forms.add(quote(secret, safe="", errors="replace"))
            for form in sorted(forms, key=len, reverse=True):
                text = text.replace(form, HIDDEN)
    return text


def identifier(text: str, token: str | None) -> str | None:
    """A code or the name of a field as it is, for programs; None if it is none, or quotes the token."""
    return text if IDENTIFIER.fullmatch(text) and not (token and token in text) else None
