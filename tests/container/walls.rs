//! What a job in a container cannot see, reach or do.

use std::fs;

use sawmill::sandbox::End;

use super::{Yard, fields};

#[tokio::test]
async fn a_job_has_no_privilege_and_cannot_get_one() {
    let yard = Yard::open().await;
    let guest = yard.take(0).await;
    let (_, said) = guest.run("cat /proc/self/status").await;
    let status = fields(&said);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    assert_eq!((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"));
    let own = nix::unistd::getuid().to_string();
    assert_eq!(status["Uid"].split('\t').collect::<Vec<_>>(), [own.as_str(); 4]);
    assert_eq!(status["Groups"], "");
    for forbidden in [
        "chown 1234 file",
        "mount -t tmpfs none /tmp",
        "mknod /tmp/disk b 254 0",
        "chroot / true",
        "hostname other",
        "nice -n -5 true",
        "ip link add x type dummy",
        "echo x > /proc/sys/kernel/hostname",
        "echo 1 > /sys/fs/cgroup/cgroup.procs || echo 1 > /sys/fs/cgroup/pids/cgroup.procs",
        "touch /new",
        "touch /bin/new",
        "touch /etc/new",
    ] {
        let (report, said) = guest.run(&format!("touch file; {forbidden}")).await;
        assert!(matches!(report.end, End::Exited(status) if status != 0), "{forbidden} worked: {said}");
    }
    guest.leave();
    yard.close().await;
}

#[tokio::test]
async fn a_job_sees_its_slot_and_nothing_else_of_the_host() {
    let yard = Yard::open().await;
    let mirror = yard.root.path().join("mirrors/own.git/objects");
    let other = yard.root.path().join("mirrors/other.git/objects");
    for dir in [&mirror, &other] {
        fs::create_dir_all(dir).expect("a mirror");
        fs::write(dir.join("object"), "content").expect("an object");
    }
    fs::create_dir_all(yard.root.path().join("slots/0/run")).expect("a directory");
    fs::write(yard.root.path().join("slots/0/run/attempt.json"), "{}").expect("a journal");
    yard.wish(1);
    fs::write(yard.job_dir(1).join("tree/theirs"), "x").expect("a file");
    let mut wish = yard.wish(0);
    wish.objects = vec![mirror.clone()];
    let lodging = yard.containers.take(&wish).await.expect("a container");
    let guest = super::Guest { yard: &yard, slot: 0, supervisor: lodging.container.supervisor(), lodging };

    let state = yard.root.path().display();
    let (_, said) = guest.run(&format!("cat {state}/mirrors/own.git/objects/object")).await;
    assert_eq!(said, "content", "what its view borrows is there");
    for hidden in [
        format!("echo x > {state}/mirrors/own.git/objects/object"),
        format!("rm -f {state}/mirrors/own.git/objects/object"),
        format!("ls {state}/mirrors/other.git"),
        format!("ls {state}/slots"),
        format!("ls {state}/containers"),
        "ls /workspace/../slots".to_owned(),
        "cat /workspace/../run/attempt.json".to_owned(),
        "ls /workspace/host.git".to_owned(),
        "ls /var/run/docker.sock".to_owned(),
        "ls /run/docker.sock".to_owned(),
        "ls /run/sawmill".to_owned(),
        "ls /run/sawmill/sup/sock".to_owned(),
        "echo x > /usr/libexec/sawmill/sawmill".to_owned(),
        "rm -f /usr/libexec/sawmill/sawmill".to_owned(),
        "touch /usr/libexec/sawmill/new".to_owned(),
        "cat /proc/1/fd/1".to_owned(),
        "readlink /proc/1/fd/3".to_owned(),
        "readlink /proc/1/cwd".to_owned(),
        "ls /proc/1/root/".to_owned(),
        "cat /proc/1/environ".to_owned(),
        "cat /proc/1/mem".to_owned(),
        "ls /proc/1/cwd/".to_owned(),
    ] {
        let (report, said) = guest.run(&hidden).await;
        assert!(matches!(report.end, End::Exited(status) if status != 0), "{hidden} worked: {said}");
    }
    assert_eq!(fs::read_to_string(mirror.join("object")).expect("the object"), "content");

    let (_, said) = guest.run("env").await;
    let mut names: Vec<&str> = said.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "PATH", "PWD", "SAWMILL_COMMAND", "SHLVL"], "what it was given, and what a shell adds");
    guest.leave();
    yard.close().await;
}

#[tokio::test]
async fn without_a_network_a_job_reaches_nothing_but_itself() {
    let yard = Yard::open().await;
    let guest = yard.take(0).await;
    let (_, said) = guest.run("ls /sys/class/net").await;
    let devices: Vec<&str> = said.split_whitespace().collect();
    assert!(devices.contains(&"lo") && !devices.contains(&"eth0"), "{devices:?}");
    for address in ["169.254.169.254 80", "172.17.0.1 22", "10.0.0.1 80", "1.1.1.1 53"] {
        let (report, said) = guest.run(&format!("nc -w 3 {address} < /dev/null")).await;
        assert!(matches!(report.end, End::Exited(status) if status != 0), "{address} was reached: {said}");
    }
    let (_, said) = guest
        .run("nc -l -p 7777 > /tmp/heard & until echo hi | nc -w 1 127.0.0.1 7777 2> /dev/null; do sleep 0.1; done; wait; cat /tmp/heard")
        .await;
    assert_eq!(said, "hi\n", "a server of its own it reaches");
    guest.leave();
    yard.close().await;
}
