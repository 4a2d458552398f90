-- `sum` is a checksum over the row's other columns (federation/store/rows.py): SQLite does not notice flipped bits.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta (name, value) VALUES ('epoch', 0), ('writes', 0);

CREATE TABLE clusters (
    name         TEXT PRIMARY KEY,
    trust_domain TEXT NOT NULL UNIQUE,
    bundle       BLOB NOT NULL,     -- federation.v1.Bundle
    joined_ns    INTEGER NOT NULL,
    region       TEXT NOT NULL,
    zone         TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    sum          BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE links (
    name          TEXT PRIMARY KEY, -- "a/b", a < b
    a             TEXT NOT NULL REFERENCES clusters (name) DEFERRABLE INITIALLY DEFERRED,
    b             TEXT NOT NULL REFERENCES clusters (name) DEFERRABLE INITIALLY DEFERRED,
    link          BLOB NOT NULL,    -- federation.v1.Link, with the grants
    fingerprint_a TEXT NOT NULL,
    fingerprint_b TEXT NOT NULL,
    sum           BLOB NOT NULL,
    CHECK (a < b AND name = a || '/' || b)
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    hash        BLOB PRIMARY KEY,
    cluster     TEXT NOT NULL,
    issued_ns   INTEGER NOT NULL,
    expires_ns  INTEGER NOT NULL,
    redeemed_by TEXT NOT NULL,      -- root fingerprint of who used it; empty: unused
    revoked     INTEGER NOT NULL CHECK (revoked IN (0, 1)),
    sum         BLOB NOT NULL
) STRICT, WITHOUT ROWID;
