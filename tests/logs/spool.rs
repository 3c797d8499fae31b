//! The spool by itself.

use sawmill::logs::Spool;

#[test]
fn the_system_says_a_bounded_amount() {
    let run = tempfile::tempdir().unwrap();
    let spool = Spool::create(run.path()).unwrap();
    for _ in 0..400 {
        spool.say(&"é".repeat(10_000));
    }
    let said = std::fs::read_to_string(run.path().join("system.log")).unwrap();
    assert!(said.len() <= 1024 * 1024 && said.len() > 1000 * 1024, "{} bytes were said", said.len());
    assert!(said.lines().all(|line| line.len() < 4200));
    assert!(said.ends_with("this is the last line\n"));
}

#[test]
fn a_new_spool_takes_the_place_of_an_old_one() {
    let run = tempfile::tempdir().unwrap();
    let spool = Spool::create(run.path()).unwrap();
    spool.say("old");
    std::fs::write(spool.stdout(), "old").unwrap();
    Spool::open(run.path()).unwrap().say("still there");
    assert_eq!(std::fs::read_to_string(run.path().join("system.log")).unwrap(), "0 0 sawmill: old\n3 0 sawmill: still there\n");
    let spool = Spool::create(run.path()).unwrap();
    assert_eq!(std::fs::read(spool.stdout()).unwrap(), b"");
    assert_eq!(std::fs::read(run.path().join("system.log")).unwrap(), b"");
}
