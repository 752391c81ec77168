-- What the provider said when it was asked last about a credential (ports.Credentials): of the one that was put at
-- `changed_ms`.
CREATE TABLE credential_check (
    provider text NOT NULL,
    account text NOT NULL,
    changed_ms bigint NOT NULL,
    at_ms bigint NOT NULL,
    sandbox boolean NOT NULL,
    ok boolean NOT NULL,
    sentence text NOT NULL,
    PRIMARY KEY (provider, account)
);
