//! What the room costs beyond the bare commands of a script. Run with `--ignored --nocapture`, in release, to read the figures.

use std::time::{Duration, Instant};

use super::fixture::{Place, branch, committed, run, write};

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

fn seeded() -> Place {
    let place = Place::new();
    place.seed(|seed| {
        for number in 0..230 {
            let lines: String = (0..60).map(|line| format!("{number} {line} some text\n")).collect();
            write(seed, &format!("dir{}/file{number}.txt", number % 12), lines);
        }
    });
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn the_steps_of_a_job_against_a_script() {
    const ROUNDS: usize = 60;
    let place = seeded();
    place.mirror.resolve("main").await.expect("main");
    let remote = place.remote_dir().display().to_string();
    let mut steps: [(&str, Vec<Duration>); 6] =
        ["resolve(id)", "resolve(ref)", "provision", "commit", "push", "discard"].map(|name| (name, Vec::new()));
    let (mut whole, mut script) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut mark = Instant::now();
        let begun = mark;
        let mut lap = |step: usize| {
            steps[step].1.push(mark.elapsed());
            mark = Instant::now();
        };
        let base = place.mirror.resolve("main").await.expect("main");
        lap(1);
        place.mirror.resolve(base.as_str()).await.expect("known");
        lap(0);
        let name = branch(&format!("ours/{round}"));
        let worktree = place.mirror.provision(&base, &name, &place.slot("1")).await.expect("a worktree");
        lap(2);
        write(worktree.tree(), "dir1/file1.txt", format!("changed {round}\n"));
        let made = committed(&worktree).await;
        lap(3);
        worktree.push(&made.commit, &name).await.expect("pushed");
        lap(4);
        worktree.discard(&place.trash()).await.expect("discarded");
        lap(5);
        whole.push(begun.elapsed());

        let begun = Instant::now();
        let (mirror, tree) = (place.mirror.directory(), place.root.path().join("script"));
        let name = format!("script/{round}");
        run(mirror, ["ls-remote", &remote, "refs/heads/main"]);
        run(mirror, ["worktree", "add", "--quiet", "--no-track", "-b", &name, tree.to_str().expect("UTF-8"), base.as_str()]);
        write(&tree, "dir1/file1.txt", format!("changed by script {round}\n"));
        run(&tree, ["add", "-A"]);
        run(&tree, ["commit", "--quiet", "-m", "x"]);
        run(&tree, ["diff", "--numstat", "HEAD^", "HEAD"]);
        run(&tree, ["push", "--quiet", &remote, &format!("HEAD:refs/heads/{name}")]);
        script.push(begun.elapsed());
        run(mirror, ["worktree", "remove", "--force", tree.to_str().expect("UTF-8")]);
    }
    for (name, times) in steps {
        println!("{name:14} {:7.2} ms", median(times));
    }
    println!("{:14} {:7.2} ms", "whole", median(whole));
    println!("{:14} {:7.2} ms", "script", median(script));
}
