-- The queue. Keep in step with ../postgres/0001_queue.sql: same tables, columns, constraints and indexes.
-- Ids are UUIDs as 16 bytes, times are milliseconds since the epoch, states are words.

-- What jobs ask of a worker: a backend, and requirements as a sorted JSON list of words. Few rows: those that no job has had for days go, and
-- no number is given twice.
CREATE TABLE routes (
    id       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    backend  TEXT    NOT NULL,
    requires TEXT    NOT NULL,
    -- When a job was last enqueued with it, or up to a day before that.
    used_at  INTEGER NOT NULL,
    UNIQUE (backend, requires)
) STRICT;

-- How many jobs of a project may run at once, and how much they may use in a day, a month or for ever, where there is a limit.
-- Written when a daemon starts.
CREATE TABLE project_limits (
    project          TEXT    NOT NULL PRIMARY KEY,
    running          INTEGER CHECK (running >= 1),
    budget_tokens    INTEGER,
    budget_micro_usd INTEGER,
    budget_per       TEXT    CHECK (budget_per IN ('day', 'month', 'all')),
    CHECK (running IS NOT NULL OR budget_per IS NOT NULL)
) STRICT;

-- What a claim, a renewal or a finish rewrites stays narrow: documents are in job_specs.
CREATE TABLE jobs (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    repo                TEXT    NOT NULL,
    base                TEXT    NOT NULL,
    branch              TEXT    NOT NULL,
    project             TEXT,
    execution           TEXT,
    -- Of `routes`: not looked up again for each job, and a route is never removed while there may be one of it.
    route               INTEGER NOT NULL,
    priority            INTEGER NOT NULL,
    -- Its turn among the jobs of the same route and priority: shares take turns, and within one the oldest is first.
    position            INTEGER NOT NULL,
    -- Whom its turns count for: the project, or the empty word.
    share               TEXT    NOT NULL,
    concurrency_key     TEXT,
    -- It starts only while fewer than these run under its key.
    concurrency_limit   INTEGER CHECK (concurrency_limit >= 1),
    idempotency_key     TEXT,
    -- 1 where it, or its execution by its word, has a budget.
    budgeted            INTEGER NOT NULL DEFAULT 0,
    state               TEXT    NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    -- Why a queued job cannot be claimed yet; NULL when it can.
    held                TEXT    CHECK (held IN ('scheduled', 'backoff', 'dependency', 'key', 'project', 'budget', 'answer')),
    ready_at            INTEGER NOT NULL,
    -- It fails unless it has started by then.
    start_by            INTEGER,
    -- 1 when other jobs wait for its end.
    needed              INTEGER NOT NULL DEFAULT 0,
    attempt             INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    attempts_used       INTEGER NOT NULL DEFAULT 0 CHECK (attempts_used BETWEEN 0 AND attempt),
    attempts_max        INTEGER NOT NULL CHECK (attempts_max >= 1),
    resets              INTEGER NOT NULL DEFAULT 0 CHECK (resets BETWEEN 0 AND attempt),
    worker              TEXT,
    token               BLOB    CHECK (length(token) = 16),
    lease_until         INTEGER,
    cancel_requested_at INTEGER,
    cancel_reason       TEXT,
    -- Somebody wants the running attempt given back; gone with the attempt.
    requeue_requested_at INTEGER,
    requeue_reason      TEXT,
    outcome_class       TEXT,
    outcome_message     TEXT,
    commit_id           TEXT,
    created_at          INTEGER NOT NULL,
    started_at          INTEGER,
    finished_at         INTEGER,
    CHECK (held IS NULL OR state = 'queued'),
    CHECK ((concurrency_key IS NULL) = (concurrency_limit IS NULL)),
    CHECK (held <> 'key' OR concurrency_key IS NOT NULL),
    CHECK (held <> 'project' OR share <> ''),
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
) STRICT;

