//! Figures for a person to read: `cargo test sandbox::measure -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::{Slot, status_of};

#[tokio::test]
#[ignore = "a measurement"]
async fn the_size_of_an_idle_supervisor_and_the_time_to_start_and_to_end_a_command() {
    let slot = Slot::open().await;
    let size = |when: &str| {
        let status = status_of(slot.supervisor_pid());
        let of = |key: &str| status[key].clone();
        println!("{when}: VmRSS {}, RssAnon {}, RssFile {}", of("VmRSS"), of("RssAnon"), of("RssFile"));
    };
    size("fresh");
    let (mut started, mut finished, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..300 {
        let mut command = slot.script(&format!("quick-{number}"), "");
        command.argv = vec!["true".to_owned()];
        let asked = Instant::now();
        slot.supervisor.start(&command).await.unwrap();
        started.push(asked.elapsed());
        slot.supervisor.wait(&command.id).await.unwrap();
        finished.push(asked.elapsed());
        slot.supervisor.collect(&command.id).await.unwrap();
    }
    size("after 300 commands");
    for number in 0..50 {
        let command = slot.script(&format!("tree-{number}"), "for i in 1 2 3 4 5; do setsid sleep 1000 & done; wait");
        slot.supervisor.start(&command).await.unwrap();
        super::until("it has its processes", || slot.job_processes().len() == 6).await;
        let asked = Instant::now();
        slot.supervisor.stop(&command.id).await.unwrap();
        slot.supervisor.wait(&command.id).await.unwrap();
        stopped.push(asked.elapsed());
        slot.supervisor.collect(&command.id).await.unwrap();
    }
    size("after 50 trees");
    let row = |what: &str, times: &mut Vec<Duration>| {
        times.sort_unstable();
        println!("{what}: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    };
    row("start asked to exec done", &mut started);
    row("start asked to report", &mut finished);
    row("stop of six processes asked to report", &mut stopped);
}
