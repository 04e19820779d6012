"""A version number of a conversation's members."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE conversations
            -- incremented under the row lock by every statement that adds or removes members; a statement that has read
            -- the members before it got the lock compares it to detect a change
            ADD COLUMN members_version bigint NOT NULL DEFAULT 0 CHECK (members_version >= 0);
        """
    )


def downgrade() -> None:
    op.execute("ALTER TABLE conversations DROP COLUMN members_version")