-- Exactly the order in which jobs are claimed; a held row is not in it. The conditions of those that do not name a state
-- follow from the states (see the checks above): SQLite would take jobs_queued for a query that names one.
CREATE INDEX jobs_claim ON jobs (route, priority, position, id) WHERE state = 'queued' AND held IS NULL;
-- Where the next job of a share comes in.
CREATE INDEX jobs_turn ON jobs (route, priority, share, position) WHERE state = 'queued' AND held IS NULL;
-- Who waits for a moment, an answer, a budget, and until when. One index for all, since PostgreSQL looks at every index of the table for each
-- claim and each end. SQLite goes by it only where a statement says that condition, word for word.
CREATE INDEX jobs_held ON jobs (held, ready_at, id) WHERE held IN ('scheduled', 'backoff', 'budget', 'answer');
CREATE INDEX jobs_start_by ON jobs (start_by) WHERE state = 'queued' AND start_by IS NOT NULL;
CREATE INDEX jobs_held_by_key ON jobs (concurrency_key, concurrency_limit, priority, position, id) WHERE held = 'key';
CREATE INDEX jobs_held_by_project ON jobs (share, priority, position, id) WHERE held = 'project';
-- Who uses up a limit.
CREATE INDEX jobs_running_key ON jobs (concurrency_key) WHERE token IS NOT NULL AND concurrency_key IS NOT NULL;
-- How many of a project wait, and how many run: those that have a worker. What has no end is queued or running.
CREATE INDEX jobs_share ON jobs (share, worker) WHERE finished_at IS NULL AND share <> '';
-- All that runs, for its worker and for who looks for leases that are over. The ends of leases are in no index, so that renewing them
-- changes none.
CREATE INDEX jobs_worker ON jobs (worker) WHERE worker IS NOT NULL;
-- What is listed and counted. All that waits, by what for: NULL for what can be claimed. A claim leaves it, and goes into no other but
-- jobs_worker.
CREATE INDEX jobs_queued ON jobs (held, id) WHERE state = 'queued';
CREATE INDEX jobs_ended ON jobs (state, id) WHERE state IN ('succeeded', 'failed', 'cancelled');
-- The order in which retention goes through what has ended.
CREATE INDEX jobs_finished ON jobs (finished_at, id) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_project ON jobs (project, id) WHERE project IS NOT NULL;
CREATE INDEX jobs_execution ON jobs (execution, id) WHERE execution IS NOT NULL;
CREATE UNIQUE INDEX jobs_idempotency_key ON jobs (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX jobs_branch ON jobs (repo, branch);

CREATE TABLE job_specs (
    job      BLOB NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    digest   TEXT NOT NULL,
    document TEXT NOT NULL
) STRICT;

-- Jobs that wait for the end of others.
CREATE TABLE dependencies (
    job        BLOB NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    needs      BLOB NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    -- 1 when a failure of the other ends this one too; 0 when any end of it will do.
    cascade    INTEGER NOT NULL,
    -- 1 when this one starts from the commit that the other delivers.
    gives_base INTEGER NOT NULL,
    -- 1 when there is nothing left to wait for.
    met        INTEGER NOT NULL,
    PRIMARY KEY (job, needs)
) STRICT;

CREATE INDEX dependencies_needs ON dependencies (needs);

CREATE TABLE attempts (
    -- Of a job, with which it goes (see the end): looking that up again for each would cost more than a claim can spare.
    job               BLOB    NOT NULL,
    attempt           INTEGER NOT NULL CHECK (attempt >= 1),
    worker            TEXT    NOT NULL,
    started_at        INTEGER NOT NULL,
    ended_at          INTEGER,
    -- Where somebody moved the deadline while the attempt ran.
    deadline_at       INTEGER,
    outcome_class     TEXT,
    outcome_message   TEXT,
    base              TEXT,
    -- Where its commands run: on the host, or in a container of which image.
    runs_on           TEXT,
    exit_code         INTEGER,
    signal            INTEGER,
    peak_memory_bytes INTEGER,
    cpu_ms            INTEGER,
    salvage           TEXT,
    -- What its backend drew on, where it met the usage limit of that.
    credential        TEXT,
    -- What its backend said that it used of a model.
    prompt_tokens     INTEGER,
    completion_tokens INTEGER,
    cost_micro_usd    INTEGER,
    model             TEXT,
    -- What was wrong with each of the results that it came to, as JSON.
    rejections        TEXT,
    log_verdict       TEXT,
    log_next_seq      INTEGER NOT NULL DEFAULT 0,
    log_bytes         INTEGER NOT NULL DEFAULT 0,
    log_stdout_end    INTEGER NOT NULL DEFAULT 0,
    log_stderr_end    INTEGER NOT NULL DEFAULT 0,
    log_system_end    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job, attempt),
    CHECK ((ended_at IS NULL) = (outcome_class IS NULL)),
    CHECK ((ended_at IS NULL) = (outcome_message IS NULL)),
    CHECK ((ended_at IS NULL) = (log_verdict IS NULL))
) STRICT;

