"""What makes lists of members and of memberships cost what they show."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        """
        -- Both columns, so that a user's membership of a conversation is one probe by either index: the planner may
        -- take the one that begins with the user, and must not have to read all of their conversations then.
        CREATE UNIQUE INDEX conversation_users_of_user ON conversation_users (user_id, conversation_id);
        DROP INDEX conversation_users_user_id;
        """
    )


def downgrade() -> None:
    op.execute(
        """
        CREATE INDEX conversation_users_user_id ON conversation_users (user_id);
        DROP INDEX conversation_users_of_user;
        """
    )
