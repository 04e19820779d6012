"""Read positions of members, and last-seen times of users."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE conversation_users
            -- the seq up to which the member has read; a new member starts at the end of the conversation
            ADD COLUMN read_seq bigint NOT NULL DEFAULT 0 CHECK (read_seq >= 0);

        -- Existing messages count as read: their true state is unknown, and showing them all as unread would not help.
        UPDATE conversation_users SET read_seq = c.last_seq
        FROM conversations c WHERE c.id = conversation_users.conversation_id AND c.last_seq > 0;

        ALTER TABLE users
            -- when their last connection closed; while they are online, when their first one opened
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
