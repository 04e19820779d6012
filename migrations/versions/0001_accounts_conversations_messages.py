"""Accounts, conversations and messages."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE users (
            id uuid PRIMARY KEY,
            username text NOT NULL,
            -- NFKC and case-folded, to make names unique; in byte order, for searches by prefix
            username_key text COLLATE "C" NOT NULL UNIQUE,
            password_hash text,
            -- the user's id at an identity provider (`sub`)
            subject text UNIQUE,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            CHECK (char_length(username) BETWEEN 1 AND 32)
        );

        CREATE TABLE conversations (
            id uuid PRIMARY KEY,
            name text,
            description text,
            is_group boolean NOT NULL,
            -- the two members of a one-to-one, sorted, so that two users have only one
            direct_key text COLLATE "C" UNIQUE,
            owner_id uuid NOT NULL REFERENCES users (id),
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            last_seq bigint NOT NULL DEFAULT 0,
            last_rev bigint NOT NULL DEFAULT 0,
            CHECK (is_group = (direct_key IS NULL)),
            CHECK (last_seq >= 0),
            CHECK (last_rev >= last_seq)
        );

        CREATE TABLE conversation_users (
            conversation_id uuid NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            user_id uuid NOT NULL REFERENCES users (id),
            joined_at timestamptz NOT NULL,
            -- the order in which members joined, even if added at the same moment
            position bigint GENERATED ALWAYS AS IDENTITY,
            PRIMARY KEY (conversation_id, user_id)
        );
        CREATE INDEX conversation_users_user_id ON conversation_users (user_id);

        CREATE TABLE messages (
            id uuid PRIMARY KEY,
            conversation_id uuid NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            sender_id uuid NOT NULL REFERENCES users (id),
            content text NOT NULL,
            is_edited boolean NOT NULL DEFAULT false,
            -- a deleted message stays as a tombstone, so that its seq is never reused
            is_deleted boolean NOT NULL DEFAULT false,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            seq bigint NOT NULL,
            rev bigint NOT NULL,
            client_id text,
            -- the last edit or deletion, so that a retry after a lost answer is harmless
            revision_id uuid,
            UNIQUE (conversation_id, seq),
            UNIQUE (conversation_id, rev),
            CHECK (seq >= 1),
            CHECK (rev >= seq),
            CHECK (char_length(client_id) BETWEEN 1 AND 64),
            CHECK (content = '' OR NOT is_deleted)
        );
        CREATE UNIQUE INDEX messages_client_id ON messages (conversation_id, sender_id, client_id)
            WHERE client_id IS NOT NULL;

        -- One row: the epoch of this history, and the server on which it was last seen.
        CREATE TABLE history (
            only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
            epoch text NOT NULL,
            server text NOT NULL
        );
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE history, messages, conversation_users, conversations, users")
