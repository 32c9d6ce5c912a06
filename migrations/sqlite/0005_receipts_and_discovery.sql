-- When payments were settled, and the catalogue of what they were paid for.

-- A row's updated_at moves on with its level; this stays. A payment that a reorg took back gets a new moment.
ALTER TABLE settlements ADD COLUMN settled_at INTEGER;
UPDATE settlements SET settled_at = updated_at WHERE state IN ('settled', 'settled_externally');
CREATE TRIGGER settlements_settled AFTER UPDATE OF state ON settlements
    WHEN new.state IN ('settled', 'settled_externally') AND old.state NOT IN ('settled', 'settled_externally') BEGIN
    UPDATE settlements SET settled_at = new.updated_at WHERE id = new.id;
END;

-- What has been paid for and wants to be found. Every text is the word of whoever paid.
CREATE TABLE discovery_resources (
    id           INTEGER PRIMARY KEY,
    -- hash of tenant, kind, URL and tool
    key_hash     BLOB NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    tenant       TEXT NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('http', 'mcp')),
    resource     TEXT NOT NULL,
    version      INTEGER NOT NULL CHECK (version IN (1, 2)),
    description  TEXT,
    mime_type    TEXT,
    service_name TEXT,
    -- a JSON array
    tags         TEXT NOT NULL,
    icon_url     TEXT,
    -- a JSON object by extension id
    extensions   TEXT,
    -- what a search finds it by
    words        TEXT NOT NULL,
    paid_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX discovery_resources_by_age ON discovery_resources (paid_at, id);
CREATE INDEX discovery_resources_by_tenant ON discovery_resources (tenant, paid_at, id);

CREATE TABLE discovery_accepts (
    resource_id  INTEGER NOT NULL REFERENCES discovery_resources (id) ON DELETE CASCADE,
    scheme       TEXT NOT NULL,
    chain_id     INTEGER NOT NULL,
    asset        BLOB NOT NULL CHECK (length(asset) = 20),
    pay_to       BLOB NOT NULL CHECK (length(pay_to) = 20),
    -- payment requirements in JSON, as the seller sent them
    requirements TEXT NOT NULL,
    paid_at      INTEGER NOT NULL,
    PRIMARY KEY (resource_id, scheme, chain_id, asset, pay_to)
) STRICT, WITHOUT ROWID;

-- Words are split and put into lower case before they come here, so that both ledgers find the same.
CREATE VIRTUAL TABLE discovery_words USING fts5 (
    words, content = 'discovery_resources', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 0');
CREATE TRIGGER discovery_words_added AFTER INSERT ON discovery_resources BEGIN
    INSERT INTO discovery_words (rowid, words) VALUES (new.id, new.words);
END;
CREATE TRIGGER discovery_words_removed AFTER DELETE ON discovery_resources BEGIN
    INSERT INTO discovery_words (discovery_words, rowid, words) VALUES ('delete', old.id, old.words);
END;
CREATE TRIGGER discovery_words_changed AFTER UPDATE OF words ON discovery_resources WHEN old.words <> new.words BEGIN
    INSERT INTO discovery_words (discovery_words, rowid, words) VALUES ('delete', old.id, old.words);
    INSERT INTO discovery_words (rowid, words) VALUES (new.id, new.words);
END;
