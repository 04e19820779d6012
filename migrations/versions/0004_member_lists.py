"""Indexes and counts with which lists of members and memberships cost no more than they show."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        """
        -- Both columns, so that a user's membership of a conversation is one probe of either index: the planner may
        -- choose the one that begins with the user, and must not read all of their conversations then.
        CREATE UNIQUE INDEX conversation_users_of_user ON conversation_users (user_id, conversation_id);
        DROP INDEX conversation_users_user_id;

        -- The first members of a group, and any page of them, without reading the others.
        CREATE INDEX conversation_users_by_position ON conversation_users (conversation_id, position);
        -- Statistics are dominated by small conversations, but large ones need good plans: assuming a thousand members
        -- and messages per conversation, the planner reads the first members in order, and finds one member or one
        -- client_id by all columns of its index.
        ALTER TABLE conversation_users ALTER COLUMN conversation_id SET (n_distinct = -0.001);
        ALTER TABLE messages ALTER COLUMN conversation_id SET (n_distinct = -0.001);

        ALTER TABLE conversations
            -- changed with the members, under the lock of this row
            ADD COLUMN member_count integer NOT NULL DEFAULT 0 CHECK (member_count >= 0);
        UPDATE conversations SET member_count = members.count
        FROM (SELECT conversation_id, count(*) FROM conversation_users GROUP BY conversation_id) members
        WHERE members.conversation_id = conversations.id;
        """
    )
    # Not for an empty table: while a plan is cached, a table whose statistics say "empty" is scanned completely.
    for table in ("conversation_users", "messages"):
        if op.get_bind().exec_driver_sql(f"SELECT EXISTS (SELECT FROM {table})").scalar():  # noqa: S608  # our own names
            op.execute(f"ANALYZE {table}")


def downgrade() -> None:
    op.execute(
        """
        ALTER TABLE conversations DROP COLUMN member_count;
        ALTER TABLE messages ALTER COLUMN conversation_id RESET (n_distinct);
        ALTER TABLE conversation_users ALTER COLUMN conversation_id RESET (n_distinct);
        DROP INDEX conversation_users_by_position;
        CREATE INDEX conversation_users_user_id ON conversation_users (user_id);
        DROP INDEX conversation_users_of_user;
        """
    )
