-- Old keys are pruned, oldest first.
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (bound_at);
