//! Images that the supervisor finds nothing in: it brings what it needs, and takes nothing of theirs.

use std::collections::BTreeSet;

use bollard::query_parameters::RemoveImageOptionsBuilder;
use sawmill::sandbox::container::{Images, Plan};
use sawmill::sandbox::{CommandSpec, End};
use uuid::Uuid;

use super::{Guest, LONG, Yard, directory, image, own_ids};

/// A job works in it, and this program starts in it as the job's user, which is how agents are run.
async fn works(guest: &Guest<'_>) {
    let (report, said) = guest.run("echo \"$(id -u) $(id -g)\"; exit 3").await;
    assert_eq!((report.end, said), (End::Exited(3), format!("{}\n", own_ids())));
    let mut argv = guest.lodging.container.program();
    argv.push("version".to_owned());
    let command = CommandSpec { argv, ..guest.script("") };
    guest.supervisor.start(&command).await.expect("a start");
    let report = guest.supervisor.wait(&command.id).await.expect("a report");
    let said = std::fs::read_to_string(&command.stdout).expect("its output");
    assert_eq!(report.end, End::Exited(0), "{said}");
    assert!(said.contains(&format!("sawmill {}", env!("CARGO_PKG_VERSION"))), "{said}");
    guest.supervisor.collect(&command.id).await.expect("collected");
}

#[tokio::test]
async fn the_supervisor_starts_in_an_image_without_any_library() {
    let bare = image::bare().await;
    let yard = Yard::with(|config| config.image = bare).await;
    let guest = yard.take(0).await;
    let (_, libraries) = guest.run("find / -xdev -name 'lib*.so*' -o -xdev -name 'ld-*'").await;
    let of_image: Vec<_> = libraries.lines().filter(|path| !path.starts_with("/usr/libexec/sawmill/")).collect();
    assert_eq!(of_image, Vec::<&str>::new(), "it is a trial only without any");
    works(&guest).await;
    guest.leave();
    yard.close().await;
}

/// What stands where programs look for their loader and C library is neither; and the image's environment names more of that kind.
#[tokio::test]
async fn the_supervisor_takes_nothing_of_an_image_whose_c_library_is_spoilt() {
    let images = Images::connect(&image::socket()).await.expect("the engine answers");
    let spoil = "for name in lib64/ld-linux-x86-64.so.2 lib/x86_64-linux-gnu/libc.so.6 lib/libc.so.6 lib/ld-musl-x86_64.so.1 \
                 usr/lib/libgcc_s.so.1 usr/lib/x86_64-linux-gnu/libm.so.6; do \
                 mkdir -p /$(dirname $name) && echo no library > /$name && chmod 755 /$name; done";
    let variables = "LD_PRELOAD=/lib/libc.so.6 LD_LIBRARY_PATH=/lib:/usr/lib LD_AUDIT=/lib/libc.so.6";
    let plan = Plan {
        name: format!("sawmill-test-{}", Uuid::new_v4().simple()),
        dockerfile: format!("ARG BASE\nFROM ${{BASE}}\nRUN {spoil}\nENV {variables}\n"),
        base: image::bare().await,
        certificates: None,
    };
    let built = images.build(&plan, |_| ()).await.expect("built");
    let yard = Yard::with(|config| config.image = built.digest.clone()).await;
    let guest = yard.take(0).await;
    let names: BTreeSet<&str> = guest.lodging.env.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.is_superset(&["LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT"].into()), "the job has them all the same: {names:?}");
    works(&guest).await;
    guest.leave();
    yard.close().await;
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    image::docker().await.remove_image(&built.digest, Some(options), None).await.expect("removed");
}

/// What does not become a supervisor is told with its last words, and leaves no container.
#[tokio::test]
async fn what_does_not_become_a_supervisor_is_told_with_its_last_words() {
    let yard = Yard::of(directory(), "/bin/busybox", LONG, |_| ()).await;
    let error = yard.containers.take(&yard.wish(0)).await.expect_err("that is no supervisor").to_string();
    assert!(error.starts_with("the supervisor does not start in a container of image sha256:"), "{error}");
    assert!(error.contains("it ended with status 127: sawmill: applet not found"), "{error}");
    yard.close().await;
}
