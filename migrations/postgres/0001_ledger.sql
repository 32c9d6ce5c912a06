-- The ledger of a cluster. Amounts are exact: NUMERIC(78, 0) holds every 256-bit number; moments are milliseconds
-- since 1970 by the database's clock; addresses and hashes are their bytes.

CREATE TABLE networks (
    chain_id BIGINT PRIMARY KEY,
    genesis  BYTEA NOT NULL CHECK (length(genesis) = 32)
);

CREATE TABLE processes (
    id          UUID PRIMARY KEY,
    lease_until BIGINT NOT NULL
);

CREATE TABLE lanes (
    chain_id    BIGINT NOT NULL,
    signer      BYTEA NOT NULL CHECK (length(signer) = 20),
    epoch       BIGINT NOT NULL,
    owner       UUID,
    lease_until BIGINT NOT NULL,
    next_nonce  BIGINT,
    PRIMARY KEY (chain_id, signer)
);

CREATE TABLE settlements (
    id                 UUID PRIMARY KEY,
    tenant             TEXT NOT NULL,
    version            BIGINT NOT NULL CHECK (version IN (1, 2)),
    chain_id           BIGINT NOT NULL,
    authority          BYTEA NOT NULL CHECK (length(authority) = 20),
    payer              BYTEA NOT NULL CHECK (length(payer) = 20),
    nonce              BYTEA NOT NULL CHECK (length(nonce) = 32),
    asset              BYTEA NOT NULL CHECK (length(asset) = 20),
    payee              BYTEA NOT NULL CHECK (length(payee) = 20),
    value              NUMERIC(78, 0) NOT NULL CHECK (value >= 0),
    valid_after        NUMERIC(20, 0) NOT NULL,
    valid_before       NUMERIC(20, 0) NOT NULL,
    authorization_kind TEXT NOT NULL CHECK (authorization_kind IN ('eip3009')),
    signature          BYTEA NOT NULL,
    digest             BYTEA NOT NULL CHECK (length(digest) = 32),
    state              TEXT NOT NULL CHECK (state IN
        ('accepted', 'assigned', 'settled', 'settled_externally', 'failed', 'expired', 'withdrawn')),
    tries              BIGINT NOT NULL DEFAULT 0 CHECK (tries >= 0),
    accepted_at        BIGINT NOT NULL,
    updated_at         BIGINT NOT NULL,
    -- assigned
    slot_signer        BYTEA,
    slot_nonce         BIGINT,
    -- assigned: the newest attempt; settled: the one that was mined; failed: the evidence, if there is one
    transaction_hash   BYTEA CHECK (length(transaction_hash) = 32),
    -- failed
    reason             TEXT,
    detail             TEXT,
    -- settled, settled_externally
    block_number       BIGINT,
    block_hash         BYTEA CHECK (length(block_hash) = 32),
    log_index          BIGINT,
    level              TEXT CHECK (level IN ('preconfirmed', 'included', 'safe', 'finalized')),
    gas_used           BIGINT,
    cost               NUMERIC(78, 0),
    -- who delivers the success, and whether it was delivered
    delivery_request   UUID,
    delivery_process   UUID,
    delivered_at       BIGINT,
    CHECK ((state = 'assigned') = (slot_nonce IS NOT NULL)),
    CHECK ((state = 'failed') = (reason IS NOT NULL)),
    CHECK ((state IN ('settled', 'settled_externally')) = (block_number IS NOT NULL)),
    -- The authority over what was accepted. Payer first: it serves look-ups by payer too.
    UNIQUE (payer, nonce, chain_id, authority)
);
CREATE INDEX settlements_by_tenant ON settlements (tenant, id);
CREATE INDEX settlements_unresolved ON settlements (chain_id, state, id) WHERE state IN ('accepted', 'assigned');
CREATE INDEX settlements_external ON settlements (transaction_hash) WHERE state = 'settled_externally';

