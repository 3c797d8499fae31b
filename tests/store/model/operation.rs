//! What can be done to a queue. Numbers name what is there, modulo how much there is.

use proptest::prelude::*;
use sawmill::job::OutcomeClass;
use sawmill::job::spec::Priority;

/// A job to enqueue.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) priority: Priority,
    /// One of two projects.
    pub(super) project: Option<u8>,
    /// One of two keys, with the limit that the job names.
    pub(super) key: Option<(u8, u32)>,
    /// Whether only some workers can run it.
    pub(super) picky: bool,
    /// How many jobs back are those that it waits for.
    pub(super) after: Vec<u8>,
    /// How many jobs back is the one whose commit it starts from.
    pub(super) base_from: Option<u8>,
    /// Whether the failure of those ends it too.
    pub(super) cascade: bool,
    pub(super) start_by: bool,
    pub(super) scheduled: bool,
    /// One of two idempotency keys, with one of two documents.
    pub(super) idempotency: Option<(u8, u8)>,
    pub(super) attempts: u32,
}

#[derive(Debug, Clone)]
pub(super) enum Operation {
    Enqueue(Ask),
    /// A worker, which can run picky jobs or not, claims so many.
    Claim {
        picky: bool,
        limit: u32,
    },
    /// A claim, old or new, is ended; it may deliver on one of two branches or on none.
    Finish {
        claim: u8,
        class: OutcomeClass,
        deliver: Option<Option<u8>>,
        pause: bool,
        used: Option<u8>,
    },
    /// Its attempt says what it has used so far.
    Say {
        claim: u8,
        used: u8,
    },
    Renew {
        claim: u8,
    },
    /// The lease of a claim runs out, and somebody takes note.
    Expire {
        claim: u8,
    },
    /// The time of a job that waits for it comes.
    Promote {
        job: u8,
    },
    /// The time by which a job had to start is over.
    MissStart {
        job: u8,
    },
    Cancel {
        job: u8,
    },
    Retry {
        job: u8,
    },
    Requeue {
        job: u8,
    },
    CancelProject {
        project: u8,
    },
    RetryAll,
    /// The question of a job is answered, where it asks one.
    Answer {
        job: u8,
    },
    /// The pause of the credential is lifted, and whoever waited for it has come.
    LiftPause,
    /// A project may run so many at once, or any number.
    Limit {
        project: u8,
        running: Option<u32>,
    },
    ClaimCompletions {
        limit: u32,
    },
    Ack {
        completion: u8,
    },
    Nack {
        completion: u8,
        dead: bool,
    },
    RenewCompletion {
        completion: u8,
    },
    ExpireCompletion {
        completion: u8,
    },
    RequeueCompletion {
        completion: u8,
    },
}

fn ask() -> impl Strategy<Value = Ask> {
    let priority = prop_oneof![3 => Just(Priority::Normal), 1 => Just(Priority::Interactive), 1 => Just(Priority::Background)];
    let whose = (prop::option::of(0..2_u8), prop::option::of((0..2_u8, 1..3_u32)), prop::bool::weighted(0.2));
    let needs = (
        prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(0..6_u8, 1..4)],
        prop::option::weighted(0.15, 0..6_u8),
        prop::bool::weighted(0.7),
    );
    let times = (prop::bool::weighted(0.2), prop::bool::weighted(0.15));
    let idempotency = prop::option::weighted(0.15, (0..2_u8, 0..2_u8));
    (priority, whose, needs, times, idempotency, 1..4_u32).prop_map(
        |(priority, (project, key, picky), (after, base_from, cascade), (start_by, scheduled), idempotency, attempts)| Ask {
            priority,
            // A limit that lets back one whom no worker can run lets back the next one at the next look only.
            project: project.filter(|_| !picky),
            key: key.filter(|_| !picky),
            picky,
            after,
            base_from,
            cascade,
            start_by,
            scheduled,
            idempotency,
            attempts,
        },
    )
}

fn class() -> impl Strategy<Value = OutcomeClass> {
    use OutcomeClass as C;
    let others = [C::NoChange, C::Gate, C::Timeout, C::OutOfMemory, C::OutOfDisk, C::Conflict, C::Invalid, C::Cancelled];
    prop_oneof![
        6 => Just(C::Succeeded),
        3 => Just(C::Backend),
        2 => Just(C::Infrastructure),
        2 => Just(C::Released),
        1 => Just(C::UsageLimit),
        1 => Just(C::Clarification),
        2 => prop::sample::select(others.to_vec()),
    ]
}

pub(super) fn operation() -> impl Strategy<Value = Operation> {
    use Operation as O;
    let any = || 0..16_u8;
    let deliver = prop::option::weighted(0.7, prop::option::weighted(0.8, 0..2_u8));
    let finish = (any(), class(), deliver, prop::bool::weighted(0.1), prop::option::weighted(0.4, 0..9_u8));
    prop_oneof![
        10 => ask().prop_map(O::Enqueue),
        8 => (prop::bool::weighted(0.7), 1..6_u32).prop_map(|(picky, limit)| O::Claim { picky, limit }),
        10 => finish.prop_map(|(claim, class, deliver, pause, used)| O::Finish { claim, class, deliver, pause, used }),
        4 => (any(), 0..9_u8).prop_map(|(claim, used)| O::Say { claim, used }),
        1 => any().prop_map(|claim| O::Renew { claim }),
        2 => any().prop_map(|claim| O::Expire { claim }),
        3 => any().prop_map(|job| O::Promote { job }),
        1 => any().prop_map(|job| O::MissStart { job }),
        2 => any().prop_map(|job| O::Cancel { job }),
        3 => any().prop_map(|job| O::Retry { job }),
        2 => any().prop_map(|job| O::Requeue { job }),
        1 => (0..2_u8).prop_map(|project| O::CancelProject { project }),
        1 => Just(O::RetryAll),
        1 => Just(O::LiftPause),
        2 => any().prop_map(|job| O::Answer { job }),
        2 => (0..2_u8, prop::option::of(1..3_u32)).prop_map(|(project, running)| O::Limit { project, running }),
        2 => (1..4_u32).prop_map(|limit| O::ClaimCompletions { limit }),
        2 => any().prop_map(|completion| O::Ack { completion }),
        2 => (any(), prop::bool::weighted(0.3)).prop_map(|(completion, dead)| O::Nack { completion, dead }),
        1 => any().prop_map(|completion| O::RenewCompletion { completion }),
        1 => any().prop_map(|completion| O::ExpireCompletion { completion }),
        1 => any().prop_map(|completion| O::RequeueCompletion { completion }),
    ]
}
