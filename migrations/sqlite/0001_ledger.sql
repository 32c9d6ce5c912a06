-- The embedded ledger. Amounts are decimal text, because SQLite's numbers are not exact beyond 64 bits; moments are
-- milliseconds since 1970 by the database's clock; addresses, hashes and ids are their bytes.

CREATE TABLE networks (
    chain_id INTEGER PRIMARY KEY,
    genesis  BLOB NOT NULL CHECK (length(genesis) = 32)
) STRICT;

CREATE TABLE processes (
    id          BLOB PRIMARY KEY CHECK (length(id) = 16),
    lease_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE lanes (
    chain_id    INTEGER NOT NULL,
    signer      BLOB NOT NULL CHECK (length(signer) = 20),
    epoch       INTEGER NOT NULL,
    owner       BLOB,
    lease_until INTEGER NOT NULL,
    next_nonce  INTEGER,
    PRIMARY KEY (chain_id, signer)
) STRICT, WITHOUT ROWID;

CREATE TABLE settlements (
    id                 BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant             TEXT NOT NULL,
    version            INTEGER NOT NULL CHECK (version IN (1, 2)),
    chain_id           INTEGER NOT NULL,
    authority          BLOB NOT NULL CHECK (length(authority) = 20),
    payer              BLOB NOT NULL CHECK (length(payer) = 20),
    nonce              BLOB NOT NULL CHECK (length(nonce) = 32),
    asset              BLOB NOT NULL CHECK (length(asset) = 20),
    payee              BLOB NOT NULL CHECK (length(payee) = 20),
    value              TEXT NOT NULL,
    valid_after        TEXT NOT NULL,
    valid_before       TEXT NOT NULL,
    authorization_kind TEXT NOT NULL CHECK (authorization_kind IN ('eip3009')),
    signature          BLOB NOT NULL,
    digest             BLOB NOT NULL CHECK (length(digest) = 32),
    state              TEXT NOT NULL CHECK (state IN
        ('accepted', 'assigned', 'settled', 'settled_externally', 'failed', 'expired', 'withdrawn')),
    tries              INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    accepted_at        INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL,
    -- assigned
    slot_signer        BLOB,
    slot_nonce         INTEGER,
    -- assigned: the newest attempt; settled: the one that was mined; failed: the evidence, if there is one
    transaction_hash   BLOB CHECK (length(transaction_hash) = 32),
    -- failed
    reason             TEXT,
    detail             TEXT,
    -- settled, settled_externally
    block_number       INTEGER,
    block_hash         BLOB CHECK (length(block_hash) = 32),
    log_index          INTEGER,
    level              TEXT CHECK (level IN ('preconfirmed', 'included', 'safe', 'finalized')),
    gas_used           INTEGER,
    cost               TEXT,
    -- who delivers the success, and whether it was delivered
    delivery_request   BLOB,
    delivery_process   BLOB,
    delivered_at       INTEGER,
    CHECK ((state = 'assigned') = (slot_nonce IS NOT NULL)),
    CHECK ((state = 'failed') = (reason IS NOT NULL)),
    CHECK ((state IN ('settled', 'settled_externally')) = (block_number IS NOT NULL)),
    -- The authority over what was accepted. Payer first: it serves look-ups by payer too.
    UNIQUE (payer, nonce, chain_id, authority)
) STRICT;
CREATE INDEX settlements_by_tenant ON settlements (tenant, id);
CREATE INDEX settlements_unresolved ON settlements (chain_id, state, id) WHERE state IN ('accepted', 'assigned');
CREATE INDEX settlements_external ON settlements (transaction_hash) WHERE state = 'settled_externally';

CREATE TABLE slots (
    chain_id         INTEGER NOT NULL,
    signer           BLOB NOT NULL,
    nonce            INTEGER NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('open', 'closed')),
    opened_at        INTEGER NOT NULL,
    transaction_hash BLOB CHECK (length(transaction_hash) = 32),
    block_number     INTEGER,
    block_hash       BLOB CHECK (length(block_hash) = 32),
    gas_used         INTEGER,
    cost             TEXT,
    closed_at        INTEGER,
    CHECK ((state = 'closed') = (block_number IS NOT NULL)),
    PRIMARY KEY (chain_id, signer, nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX slots_open ON slots (chain_id, signer, nonce) WHERE state = 'open';

-- Signed transactions. The bytes are needed to send them again after a crash.
CREATE TABLE attempts (
    hash                     BLOB PRIMARY KEY CHECK (length(hash) = 32),
    chain_id                 INTEGER NOT NULL,
    signer                   BLOB NOT NULL,
    nonce                    INTEGER NOT NULL,
    position                 INTEGER NOT NULL,
    kind                     TEXT NOT NULL CHECK (kind IN ('batch', 'noop')),
    raw                      BLOB NOT NULL,
    max_fee_per_gas          TEXT NOT NULL,
    max_priority_fee_per_gas TEXT NOT NULL,
    gas_limit                INTEGER NOT NULL,
    signed_at                INTEGER NOT NULL,
    UNIQUE (chain_id, signer, nonce, position)
) STRICT;

-- Every payment that was ever in a slot, in the order of the batch.
CREATE TABLE slot_payments (
    chain_id      INTEGER NOT NULL,
    signer        BLOB NOT NULL,
    nonce         INTEGER NOT NULL,
    position      INTEGER NOT NULL,
    settlement_id BLOB NOT NULL,
    PRIMARY KEY (chain_id, signer, nonce, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency_keys (
    key_hash   BLOB PRIMARY KEY CHECK (length(key_hash) = 32),
    digest     BLOB NOT NULL CHECK (length(digest) = 32),
    request_id BLOB NOT NULL,
    bound_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each change of a settlement's state, written by the triggers below so that no path forgets it.
CREATE TABLE outbox (
    sequence      INTEGER PRIMARY KEY,
    settlement_id BLOB NOT NULL,
    tenant        TEXT NOT NULL
) STRICT;
CREATE INDEX outbox_by_tenant ON outbox (tenant, sequence);
CREATE TRIGGER settlements_accepted AFTER INSERT ON settlements BEGIN
    INSERT INTO outbox (settlement_id, tenant) VALUES (new.id, new.tenant);
END;
CREATE TRIGGER settlements_changed AFTER UPDATE OF state ON settlements WHEN old.state <> new.state BEGIN
    INSERT INTO outbox (settlement_id, tenant) VALUES (new.id, new.tenant);
END;

-- The holds of in-process reservations. No signature, and tenants and keys only as hashes.
CREATE TABLE holds (
    payer           BLOB NOT NULL,
    nonce           BLOB NOT NULL,
    chain_id        INTEGER NOT NULL,
    authority       BLOB NOT NULL,
    asset           BLOB NOT NULL,
    value           TEXT NOT NULL,
    tenant          BLOB NOT NULL,
    digest          BLOB NOT NULL,
    idempotency     BLOB,
    settling        INTEGER NOT NULL,
    nonce_until     INTEGER NOT NULL,
    balance_until   INTEGER NOT NULL,
    mined_block     INTEGER,
    PRIMARY KEY (payer, nonce, chain_id, authority)
) STRICT, WITHOUT ROWID;