CREATE TABLE slots (
    chain_id         BIGINT NOT NULL,
    signer           BYTEA NOT NULL,
    nonce            BIGINT NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('open', 'closed')),
    opened_at        BIGINT NOT NULL,
    transaction_hash BYTEA CHECK (length(transaction_hash) = 32),
    block_number     BIGINT,
    block_hash       BYTEA CHECK (length(block_hash) = 32),
    gas_used         BIGINT,
    cost             NUMERIC(78, 0),
    closed_at        BIGINT,
    CHECK ((state = 'closed') = (block_number IS NOT NULL)),
    PRIMARY KEY (chain_id, signer, nonce)
);
CREATE INDEX slots_open ON slots (chain_id, signer, nonce) WHERE state = 'open';

-- Signed transactions. The bytes are needed to send them again after a crash.
CREATE TABLE attempts (
    hash                     BYTEA PRIMARY KEY CHECK (length(hash) = 32),
    chain_id                 BIGINT NOT NULL,
    signer                   BYTEA NOT NULL,
    nonce                    BIGINT NOT NULL,
    position                 BIGINT NOT NULL,
    kind                     TEXT NOT NULL CHECK (kind IN ('batch', 'noop')),
    raw                      BYTEA NOT NULL,
    max_fee_per_gas          NUMERIC(39, 0) NOT NULL,
    max_priority_fee_per_gas NUMERIC(39, 0) NOT NULL,
    gas_limit                BIGINT NOT NULL,
    signed_at                BIGINT NOT NULL,
    UNIQUE (chain_id, signer, nonce, position),
    FOREIGN KEY (chain_id, signer, nonce) REFERENCES slots
);

-- Every payment that was ever in a slot, in the order of the batch.
CREATE TABLE slot_payments (
    chain_id      BIGINT NOT NULL,
    signer        BYTEA NOT NULL,
    nonce         BIGINT NOT NULL,
    position      BIGINT NOT NULL,
    settlement_id UUID NOT NULL,
    PRIMARY KEY (chain_id, signer, nonce, position),
    FOREIGN KEY (chain_id, signer, nonce) REFERENCES slots
);

CREATE TABLE idempotency_keys (
    key_hash   BYTEA PRIMARY KEY CHECK (length(key_hash) = 32),
    digest     BYTEA NOT NULL CHECK (length(digest) = 32),
    request_id UUID NOT NULL,
    bound_at   BIGINT NOT NULL
);

-- One row for each change of a settlement's state, written by the triggers below so that no path forgets it.
CREATE SEQUENCE outbox_sequence;
CREATE TABLE outbox (
    sequence      BIGINT PRIMARY KEY,
    settlement_id UUID NOT NULL,
    tenant        TEXT NOT NULL
);
CREATE INDEX outbox_by_tenant ON outbox (tenant, sequence);

-- Readers go on from the newest sequence that they saw, so a sequence must never appear behind a later one. Whoever
-- takes sequences therefore holds a lock until its commit. Writes are grouped, so few transactions stand in that line.
-- A transaction changes states in its last statement: nothing may wait for a row while it holds this lock.
CREATE FUNCTION tell_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NOT EXISTS (SELECT FROM changed) THEN
            RETURN NULL;
        END IF;
        PERFORM pg_advisory_xact_lock(hashtext(TG_TABLE_SCHEMA || '.outbox'));
        INSERT INTO outbox SELECT nextval('outbox_sequence'), id, tenant FROM changed;
    ELSE
        IF NOT EXISTS (SELECT FROM changed LEFT JOIN previous ON previous.id = changed.id
                       WHERE previous.state IS DISTINCT FROM changed.state) THEN
            RETURN NULL;
        END IF;
        PERFORM pg_advisory_xact_lock(hashtext(TG_TABLE_SCHEMA || '.outbox'));
        INSERT INTO outbox SELECT nextval('outbox_sequence'), changed.id, changed.tenant
            FROM changed LEFT JOIN previous ON previous.id = changed.id
            WHERE previous.state IS DISTINCT FROM changed.state;
    END IF;
    PERFORM pg_notify('teller_settlements', '');
    RETURN NULL;
END $$;
CREATE TRIGGER settlements_accepted AFTER INSERT ON settlements
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tell_outbox();
CREATE TRIGGER settlements_changed AFTER UPDATE ON settlements
    REFERENCING OLD TABLE AS previous NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tell_outbox();
