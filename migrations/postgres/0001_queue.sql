-- The queue. Keep in step with ../sqlite/0001_queue.sql: same tables, columns, constraints and indexes.
-- Ids are UUIDs, times are milliseconds since the epoch, states are words.

-- Rows that are rewritten often leave room for it on their page and are vacuumed early: a queue is all dead rows.
-- What a claim, a renewal or a finish rewrites stays narrow: documents are in job_specs.
CREATE TABLE jobs (
    id                  UUID    NOT NULL PRIMARY KEY,
    repo                TEXT    NOT NULL,
    base                TEXT    NOT NULL,
    branch              TEXT    NOT NULL,
    project             TEXT,
    execution           TEXT,
    backend             TEXT    NOT NULL,
    priority            BIGINT  NOT NULL,
    idempotency_key     TEXT,
    state               TEXT    NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    -- Why a queued job cannot be claimed yet; NULL when it can.
    held                TEXT    CHECK (held IN ('scheduled', 'backoff')),
    ready_at            BIGINT  NOT NULL,
    attempt             BIGINT  NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    attempts_used       BIGINT  NOT NULL DEFAULT 0 CHECK (attempts_used BETWEEN 0 AND attempt),
    attempts_max        BIGINT  NOT NULL CHECK (attempts_max >= 1),
    resets              BIGINT  NOT NULL DEFAULT 0 CHECK (resets BETWEEN 0 AND attempt),
    worker              TEXT,
    token               UUID,
    lease_until         BIGINT,
    cancel_requested_at BIGINT,
    cancel_reason       TEXT,
    outcome_class       TEXT,
    outcome_message     TEXT,
    commit_id           TEXT,
    created_at          BIGINT  NOT NULL,
    started_at          BIGINT,
    finished_at         BIGINT,
    CHECK (held IS NULL OR state = 'queued'),
    CHECK ((state = 'running') = (worker IS NOT NULL)),
    CHECK ((state = 'running') = (token IS NOT NULL)),
    CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    CHECK ((state = 'running') <= (attempt >= 1)),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) <= (outcome_class IS NOT NULL)),
    CHECK (state <> 'queued' OR cancel_requested_at IS NULL),
    CHECK ((cancel_requested_at IS NULL) = (cancel_reason IS NULL)),
    CHECK ((outcome_class IS NULL) = (outcome_message IS NULL)),
    CHECK (commit_id IS NULL OR state = 'succeeded')
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Exactly the order in which jobs are claimed; a waiting row is not in it. The conditions of the next three follow from the
-- states (see the checks above), but do not name them: SQLite would take jobs_state for a query that does.
CREATE INDEX jobs_claim ON jobs (backend, priority, id) WHERE state = 'queued' AND held IS NULL;
CREATE INDEX jobs_held ON jobs (ready_at) WHERE held IS NOT NULL;
CREATE INDEX jobs_lease ON jobs (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX jobs_worker ON jobs (worker) WHERE worker IS NOT NULL;
CREATE INDEX jobs_state ON jobs (state, id);
CREATE INDEX jobs_project ON jobs (project, id) WHERE project IS NOT NULL;
CREATE INDEX jobs_execution ON jobs (execution, id) WHERE execution IS NOT NULL;
CREATE UNIQUE INDEX jobs_idempotency_key ON jobs (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX jobs_branch ON jobs (repo, branch);

CREATE TABLE job_specs (
    job      UUID NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    digest   TEXT NOT NULL,
    document TEXT NOT NULL
);

CREATE TABLE attempts (
    job               UUID    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    attempt           BIGINT  NOT NULL CHECK (attempt >= 1),
    worker            TEXT    NOT NULL,
    started_at        BIGINT  NOT NULL,
    ended_at          BIGINT,
    -- Where somebody moved the deadline while the attempt ran.
    deadline_at       BIGINT,
    outcome_class     TEXT,
    outcome_message   TEXT,
    base              TEXT,
    exit_code         BIGINT,
    signal            BIGINT,
    peak_memory_bytes BIGINT,
    cpu_ms            BIGINT,
    salvage           TEXT,
    log_verdict       TEXT,
    log_next_seq      BIGINT  NOT NULL DEFAULT 0,
    log_bytes         BIGINT  NOT NULL DEFAULT 0,
    log_stdout_end    BIGINT  NOT NULL DEFAULT 0,
    log_stderr_end    BIGINT  NOT NULL DEFAULT 0,
    log_system_end    BIGINT  NOT NULL DEFAULT 0,
    PRIMARY KEY (job, attempt),
    CHECK ((ended_at IS NULL) = (outcome_class IS NULL)),
    CHECK ((ended_at IS NULL) = (outcome_message IS NULL)),
    CHECK ((ended_at IS NULL) = (log_verdict IS NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE attempt_stages (
    job        UUID    NOT NULL,
    attempt    BIGINT  NOT NULL,
    seq        BIGINT  NOT NULL CHECK (seq >= 0),
    stage      TEXT    NOT NULL,
    started_at BIGINT  NOT NULL,
    ended_at   BIGINT,
    outcome    TEXT,
    detail     TEXT,
    PRIMARY KEY (job, attempt, seq),
    FOREIGN KEY (job, attempt) REFERENCES attempts (job, attempt) ON DELETE CASCADE
);

CREATE TABLE log_chunks (
    job          UUID    NOT NULL,
    attempt      BIGINT  NOT NULL,
    seq          BIGINT  NOT NULL CHECK (seq >= 0),
    stream       TEXT    NOT NULL CHECK (stream IN ('stdout', 'stderr', 'system')),
    start_offset BIGINT  NOT NULL CHECK (start_offset >= 0),
    end_offset   BIGINT  NOT NULL CHECK (end_offset >= start_offset),
    spool_end    BIGINT  NOT NULL CHECK (spool_end >= 0),
    at           BIGINT  NOT NULL,
    -- CRC-32 (IEEE) of the bytes before compression.
    crc          BIGINT  NOT NULL,
    -- One zstd frame.
    data         BYTEA   NOT NULL,
    PRIMARY KEY (job, attempt, seq),
    FOREIGN KEY (job, attempt) REFERENCES attempts (job, attempt) ON DELETE CASCADE
);

-- It is compressed already.
ALTER TABLE log_chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- Where a reader goes on.
CREATE INDEX log_chunks_offset ON log_chunks (job, attempt, end_offset);

CREATE TABLE completions (
    id          UUID    NOT NULL PRIMARY KEY,
    job         UUID    NOT NULL,
    attempt     BIGINT  NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('pending', 'claimed', 'acked', 'dead')),
    -- Since when it may be handed out; NULL when it may not.
    visible_at  BIGINT,
    consumer    TEXT,
    -- Kept when acknowledged, so that the one who acknowledged may say so again.
    token       UUID,
    lease_until BIGINT,
    deliveries  BIGINT  NOT NULL DEFAULT 0 CHECK (deliveries >= 0),
    last_error  TEXT,
    created_at  BIGINT  NOT NULL,
    ended_at    BIGINT,
    body        TEXT    NOT NULL,
    UNIQUE (job, attempt),
    FOREIGN KEY (job, attempt) REFERENCES attempts (job, attempt) ON DELETE CASCADE,
    CHECK ((state IN ('claimed', 'acked')) = (token IS NOT NULL)),
    CHECK ((state IN ('claimed', 'acked')) = (consumer IS NOT NULL)),
    CHECK ((state = 'pending') = (visible_at IS NOT NULL)),
    CHECK ((state = 'claimed') = (lease_until IS NOT NULL)),
    CHECK ((state IN ('acked', 'dead')) = (ended_at IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX completions_claim ON completions (visible_at, id) WHERE visible_at IS NOT NULL;
CREATE INDEX completions_lease ON completions (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX completions_state ON completions (state, id);

-- What is still to be told to others: a row is written with each completion, in its transaction.
CREATE TABLE outbox (
    completion UUID    NOT NULL PRIMARY KEY REFERENCES completions (id) ON DELETE CASCADE,
    created_at BIGINT  NOT NULL,
    sent_at    INTEGER
);

CREATE INDEX outbox_unsent ON outbox (created_at) WHERE sent_at IS NULL;

CREATE TABLE workers (
    id              TEXT    NOT NULL PRIMARY KEY,
    host            TEXT    NOT NULL,
    version         TEXT    NOT NULL,
    pid             BIGINT  NOT NULL,
    boot_id         TEXT    NOT NULL,
    -- What a worker says of itself and nobody queries by: JSON.
    labels          TEXT    NOT NULL,
    backends        TEXT    NOT NULL,
    slots           TEXT    NOT NULL,
    pressure        TEXT    NOT NULL,
    phase           TEXT    NOT NULL CHECK (phase IN ('running', 'draining', 'stopped')),
    report_ms       BIGINT  NOT NULL CHECK (report_ms > 0),
    started_at      BIGINT  NOT NULL,
    seen_at         BIGINT  NOT NULL,
    -- What operators ask of it: a report leaves these as they are.
    drain_asked_at  BIGINT,
    drain_asked_by  TEXT,
    drain_reason    TEXT,
    CHECK ((drain_asked_at IS NULL) = (drain_asked_by IS NULL)),
    CHECK ((drain_asked_at IS NULL) = (drain_reason IS NULL))
);