-- What was started lately.
CREATE INDEX attempts_started ON attempts (started_at);

-- What attempts asked, and what was answered.
CREATE TABLE answers (
    job         BLOB    NOT NULL,
    attempt     INTEGER NOT NULL,
    question    TEXT    NOT NULL,
    answer      TEXT    NOT NULL,
    answered_by TEXT    NOT NULL,
    answered_at INTEGER NOT NULL,
    PRIMARY KEY (job, attempt),
    FOREIGN KEY (job, attempt) REFERENCES attempts (job, attempt) ON DELETE CASCADE
) STRICT;

CREATE TABLE attempt_stages (
    job        BLOB    NOT NULL,
    attempt    INTEGER NOT NULL,
    seq        INTEGER NOT NULL CHECK (seq >= 0),
    stage      TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    outcome    TEXT,
    detail     TEXT,
    PRIMARY KEY (job, attempt, seq),
    FOREIGN KEY (job, attempt) REFERENCES attempts (job, attempt) ON DELETE CASCADE
) STRICT;

CREATE TABLE log_chunks (
    job          BLOB    NOT NULL,
    attempt      INTEGER NOT NULL,
    seq          INTEGER NOT NULL CHECK (seq >= 0),
    stream       TEXT    NOT NULL CHECK (stream IN ('stdout', 'stderr', 'system')),
    start_offset INTEGER NOT NULL CHECK (start_offset >= 0),
    end_offset   INTEGER NOT NULL CHECK (end_offset >= start_offset),
    spool_end    INTEGER NOT NULL CHECK (spool_end >= 0),
    at           INTEGER NOT NULL,
    -- CRC-32 (IEEE) of the bytes before compression.
    crc          INTEGER NOT NULL,
    -- One zstd frame.
    data         BLOB    NOT NULL,
    PRIMARY KEY (job, attempt, seq),
    FOREIGN KEY (job, attempt) REFERENCES attempts (job, attempt) ON DELETE CASCADE
) STRICT;

-- Where a reader goes on.
CREATE INDEX log_chunks_offset ON log_chunks (job, attempt, end_offset);

