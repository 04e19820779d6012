"""Leases of processes: whoever removes a user waits for those that have not confirmed it.

The table is logged, unlike those of tickets: a lease that a crash of the database forgets would not be waited for.
"""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE process_leases (
            id uuid PRIMARY KEY,
            -- raised by each renewal; nobody compares the clocks of two machines
            renewals bigint NOT NULL DEFAULT 0,
            -- somebody waits for its end: it cannot be renewed any more
            is_fenced boolean NOT NULL DEFAULT false
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE process_leases")
