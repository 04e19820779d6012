"""How far members have read, and when users were last seen."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE conversation_users
            -- everything up to it is read; members who are added begin at the end of the conversation
            ADD COLUMN read_seq bigint NOT NULL DEFAULT 0 CHECK (read_seq >= 0);

        -- What was said before positions were kept counts as read: nobody knows better, and to show all of it as
        -- unread would be of no use to anybody.
        UPDATE conversation_users SET read_seq = c.last_seq
        FROM conversations c WHERE c.id = conversation_users.conversation_id AND c.last_seq > 0;

        ALTER TABLE users
            -- when their last connection closed, or, while there is one, their first one opened
            ADD COLUMN last_seen_at timestamptz;
        """
    )


def downgrade() -> None:
    op.execute(
        """
        ALTER TABLE users DROP COLUMN last_seen_at;
        ALTER TABLE conversation_users DROP COLUMN read_seq;
        """
    )
