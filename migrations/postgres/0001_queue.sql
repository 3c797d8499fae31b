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
    -- Somebody wants the running attempt given back; gone with the attempt.
    requeue_requested_at BIGINT,
    requeue_reason      TEXT,
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
    CHECK (state = 'running' OR requeue_requested_at IS NULL),
    CHECK ((requeue_requested_at IS NULL) = (requeue_reason IS NULL)),
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
-- The order in which retention goes through what has ended.
CREATE INDEX jobs_finished ON jobs (finished_at, id) WHERE finished_at IS NOT NULL;
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
    project     TEXT,
    repo        TEXT    NOT NULL,
    branch      TEXT,
    commit_id   TEXT,
    -- What it waits in turn with: those of one line are handed out one after the other. NULL for one that concerns no branch.
    line        TEXT,
    state       TEXT    NOT NULL CHECK (state IN ('pending', 'claimed', 'acked', 'dead')),
    -- Since when it may be handed out; NULL when it may not: it is not pending, or it is not the first of its line.
    visible_at  BIGINT,
    consumer    TEXT,
    -- Kept when acknowledged, so that the one who acknowledged may say so again.
    token       UUID,
    lease_until BIGINT,
    deliveries  BIGINT  NOT NULL DEFAULT 0 CHECK (deliveries >= 0),
    last_error  TEXT,
    -- Grows along a line: its order.
    created_at  BIGINT  NOT NULL,
    ended_at    BIGINT,
    body        TEXT    NOT NULL,
    UNIQUE (job, attempt),
    FOREIGN KEY (job, attempt) REFERENCES attempts (job, attempt) ON DELETE CASCADE,
    CHECK ((state IN ('claimed', 'acked')) = (token IS NOT NULL)),
    CHECK ((state IN ('claimed', 'acked')) = (consumer IS NOT NULL)),
    CHECK (visible_at IS NULL OR state = 'pending'),
    CHECK (line IS NOT NULL OR (state = 'pending') = (visible_at IS NOT NULL)),
    CHECK ((branch IS NULL) = (line IS NULL)),
    CHECK ((state = 'claimed') = (lease_until IS NOT NULL)),
    CHECK ((state IN ('acked', 'dead')) = (ended_at IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX completions_claim ON completions (visible_at, id) WHERE visible_at IS NOT NULL;
CREATE INDEX completions_claim_project ON completions (project, visible_at, id) WHERE visible_at IS NOT NULL;
CREATE INDEX completions_claim_repo ON completions (repo, visible_at, id) WHERE visible_at IS NOT NULL;
-- Of a line at most one is offered or held, whoever may want it otherwise.
CREATE UNIQUE INDEX completions_head ON completions (repo, line) WHERE visible_at IS NOT NULL OR lease_until IS NOT NULL;
CREATE INDEX completions_line ON completions (repo, line, created_at, id) WHERE ended_at IS NULL;
CREATE INDEX completions_branch ON completions (repo, branch) WHERE ended_at IS NULL;
CREATE INDEX completions_commit ON completions (repo, commit_id) WHERE ended_at IS NULL;
CREATE INDEX completions_lease ON completions (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX completions_state ON completions (state, id);

-- What is to be told to others: a row is written with every end of a job, in its transaction. What was delivered is in the
-- completion of the same job and attempt.
CREATE TABLE outbox (
    id         UUID    NOT NULL PRIMARY KEY,
    job        UUID    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    -- NULL where it ended without one.
    attempt    BIGINT,
    state      TEXT    NOT NULL CHECK (state IN ('succeeded', 'failed', 'cancelled')),
    created_at BIGINT  NOT NULL,
    sent_at    BIGINT
);

CREATE INDEX outbox_unsent ON outbox (created_at, id) WHERE sent_at IS NULL;
CREATE INDEX outbox_job ON outbox (job);

CREATE TABLE workers (
    id         TEXT    NOT NULL PRIMARY KEY,
    host       TEXT    NOT NULL,
    version    TEXT    NOT NULL,
    pid        BIGINT  NOT NULL,
    boot_id    TEXT    NOT NULL,
    slots      BIGINT  NOT NULL,
    labels     TEXT    NOT NULL,
    backends   TEXT    NOT NULL,
    state      TEXT    NOT NULL CHECK (state IN ('running', 'draining', 'stopped')),
    started_at BIGINT  NOT NULL,
    seen_at    BIGINT  NOT NULL
);

-- What one process at a time does for all: who, and until when nobody else takes it over.
CREATE TABLE duties (
    name   TEXT    NOT NULL PRIMARY KEY,
    holder UUID    NOT NULL,
    until  BIGINT  NOT NULL
);
