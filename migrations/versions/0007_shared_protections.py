"""Tickets and limited attempts, which several processes of the service share.

The tables are not logged: a crash or a failover empties them. Then unused tickets are rejected and limits begin anew,
which a restart of the service did before. In return a change of a row waits for no disk.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute(
        """
        CREATE UNLOGGED TABLE tickets (
            digest bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
            user_id uuid NOT NULL,
            -- NULL for a ticket that opens a session
            conversation_id uuid,
            -- of the token that the ticket was drawn with, in seconds since the epoch
            token_expires double precision NOT NULL,
            signed_in double precision,
            drawn_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            expires_at timestamptz NOT NULL
        );
        CREATE INDEX tickets_user ON tickets (user_id, drawn_at);
        CREATE INDEX tickets_expiry ON tickets (expires_at);

        CREATE UNLOGGED TABLE attempt_buckets (
            key bytea PRIMARY KEY CHECK (octet_length(key) = 16),
            -- tokens that were missing at `counted_at`; the rate at which they come back is a setting
            missing double precision NOT NULL CHECK (missing >= 0),
            counted_at timestamptz NOT NULL
        );
        CREATE INDEX attempt_buckets_counted ON attempt_buckets (counted_at);
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE attempt_buckets, tickets")
