-- The epochs of clusters that left: reports of a later membership under the same name have to exceed them.
CREATE TABLE departed (
    name    TEXT PRIMARY KEY,
    epoch   INTEGER NOT NULL,
    left_ns INTEGER NOT NULL,
    sum     BLOB NOT NULL
) STRICT, WITHOUT ROWID;
