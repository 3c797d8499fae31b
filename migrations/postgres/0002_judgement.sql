-- What is learnt of attempts, and what was measured of what they delivered. Keep in step with ../sqlite/0002_judgement.sql.

-- How long it may take, and of what that was learnt, as JSON; NULL where somebody has set it.
ALTER TABLE attempts ADD COLUMN time_limit TEXT;

-- How much of the code tests covered, as the last gate of that name saw it in something that was delivered.
CREATE TABLE coverage (
    repo        TEXT    NOT NULL,
    -- The branch or tag that the work began at, as jobs name it.
    base        TEXT    NOT NULL,
    gate        TEXT    NOT NULL,
    job         UUID    NOT NULL,
    commit_id   TEXT,
    covered     BIGINT  NOT NULL CHECK (covered >= 0),
    total       BIGINT  NOT NULL CHECK (total >= covered),
    measured_at BIGINT  NOT NULL,
    PRIMARY KEY (repo, base, gate)
);
