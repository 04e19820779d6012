"""Removes the client's secrets from texts of a server or a proxy, which may quote a request."""

import json
import re
from typing import Final
from urllib.parse import quote

HIDDEN: Final = "[hidden]"
IDENTIFIER: Final = re.compile(r"[a-z][a-z0-9_.\[\]]{0,63}")


def redacted(text: str, *secrets: str | None) -> str:
    """Returns the text without these secrets, in any encoding that a request uses for them."""
    for secret in secrets:
        if secret:
            forms = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
            forms.add(quote(secret, safe="", errors="replace"))
            for form in sorted(forms, key=len, reverse=True):
                text = text.replace(form, HIDDEN)
    return text


def identifier(text: str, token: str | None) -> str | None:
    """Returns a code or field name unchanged; None if it is not an identifier or contains the token."""
    return text if IDENTIFIER.fullmatch(text) and not (token and token in text) else None
