-- When payments were settled, and the catalogue of what they were paid for.

-- A row's updated_at moves on with its level; this stays. A payment that a reorg took back gets a new moment.
ALTER TABLE settlements ADD COLUMN settled_at BIGINT;
-- That is no event.
ALTER TABLE settlements DISABLE TRIGGER settlements_changed;
UPDATE settlements SET settled_at = updated_at WHERE state IN ('settled', 'settled_externally');
ALTER TABLE settlements ENABLE TRIGGER settlements_changed;
CREATE FUNCTION note_settled_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.settled_at := NEW.updated_at;
    RETURN NEW;
END $$;
CREATE TRIGGER settlements_settled BEFORE UPDATE ON settlements FOR EACH ROW
    WHEN (NEW.state IN ('settled', 'settled_externally') AND OLD.state NOT IN ('settled', 'settled_externally'))
    EXECUTE FUNCTION note_settled_at();

-- What has been paid for and wants to be found. Every text is the word of whoever paid.
CREATE TABLE discovery_resources (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- hash of tenant, kind, URL and tool
    key_hash     BYTEA NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    tenant       TEXT NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('http', 'mcp')),
    resource     TEXT NOT NULL,
    version      BIGINT NOT NULL CHECK (version IN (1, 2)),
    description  TEXT,
    mime_type    TEXT,
    service_name TEXT,
    -- a JSON array
    tags         TEXT NOT NULL,
    icon_url     TEXT,
    -- a JSON object by extension id
    extensions   TEXT,
    -- what a search finds it by: words that are split and put into lower case before they come here, so that both
    -- ledgers find the same
    words        TEXT NOT NULL,
    lexemes      TSVECTOR NOT NULL GENERATED ALWAYS AS (array_to_tsvector(string_to_array(words, ' '))) STORED,
    paid_at      BIGINT NOT NULL
);
CREATE INDEX discovery_resources_by_age ON discovery_resources (paid_at, id);
CREATE INDEX discovery_resources_by_tenant ON discovery_resources (tenant, paid_at, id);
CREATE INDEX discovery_resources_lexemes ON discovery_resources USING gin (lexemes);

CREATE TABLE discovery_accepts (
    resource_id  BIGINT NOT NULL REFERENCES discovery_resources (id) ON DELETE CASCADE,
    scheme       TEXT NOT NULL,
    chain_id     BIGINT NOT NULL,
    asset        BYTEA NOT NULL CHECK (length(asset) = 20),
    pay_to       BYTEA NOT NULL CHECK (length(pay_to) = 20),
    -- payment requirements in JSON, as the seller sent them
    requirements TEXT NOT NULL,
    paid_at      BIGINT NOT NULL,
    PRIMARY KEY (resource_id, scheme, chain_id, asset, pay_to)
);
