-- Scopes grow with the endpoints. What a scope looks like is checked here; which ones there are is for the program to know,
-- which takes an unknown one for a fault, so that two releases' lists cannot contradict each other.
ALTER TABLE ledger.api_keys
    DROP CONSTRAINT api_keys_scopes_known,
    ADD CONSTRAINT api_keys_scopes_known CHECK (cardinality(scopes) > 0
        AND array_position(scopes, NULL) IS NULL
        AND array_to_string(scopes, ' ') ~ '^[a-z_]+:[a-z_]+( [a-z_]+:[a-z_]+)*$');