CREATE TABLE completions (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    job         BLOB    NOT NULL,
    attempt     INTEGER NOT NULL,
    project     TEXT,
    repo        TEXT    NOT NULL,
    branch      TEXT,
    commit_id   TEXT,
    -- What it waits in turn with: those of one line are handed out one after the other. NULL for one that concerns no branch.
    line        TEXT,
    state       TEXT    NOT NULL CHECK (state IN ('pending', 'claimed', 'acked', 'dead')),
    -- Since when it may be handed out; NULL when it may not: it is not pending, or it is not the first of its line.
    visible_at  INTEGER,
    consumer    TEXT,
    -- Kept when acknowledged, so that the one who acknowledged may say so again.
    token       BLOB    CHECK (length(token) = 16),
    lease_until INTEGER,
    deliveries  INTEGER NOT NULL DEFAULT 0 CHECK (deliveries >= 0),
    last_error  TEXT,
    -- Grows along a line: its order.
    created_at  INTEGER NOT NULL,
    ended_at    INTEGER,
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
) STRICT;

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
    -- Grows with time: the order in which ends are told.
    id         BLOB    NOT NULL,
    job        BLOB    NOT NULL,
    -- NULL where it ended without one.
    attempt    INTEGER,
    state      TEXT    NOT NULL CHECK (state IN ('succeeded', 'failed', 'cancelled')),
    created_at INTEGER NOT NULL,
    sent_at    INTEGER,
    PRIMARY KEY (job, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_unsent ON outbox (id) WHERE sent_at IS NULL;

CREATE TABLE workers (
    id              TEXT    NOT NULL PRIMARY KEY,
    host            TEXT    NOT NULL,
    version         TEXT    NOT NULL,
    pid             INTEGER NOT NULL,
    boot_id         TEXT    NOT NULL,
    -- What a worker says of itself and nobody queries by: JSON.
    labels          TEXT    NOT NULL,
    backends        TEXT    NOT NULL,
    slots           TEXT    NOT NULL,
    pressure        TEXT    NOT NULL,
    claiming        TEXT    NOT NULL,
    phase           TEXT    NOT NULL CHECK (phase IN ('running', 'draining', 'stopped')),
    report_ms       INTEGER NOT NULL CHECK (report_ms > 0),
    started_at      INTEGER NOT NULL,
    seen_at         INTEGER NOT NULL,
    -- What operators ask of it: a report leaves these as they are.
    drain_asked_at  INTEGER,
    drain_asked_by  TEXT,
    drain_reason    TEXT,
    CHECK ((drain_asked_at IS NULL) = (drain_asked_by IS NULL)),
    CHECK ((drain_asked_at IS NULL) = (drain_reason IS NULL))
) STRICT;

-- What backends draw on and what is used up for now, or was when it was last tried.
CREATE TABLE pauses (
    credential  TEXT    NOT NULL PRIMARY KEY,
    since       INTEGER NOT NULL,
    until       INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    -- How often in a row.
    times       INTEGER NOT NULL CHECK (times >= 1),
    -- 1 when the end is what was told, and no guess.
    reset_known INTEGER NOT NULL CHECK (reset_known IN (0, 1))
) STRICT;

-- What was used, summed up by whom it counts for and by the day of UTC (since 1970-01-01). It stays when attempts are removed.
CREATE TABLE spending (
    scope             TEXT    NOT NULL CHECK (scope IN ('execution', 'project')),
    name              TEXT    NOT NULL,
    day               INTEGER NOT NULL,
    attempts          INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost_micro_usd    INTEGER NOT NULL,
    PRIMARY KEY (scope, name, day)
) STRICT;

-- What attempts kept beyond their workspaces, and what they were to keep and could not.
CREATE TABLE artifacts (
    job     BLOB    NOT NULL,
    attempt INTEGER NOT NULL,
    seq     INTEGER NOT NULL CHECK (seq >= 0),
    body    TEXT    NOT NULL,
    PRIMARY KEY (job, attempt, seq),
    FOREIGN KEY (job, attempt) REFERENCES attempts (job, attempt) ON DELETE CASCADE
) STRICT;

-- Where an attempt may have written objects: there before the first of them, and until they are removed, which is after the job
-- has gone.
CREATE TABLE artifact_sets (
    job        BLOB    NOT NULL,
    attempt    INTEGER NOT NULL,
    place      TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (job, attempt, place)
) STRICT;

CREATE INDEX artifact_sets_place ON artifact_sets (place, created_at, job, attempt);

-- What one process at a time does for all: who, and until when nobody else takes it over.
CREATE TABLE duties (
    name   TEXT    NOT NULL PRIMARY KEY,
    holder BLOB    NOT NULL,
    until  INTEGER NOT NULL
) STRICT;

CREATE TRIGGER remove_with_job AFTER DELETE ON jobs BEGIN
    DELETE FROM attempts WHERE job = OLD.id;
    DELETE FROM outbox WHERE job = OLD.id;
END;
