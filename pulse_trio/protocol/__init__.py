"""The WebSocket protocol: every frame and close code, and how frames are read and written. No I/O.

`docs/protocol.md` describes it for people; a test holds the two together. A frame is a JSON object in a text message;
its field `type` names its kind. Unknown fields of a client's frame are ignored, so that clients may be newer than the
server.

- `client_frames`, `frames`: what clients and the server send, one struct a frame
- `fields`: the types of the fields
- `reader`: reads client frames by their structs
- `wire`: encodes server frames as bytes
- `close_codes`: why a connection ends
"""

from typing import Final, get_args

from pulse_trio.protocol.client_frames import (
    AboutConversation,
    ClientFrame,
    DeleteMessage,
    EditMessage,
    SendAuth,
    SendMessage,
    SendPing,
    SendRead,
    SendResume,
    SendTyping,
    SendWatch,
)
from pulse_trio.protocol.close_codes import CloseCode
from pulse_trio.protocol.fields import (
    MAX_CLIENT_ID_CHARS,
    MAX_REV,
)
from pulse_trio.protocol.frames import (
    FRAME_ERRORS,
    AuthFrame,
    ConversationAddedFrame,
    ConversationFrame,
    ConversationRemovedFrame,
    ErrorFrame,
    FeaturesFrame,
    Frame,
    MemberEntry,
    MemberFrame,
    MembershipFrame,
    MessageDeletedFrame,
    MessageFrame,
    MessageUpdatedFrame,
    PongFrame,
    Position,
    PresenceFrame,
    PresentUser,
    ReadFrame,
    ServerFrame,
    SessionFrame,
    SystemFrame,
    TypingFrame,
    UserPresence,
    UsersFrame,
    error_frame,
)
from pulse_trio.protocol.reader import (
    FrameError,
    FrameReader,
    content_problem,
)
from pulse_trio.protocol.wire import (
    Encoded,
    encode,
    text_header,
)

SUBPROTOCOL: Final = "pulse.v1"
"""The only subprotocol that the server chooses in a handshake."""

BEARER_PREFIX: Final = "bearer."
"""Prefix of the `Sec-WebSocket-Protocol` entry that carries the token; the server never chooses that entry."""

SESSION_ONLY: Final[frozenset[type[Frame]]] = frozenset(
    frame for frame in (*get_args(ClientFrame), *get_args(ServerFrame)) if frame.is_session_only
)
"""Frames that exist only on a session's connection."""

__all__ = [
    "BEARER_PREFIX",
    "FRAME_ERRORS",
    "MAX_CLIENT_ID_CHARS",
    "MAX_REV",
    "SESSION_ONLY",
    "SUBPROTOCOL",
    "AboutConversation",
    "AuthFrame",
    "ClientFrame",
    "CloseCode",
    "ConversationAddedFrame",
    "ConversationFrame",
    "ConversationRemovedFrame",
    "DeleteMessage",
    "EditMessage",
    "Encoded",
    "ErrorFrame",
    "FeaturesFrame",
    "Frame",
    "FrameError",
    "FrameReader",
    "MemberEntry",
    "MemberFrame",
    "MembershipFrame",
    "MessageDeletedFrame",
    "MessageFrame",
    "MessageUpdatedFrame",
    "PongFrame",
    "Position",
    "PresenceFrame",
    "PresentUser",
    "ReadFrame",
    "SendAuth",
    "SendMessage",
    "SendPing",
    "SendRead",
    "SendResume",
    "SendTyping",
    "SendWatch",
    "ServerFrame",
    "SessionFrame",
    "SystemFrame",
    "TypingFrame",
    "UserPresence",
    "UsersFrame",
    "content_problem",
    "encode",
    "error_frame",
    "text_header",
]
