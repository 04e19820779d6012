"""Messages without foreign keys: checking them took up to a quarter of PostgreSQL's time for a batch.

A message is stored by a statement that has found its sender among the members of its conversation, under the lock of
the conversation's row; members are users, by a foreign key of their own. So a message without sender or conversation
comes from a deletion only. Nothing in the service deletes either; for people who do, triggers now do what the keys did.
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute(
        """
        -- In the order in which statements of the service lock them. Nothing is read or written: it takes milliseconds.
        LOCK TABLE conversations, users, messages IN ACCESS EXCLUSIVE MODE;
        ALTER TABLE messages DROP CONSTRAINT messages_conversation_id_fkey, DROP CONSTRAINT messages_sender_id_fkey;

        -- The schema is that of the table, whatever the search_path of the person.
        CREATE FUNCTION delete_messages_of_conversation() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'TRUNCATE' THEN
                EXECUTE format('TRUNCATE %I.messages', TG_TABLE_SCHEMA);
            ELSE
                EXECUTE format('DELETE FROM %I.messages WHERE conversation_id = $1', TG_TABLE_SCHEMA) USING OLD.id;
            END IF;
            RETURN NULL;
        END $$;
        -- After, because the deletion waits for the lock of the row: messages stored meanwhile are deleted, too.
        CREATE TRIGGER delete_messages AFTER DELETE ON conversations
            FOR EACH ROW EXECUTE FUNCTION delete_messages_of_conversation();
        CREATE TRIGGER delete_all_messages AFTER TRUNCATE ON conversations
            FOR EACH STATEMENT EXECUTE FUNCTION delete_messages_of_conversation();

        CREATE FUNCTION keep_referenced_by_messages() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            is_referenced boolean;
        BEGIN
            EXECUTE format('SELECT EXISTS (SELECT FROM %I.messages WHERE %I = $1)', TG_TABLE_SCHEMA, TG_ARGV[0])
                INTO is_referenced USING OLD.id;
            IF is_referenced THEN
                RAISE foreign_key_violation USING
                    MESSAGE = format('%s on table "%s" violates a reference of messages', lower(TG_OP), TG_TABLE_NAME),
                    DETAIL = format('There are messages with (%s)=(%s).', TG_ARGV[0], OLD.id);
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER keep_senders AFTER DELETE ON users
            FOR EACH ROW EXECUTE FUNCTION keep_referenced_by_messages('sender_id');
        CREATE TRIGGER keep_ids_of_senders AFTER UPDATE OF id ON users
            FOR EACH ROW WHEN (NEW.id <> OLD.id) EXECUTE FUNCTION keep_referenced_by_messages('sender_id');
        CREATE TRIGGER keep_ids_of_conversations AFTER UPDATE OF id ON conversations
            FOR EACH ROW WHEN (NEW.id <> OLD.id) EXECUTE FUNCTION keep_referenced_by_messages('conversation_id');
        """
    )


def downgrade() -> None:
    op.execute(
        """
        DROP TRIGGER keep_ids_of_conversations ON conversations;
        DROP TRIGGER keep_ids_of_senders ON users;
        DROP TRIGGER keep_senders ON users;
        DROP TRIGGER delete_all_messages ON conversations;
        DROP TRIGGER delete_messages ON conversations;
        DROP FUNCTION keep_referenced_by_messages, delete_messages_of_conversation;
        ALTER TABLE messages
            ADD CONSTRAINT messages_conversation_id_fkey
                FOREIGN KEY (conversation_id) REFERENCES conversations (id) ON DELETE CASCADE,
            ADD CONSTRAINT messages_sender_id_fkey FOREIGN KEY (sender_id) REFERENCES users (id);
        """
    )
