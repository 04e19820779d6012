"""A program of somebody who has generated the package `pulse_client`: `program.py http://127.0.0.1:8000`.

Its annotations are what mypy holds the generated package to; its assertions are about a running service.
"""

import sys
from uuid import uuid4

from pulse_client import AuthenticatedClient, Client
from pulse_client.api.accounts import login, me, register, search_users
from pulse_client.api.conversations import create_conversation, list_conversations
from pulse_client.api.messages import (
    delete_message,
    edit_message,
    list_messages,
    list_read_positions,
    mark_read,
    post_message,
)
from pulse_client.models import (
    ConflictBody,
    ConversationBody,
    ConversationList,
    ConversationRequest,
    ErrorBody,
    ErrorBodyCode,
    Login,
    MessageBody,
    MessageChange,
    MessageList,
    NewMessageBody,
    PositionList,
    ReadMarkBody,
    Registration,
    TokenBody,
    UserBody,
    UserList,
)

PASSWORD = "correct horse battery staple"


def sign_up(base_url: str, username: str) -> tuple[UserBody, AuthenticatedClient]:
    """Creates an account, and signs in."""
    with Client(base_url=base_url, raise_on_unexpected_status=True) as client:
        user = register.sync(client=client, body=Registration(username=username, password=PASSWORD))
        assert isinstance(user, UserBody), user
        again = register.sync(client=client, body=Registration(username=username, password=PASSWORD))
        assert isinstance(again, ErrorBody)
        assert again.code == ErrorBodyCode.USERNAME_TAKEN
    with Client(base_url=base_url, raise_on_unexpected_status=True) as client:
        token = login.sync(client=client, body=Login(username=username, password=PASSWORD))
        assert isinstance(token, TokenBody), token
    return user, AuthenticatedClient(base_url=base_url, token=token.access_token, raise_on_unexpected_status=True)


def main(base_url: str) -> None:
    """Plays two users."""
    alice, client = sign_up(base_url, "alice")
    bob, client_of_bob = sign_up(base_url, "bob")
    with client, client_of_bob:
        who = me.sync(client=client)
        assert isinstance(who, UserBody)
        assert who.id == alice.id

        found = search_users.sync(client=client, query="bo")
        assert isinstance(found, UserList)
        assert [user.username for user in found.users] == ["bob"]

        body = ConversationRequest(is_group=True, name="Team", participant_ids=[bob.id])
        team = create_conversation.sync(client=client, body=body)
        assert isinstance(team, ConversationBody)
        assert (team.name, team.member_count, team.last_message) == ("Team", 2, None)

        new = NewMessageBody(content="Hello", client_id="m-1")
        sent = post_message.sync(team.id, client=client, body=new)
        assert isinstance(sent, MessageBody)
        again = post_message.sync_detailed(team.id, client=client, body=new)
        assert again.status_code == 200, "stored before"
        assert again.parsed == sent

        edited = edit_message.sync(team.id, sent.id, client=client, body=MessageChange(content="Hi", if_rev=sent.rev))
        assert isinstance(edited, MessageBody)
        assert (edited.content, edited.is_edited) == ("Hi", True)
        stale = edit_message.sync(team.id, sent.id, client=client, body=MessageChange(content="Ho", if_rev=sent.rev))
        assert isinstance(stale, ConflictBody)
        assert stale.current == edited
        foreign = edit_message.sync(team.id, sent.id, client=client_of_bob, body=MessageChange(content="Ho"))
        assert isinstance(foreign, ErrorBody)
        assert foreign.code == ErrorBodyCode.NOT_YOUR_MESSAGE

        page = list_messages.sync(team.id, client=client_of_bob, limit=10)
        assert isinstance(page, MessageList)
        assert page.messages == [edited]
        marked = mark_read.sync_detailed(team.id, client=client_of_bob, body=ReadMarkBody(seq=sent.seq))
        assert marked.status_code < 300
        positions = list_read_positions.sync(team.id, client=client)
        assert isinstance(positions, PositionList)
        assert {position.user_id: position.seq for position in positions.positions}[bob.id] == sent.seq

        deleted = delete_message.sync_detailed(team.id, sent.id, client=client)
        assert deleted.status_code == 204
        mine = list_conversations.sync(client=client_of_bob)
        assert isinstance(mine, ConversationList)
        (conversation,) = mine.conversations
        assert isinstance(conversation.last_message, MessageBody)
        assert (conversation.last_message.is_deleted, conversation.unread_count) == (True, 0)

        nobody = list_messages.sync(uuid4(), client=client)
        assert isinstance(nobody, ErrorBody)
        assert nobody.code == ErrorBodyCode.NOT_FOUND
    print("all is as generated")


if __name__ == "__main__":
    main(sys.argv[1])
