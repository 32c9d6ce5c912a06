-- Which attempts were handed to an endpoint: only such a hash is told as a payment's transaction. A send without an answer
-- counts.
ALTER TABLE attempts ADD COLUMN handed_over_at INTEGER;
-- Until now nobody wrote it down.
UPDATE attempts SET handed_over_at = signed_at;

-- The newest block that a slot's opener knew: what had used the nonce by then did so before there was the slot.
ALTER TABLE slots ADD COLUMN after_number INTEGER;
ALTER TABLE slots ADD COLUMN after_hash BLOB CHECK (length(after_hash) = 32);
