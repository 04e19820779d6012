"""One order for all changes of a conversation, and a sequence of their own for each user."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        """
        CREATE SEQUENCE conversation_activity;

        ALTER TABLE conversations
            DROP COLUMN members_version,
            -- the rev of the latest change of each kind; a statement that has read the members before it got the lock
            -- of this row compares `members_rev` to detect a change
            ADD COLUMN message_rev bigint NOT NULL DEFAULT 0,
            ADD COLUMN members_rev bigint NOT NULL DEFAULT 0 CHECK (members_rev >= 0),
            ADD COLUMN properties_rev bigint NOT NULL DEFAULT 0 CHECK (properties_rev >= 0),
            ADD COLUMN properties_by uuid,
            -- the latest commands that changed the properties, the newest first: their repeats change nothing
            ADD COLUMN properties_command_ids uuid[],
            -- the order of conversations in a list; not indexed, so that a message updates this row in place
            ADD COLUMN activity bigint NOT NULL DEFAULT 0;
        UPDATE conversations SET message_rev = last_rev, activity = numbered.activity
        FROM (SELECT id, row_number() OVER (ORDER BY updated_at, id) AS activity FROM conversations) numbered
        WHERE numbered.id = conversations.id;
        SELECT setval('conversation_activity', max(activity)) FROM conversations HAVING max(activity) > 0;
        ALTER TABLE conversations
            -- set now, because a volatile default of a new column would rewrite the table a second time
            ALTER COLUMN activity SET DEFAULT nextval('conversation_activity'),
            ADD CHECK (greatest(message_rev, members_rev, properties_rev) <= last_rev);
        ALTER SEQUENCE conversation_activity OWNED BY conversations.activity;

        ALTER TABLE users
            -- numbers the changes of the user's memberships
            ADD COLUMN last_rev bigint NOT NULL DEFAULT 0 CHECK (last_rev >= 0);

        ALTER TABLE conversation_users
            -- NULL for a member since the creation, which takes no rev
            ADD COLUMN rev bigint CHECK (rev > 0),
            ADD COLUMN user_rev bigint NOT NULL DEFAULT 0 CHECK (user_rev >= 0),
            ADD COLUMN added_by uuid,
            -- the latest commands that added or removed this user, the newest first: their repeats change nothing
            ADD COLUMN command_ids uuid[];
        CREATE UNIQUE INDEX conversation_users_rev ON conversation_users (conversation_id, rev) WHERE rev IS NOT NULL;
        CREATE INDEX conversation_users_user_rev ON conversation_users (user_id, user_rev);

        -- Those who left, in a table of their own: a flag in conversation_users that one query forgets would let in
        -- somebody who was removed. Coming back deletes the row.
        CREATE TABLE former_members (
            conversation_id uuid NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            user_id uuid NOT NULL REFERENCES users (id),
            rev bigint NOT NULL CHECK (rev > 0),
            user_rev bigint NOT NULL CHECK (user_rev > 0),
            left_at timestamptz NOT NULL,
            removed_by uuid NOT NULL,
            command_ids uuid[] NOT NULL,
            PRIMARY KEY (conversation_id, user_id),
            UNIQUE (conversation_id, rev)
        );
        CREATE INDEX former_members_user_rev ON former_members (user_id, user_rev);
        -- As for conversation_users in 0004: large groups need good plans.
        ALTER TABLE former_members ALTER COLUMN conversation_id SET (n_distinct = -0.001);

        -- The ids of earlier edits are not taken over: only the process that made an edit repeats it, and none of them
        -- runs now. So no message is rewritten.
        ALTER TABLE messages
            DROP COLUMN revision_id,
            -- the latest edits and deletions, the newest first: their repeats change nothing
            ADD COLUMN revision_ids uuid[];
        """
    )


def downgrade() -> None:
    op.execute(
        """
        ALTER TABLE messages DROP COLUMN revision_ids, ADD COLUMN revision_id uuid;
        DROP TABLE former_members;
        DROP INDEX conversation_users_user_rev, conversation_users_rev;
        ALTER TABLE conversation_users
            DROP COLUMN command_ids, DROP COLUMN added_by, DROP COLUMN user_rev, DROP COLUMN rev;
        ALTER TABLE users DROP COLUMN last_rev;
        -- Revs stay as they are: the gaps in those of the messages are read as changes that are already superseded.
        ALTER TABLE conversations
            ADD COLUMN members_version bigint NOT NULL DEFAULT 0 CHECK (members_version >= 0),
            DROP COLUMN activity, DROP COLUMN properties_command_ids, DROP COLUMN properties_by,
            DROP COLUMN properties_rev, DROP COLUMN members_rev, DROP COLUMN message_rev;
        """
    )
