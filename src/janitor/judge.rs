//! Whether a thing goes: from what explains it, and from whether its owner lives.

use serde::Serialize;

use super::owned::{Kind, Lease, Owned, Owner};
use super::process::{Life, Process};

/// Who is the master of a state directory while it is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Master {
    /// We are: its daemon looks itself, and holds its lock.
    Own,
    /// We are for as long as we look: nobody held its lock. The last daemon of it, where that is known.
    Visitor(Option<Process>),
    /// Another process, which holds its lock now.
    Another(Option<Process>),
}

/// Whether what goes is removed, or only said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is changed.
    List,
    /// It is removed.
    Apply,
}

/// What becomes of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It stays.
    Stays,
    /// It would be removed.
    Goes,
    /// It was removed.
    Removed,
    /// It could not be removed.
    Failed,
}

/// A thing with the judgement on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What sort of thing.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Whose it is, in words.
    pub owner: String,
    /// What becomes of it.
    pub fate: Fate,
    /// Why.
    pub why: String,
    /// What it takes on the disk, where that is known.
    pub bytes: Option<u64>,
}

/// Judges a thing: [`Fate::Goes`] or [`Fate::Stays`].
#[must_use]
pub fn judge(owned: &Owned, master: &Master) -> Finding {
    let (fate, why) = match &owned.lease {
        Lease::Held(by) => (Fate::Stays, by.clone()),
        Lease::Unknown(why) => (Fate::Stays, format!("it cannot be told whether it is still needed: {why}")),
        Lease::Over(why) => match life(&owned.owner, master) {
            Life::Lives => (Fate::Stays, "its daemon lives, and looks after it".to_owned()),
            Life::Unknown(doubt) => (Fate::Stays, format!("it cannot be proven that its owner is dead: {doubt}")),
            Life::Dead(proof) => (Fate::Goes, format!("{why}; {proof}")),
        },
    };
    let Owned { kind, name, bytes, .. } = owned;
    Finding { kind: *kind, name: name.clone(), owner: in_words(&owned.owner, master), fate, why, bytes: *bytes }
}

fn life(owner: &Owner, master: &Master) -> Life {
    match (master, owner) {
        (Master::Another(_), _) => Life::Lives,
        (_, Owner::Process(process)) => process.life(),
        (Master::Own, Owner::Directory) => Life::Dead("this daemon alone holds the directory's lock".to_owned()),
        (Master::Visitor(Some(last)), Owner::Directory) => last.life(),
        (Master::Visitor(None), Owner::Directory) => {
            Life::Unknown("no daemon has left its name in the directory's lock".to_owned())
        }
    }
}

fn in_words(owner: &Owner, master: &Master) -> String {
    let process = match (owner, master) {
        (Owner::Process(process), _) => Some(process),
        (Owner::Directory, Master::Visitor(last) | Master::Another(last)) => last.as_ref(),
        (Owner::Directory, Master::Own) => None,
    };
    process.map_or_else(
        || "a daemon of this directory".to_owned(),
        |process| format!("daemon {} on {}", process.pid, if process.host.is_empty() { "this host" } else { &process.host }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_goes_only_without_a_lease_and_with_a_dead_owner() {
        let own = Process::own();
        let dead = Process { began: own.began - 1, ..own.clone() };
        let away = Process { host: "elsewhere".to_owned(), boot: "another".to_owned(), ..own.clone() };
        let over = || Lease::Over("no claim names it".to_owned());
        let check = |lease: Lease, owner: Owner, master: Master, expected: Fate| {
            let owned = Owned { kind: Kind::Slot, name: "slots/0".to_owned(), owner, lease, bytes: None };
            let found = judge(&owned, &master);
            assert_eq!(found.fate, expected, "{found:?} {master:?}");
        };
        check(over(), Owner::Directory, Master::Own, Fate::Goes);
        check(over(), Owner::Directory, Master::Visitor(Some(dead.clone())), Fate::Goes);
        check(over(), Owner::Process(dead.clone()), Master::Own, Fate::Goes);
        // One of these is missing.
        check(Lease::Held("job 7".to_owned()), Owner::Directory, Master::Own, Fate::Stays);
        check(Lease::Unknown("no database".to_owned()), Owner::Directory, Master::Own, Fate::Stays);
        check(over(), Owner::Process(own.clone()), Master::Own, Fate::Stays);
        check(over(), Owner::Directory, Master::Visitor(Some(own.clone())), Fate::Stays);
        check(over(), Owner::Directory, Master::Visitor(Some(away)), Fate::Stays);
        check(over(), Owner::Directory, Master::Visitor(None), Fate::Stays);
        check(over(), Owner::Directory, Master::Another(Some(own)), Fate::Stays);
        check(over(), Owner::Process(dead), Master::Another(None), Fate::Stays);
    }
}
