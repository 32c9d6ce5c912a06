-- Payers' signed approvals (`erc20ApprovalGasSponsoring`) and what payers were given for their gas.

-- permit2, upto: the payer's signed transaction that lets Permit2 move the token
ALTER TABLE settlements ADD COLUMN token_approval BLOB
    CHECK (length(token_approval) BETWEEN 1 AND 1024)
    CHECK (authorization_kind IN ('permit2', 'upto') OR token_approval IS NULL)
    CHECK (token_permit IS NULL OR token_approval IS NULL);

-- SQLite cannot change a CHECK, so the table is built anew.
CREATE TABLE new_attempts (
    hash                     BLOB PRIMARY KEY CHECK (length(hash) = 32),
    chain_id                 INTEGER NOT NULL,
    signer                   BLOB NOT NULL,
    nonce                    INTEGER NOT NULL,
    position                 INTEGER NOT NULL,
    kind                     TEXT NOT NULL CHECK (kind IN ('batch', 'top_up', 'noop')),
    raw                      BLOB NOT NULL,
    max_fee_per_gas          TEXT NOT NULL,
    max_priority_fee_per_gas TEXT NOT NULL,
    gas_limit                INTEGER NOT NULL,
    signed_at                INTEGER NOT NULL,
    UNIQUE (chain_id, signer, nonce, position)
) STRICT;
INSERT INTO new_attempts SELECT * FROM attempts;
DROP TABLE attempts;
ALTER TABLE new_attempts RENAME TO attempts;

-- Written with the slot that makes the transfer, and never taken back: nobody gets one twice.
CREATE TABLE top_ups (
    chain_id      INTEGER NOT NULL,
    payer         BLOB NOT NULL CHECK (length(payer) = 20),
    token         BLOB NOT NULL CHECK (length(token) = 20),
    value         TEXT NOT NULL,
    signer        BLOB NOT NULL,
    nonce         INTEGER NOT NULL,
    settlement_id BLOB NOT NULL CHECK (length(settlement_id) = 16),
    opened_at     INTEGER NOT NULL,
    PRIMARY KEY (chain_id, payer, token)
) STRICT;
CREATE INDEX top_ups_by_time ON top_ups (chain_id, opened_at);
CREATE UNIQUE INDEX top_ups_by_slot ON top_ups (chain_id, signer, nonce);
